"""The listening sockets, which the supervisor binds and keeps open for as long as it lives.

TCP has one socket per address and worker. SO_REUSEPORT alone would remove the "already running"
error: a second instance would silently take a share of the clients. So the first socket is bound
without it, where a conflict is found, gets it afterwards, and the rest of the group is bound with
it. SO_REUSEADDR does not weaken that: it forgives connections in TIME_WAIT, never a listener.

A UNIX address has one socket, which all workers share.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from spliceproxy.control.addresses import Place, place_of
from spliceproxy.control.options import apply_options
from spliceproxy.control.retire import refuse_new_clients
from spliceproxy.errors import SpliceproxyError

if TYPE_CHECKING:
    from spliceproxy.config import Address, Listener

_log = structlog.get_logger()

_numbers = itertools.count(1)

SocketKey = tuple[str, str]
"""An address as the configuration says it, and, as several listeners may ask for any free port, the
listener of one that does."""


class SocketFile:
    """The file of a bound UNIX socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity = _identity(path)

    @classmethod
    def existing(cls, path: Path) -> SocketFile | None:
        """The file that another process bound; None where somebody has removed it."""
        try:
            return cls(path)
        except OSError:
            return None

    def remove(self) -> None:
        """Remove it, unless somebody else's is there by now, or the directory is not ours."""
        with suppress(OSError):
            if _identity(self._path) == self._identity:
                self._path.unlink()


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


@dataclass(slots=True, eq=False)
class ListeningSocket:
    """One listening socket, and whose it is."""

    listener: str
    sock: socket.socket
    owner: int | None
    """The worker whose socket it is; None: every worker's (shared)."""
    backlog: int
    """Clients that may wait to be accepted."""
    handed: bool = False
    """The service manager holds it too, and it goes on queueing clients after our end."""
    address: Address | None = None
    """The address of the configuration that it is bound for; None: it was handed over by name."""
    file: SocketFile | None = None
    """What bind() left in the file system, to be removed at the end."""
    number: int = field(default_factory=lambda: next(_numbers))

    def __str__(self) -> str:
        return str(place_of(self.sock))

    @property
    def shared(self) -> bool:
        return self.owner is None

    def refuse_new_clients(self) -> bool:
        """Let nobody in who is not queued already; False: hardly anybody. Raises OSError."""
        self.remove_file()
        return refuse_new_clients(self.sock)

    def follow(self, listener: Listener) -> None:
        """Have the options of `listener`, as far as a socket that listens can get others."""
        try:
            apply_options(self.sock, listener.tcp, f"listeners.{listener.name}.tcp")
            if self.backlog != listener.tcp.backlog:
                self.backlog = listener.tcp.backlog
                self.sock.listen(self.backlog)
        except (SpliceproxyError, OSError) as error:
            _log.warning(
                "a socket option needs a restart", listener=listener.name, error=str(error)
            )

    def remove_file(self) -> None:
        """Remove the socket file, where there is one."""
        if self.file is not None:
            self.file.remove()
            self.file = None

    def close(self) -> None:
        """Close our copy. A second call does nothing."""
        if self.sock.fileno() >= 0:
            self.remove_file()
            self.sock.close()


def tell_addresses(event: str, sockets: Iterable[ListeningSocket]) -> None:
    """A line of the log for each listener's address, with what happens to it."""
    for listener, address in dict.fromkeys((one.listener, str(one)) for one in sockets):
        _log.info(event, listener=listener, address=address)


def socket_key(address: Address, listener: str) -> SocketKey:
    """What the sockets of an address are known by, over reloads and upgrades."""
    return str(address), "" if address.port or address.is_unix else listener


def bind(listener: Listener, place: Place, workers: int) -> list[ListeningSocket]:
    """Bind one place for all workers; nobody is let in yet.

    Raises OSError, and BindError for an option that could not be set.
    """
    if place.family == socket.AF_UNIX:
        return [_bind_unix(listener, place)]
    first = new_socket(listener, place)
    group = [ListeningSocket(listener.name, first, 0, listener.tcp.backlog)]
    try:
        first.bind(place.address)
        group += join_group(listener, first, range(1, workers))
    except BaseException:
        first.close()
        raise
    return group


def join_group(
    listener: Listener, first: socket.socket, owners: Iterable[int], v6only: bool = True
) -> list[ListeningSocket]:
    """Bind one more socket to the address of `first`, which is bound, for each of `owners`.

    The kernel wants all sockets of a group to have one owner (sk_uid, the fchown of its inode).
    Raises OSError.
    """
    group: list[ListeningSocket] = []
    place, uid = place_of(first), os.fstat(first.fileno()).st_uid
    try:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for owner in owners:
            sock = new_socket(listener, place, v6only)
            group.append(ListeningSocket(listener.name, sock, owner, listener.tcp.backlog))
            if os.fstat(sock.fileno()).st_uid != uid:
                os.fchown(sock.fileno(), uid, -1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(place.address)
    except BaseException:
        for one in group:
            one.close()
        raise
    return group


def new_socket(listener: Listener, place: Place, v6only: bool = True) -> socket.socket:
    """An unbound socket with the options of `listener`. Raises BindError, OSError."""
    sock = socket.socket(place.family, socket.SOCK_STREAM)
    try:
        if place.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(v6only))
        if place.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        apply_options(sock, listener.tcp, f"listeners.{listener.name}.tcp")
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_unix(listener: Listener, place: Place) -> ListeningSocket:
    sock = new_socket(listener, place)
    try:
        file = bind_file(sock, place)
        return ListeningSocket(listener.name, sock, None, listener.tcp.backlog, file=file)
    except BaseException:
        sock.close()
        raise


def bind_file(sock: socket.socket, place: Place) -> SocketFile | None:
    """Bind `sock` to a UNIX address; the file that a dead process left behind is replaced.

    Returns the file, None for an abstract name. Raises OSError.
    """
    try:
        sock.bind(place.address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not _is_stale(place):
            raise
        Path(str(place.address)).unlink()
        sock.bind(place.address)
    return SocketFile(Path(place.address)) if isinstance(place.address, str) else None


def _is_stale(place: Place) -> bool:
    """Whether the socket file of `place` belongs to nobody any more."""
    if not isinstance(place.address, str) or not Path(place.address).is_socket():
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(place.address) == errno.ECONNREFUSED
