"""The socket of the operator's door: who may come in is what the mode of its file says."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from spliceproxy.control.addresses import Place
from spliceproxy.control.bind_errors import explain_place
from spliceproxy.control.sockets import SocketFile, bind_file
from spliceproxy.errors import BindError
from spliceproxy.runtime import default_admin_path

if TYPE_CHECKING:
    from spliceproxy.config import Admin

_log = structlog.get_logger()

_MODE = 0o600
_BACKLOG = 16

Inherited = Callable[[Path], socket.socket | None]
"""The listening socket at a path, where another process left one there."""


def _nothing(_path: Path) -> None:
    return None


class DoorSocket:
    """A listening UNIX socket at `path`."""

    def __init__(self, path: Path, inherited: socket.socket | None = None) -> None:
        """Bind and listen, in the place of a dead process too. Raises OSError.

        An `inherited` socket listens at `path` already, for another process until `take`.
        """
        self.path = path
        self.inherited = inherited is not None
        self.sock = inherited or socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._file: SocketFile | None = None
        self.ours = asyncio.Event()
        """Set when this process may answer there."""
        if inherited is not None:
            return
        self.ours.set()
        try:
            # bind() gives the file the mode of the socket's own inode (unix_bind of af_unix.c):
            # there is no moment at which others may come in.
            os.fchmod(self.sock.fileno(), _MODE)
            self._file = bind_file(self.sock, Place(socket.AF_UNIX, str(path)))
            self.sock.listen(_BACKLOG)
            self.sock.setblocking(False)
        except BaseException:
            self.close()
            raise

    def take(self) -> None:
        """It is this process's now: an upgrade gave it up."""
        self._file = self._file or SocketFile.existing(self.path)
        self.ours.set()

    def give_up(self) -> None:
        """It is another process's now, which answers at the same path."""
        self._file = None
        self.ours.clear()

    def close(self) -> None:
        """Close it and remove its file. A second call does nothing."""
        if self._file is not None:
            self._file.remove()
            self._file = None
        self.sock.close()


@contextmanager
def open_door(admin: Admin | None, inherited: Inherited = _nothing) -> Iterator[DoorSocket | None]:
    """The door's socket for as long as the block lasts; None where there is no door.

    `inherited` knows the socket of the process that this one replaces.

    Raises BindError where the configuration names a socket that cannot be had. The default one is
    no reason not to start: without it the log says that there is no door.
    """
    door = _bind(admin, inherited)
    try:
        yield door
    finally:
        if door is not None:
            door.close()


def _bind(admin: Admin | None, inherited: Inherited) -> DoorSocket | None:
    if admin is None:
        return None
    if admin.bind is None:
        return _bind_default(inherited)
    path = Path(admin.bind.path)
    try:
        return DoorSocket(path, inherited(path))
    except OSError as error:
        raise BindError(f"admin.bind: {admin.bind}: {_explain(path, error)}") from None


def _bind_default(inherited: Inherited) -> DoorSocket | None:
    path = default_admin_path()
    if path is None:
        _no_door("this user has no XDG_RUNTIME_DIR")
        return None
    try:
        path.parent.mkdir(mode=0o755, exist_ok=True)
        return DoorSocket(path, inherited(path))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            _log.warning("no door for status and drain", path=str(path), why=_explain(path, error))
        else:
            _no_door(f"{path}: {_explain(path, error)}")
        return None


def _no_door(why: str) -> None:
    _log.info("no door for status and drain", why=why, remedy="admin: {bind: unix:/path}, or off")


def _explain(path: Path, error: OSError) -> str:
    return explain_place(Place(socket.AF_UNIX, str(path)), error)
