"""The doors: listening sockets of the admin API and of `metrics.bind`, bound before anything else
is started and closed last.

Who may come in by a UNIX socket is what the mode of its file says; what is asked of those who come
by TCP is the affair of who serves the doors (`admin/guard.py`).
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from spliceproxy.control.addresses import Place, place_of, places_to_bind
from spliceproxy.control.bind_errors import explain_place
from spliceproxy.control.machine import has_ipv6
from spliceproxy.control.sockets import SocketFile, bind_file
from spliceproxy.errors import BindError
from spliceproxy.runtime import default_admin_path

if TYPE_CHECKING:
    from spliceproxy.config import Address, Config

_log = structlog.get_logger()

_MODE = 0o600
_BACKLOG = 128
"""Who comes while an upgrade hands a door over waits here."""

Inherited = Callable[[str], socket.socket | None]
"""The listening socket of a door with this key, where another process left one."""


class Door:
    """One listening socket."""

    def __init__(self, key: str, sock: socket.socket, *, metrics: bool) -> None:
        """Takes over `sock`, which is another process's until `take` where it is inherited."""
        self.key = key
        """What it is known by over an upgrade: its place, or the address of the configuration where
        that leaves the port open."""
        self.sock = sock
        self.metrics = metrics
        """Whether it is for /metrics and probes alone."""
        self.fd = sock.fileno()
        """Its number, also after it was closed."""
        self.place = place_of(sock)
        self.file: SocketFile | None = None

    @property
    def is_unix(self) -> bool:
        return self.sock.family == socket.AF_UNIX

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it, by TCP."""
        return bool(self.place.host) and ip_address(self.place.host).is_loopback

    def close(self) -> None:
        """Close it and remove its file. A second call does nothing."""
        if self.file is not None:
            self.file.remove()
            self.file = None
        self.sock.close()


class Doors:
    """All doors of this process."""

    def __init__(self, doors: list[Door], *, ours: bool = True) -> None:
        """Takes over `doors`; not `ours`: another process answers at some of them, until `take`."""
        self.all = doors
        self.ours = asyncio.Event()
        """Set when this process may answer there."""
        if ours:
            self.ours.set()

    def __iter__(self) -> Iterator[Door]:
        return iter(self.all)

    def take(self) -> None:
        """All are this process's now: an upgrade gave them up."""
        for door in self.all:
            if door.is_unix and door.file is None:
                door.file = SocketFile.existing(Path(str(door.place.address)))
        self.ours.set()

    def give_up(self, taken: Collection[int]) -> None:
        """Those with these fds are another process's now, and the others are closed."""
        self.ours.clear()
        for door in self.all:
            if door.fd in taken:
                door.file = None
            door.close()

    def close(self) -> None:
        """Close them and remove their files. A second call does nothing."""
        for door in self.all:
            door.close()


@contextmanager
def open_doors(config: Config, inherited: Inherited | None = None) -> Iterator[Doors]:
    """The doors of a configuration for as long as the block lasts.

    `inherited` knows the sockets of the process that this one replaces; None: it replaces nobody.

    Raises BindError with a line for each address that the configuration names and that cannot be
    had. The default one is no reason not to start: without it the log says so.
    """
    doors = Doors([], ours=inherited is None)
    try:
        _open_all(config, inherited, doors.all)
        yield doors
    finally:
        doors.close()


def _open_all(config: Config, inherited: Inherited | None, opened: list[Door]) -> None:
    problems: list[str] = []
    for section, address in _addresses(config):
        if address is None:
            opened += _open_default(inherited)
            continue
        try:
            places = _places(address)
        except OSError as error:
            problems.append(f"{section}.bind: {address}: {error.strerror}")
            continue
        for place in places:
            key = str(address) if place.any_port else str(place)
            try:
                opened.append(_open(key, place, inherited, metrics=section == "metrics"))
            except OSError as error:
                problems.append(f"{section}.bind: {address}: {explain_place(place, error)}")
    if problems:
        raise BindError("\n".join(dict.fromkeys(problems)))


def _addresses(config: Config) -> Iterator[tuple[str, Address | None]]:
    """What is bound, and the section that says so; None: the default UNIX socket."""
    for address in () if config.admin is None else config.admin.bind:
        yield "admin", address
    for address in config.metrics.bind:
        yield "metrics", address


def _places(address: Address) -> list[Place]:
    """Where an address is; `localhost` is what loopback addresses this machine has."""
    if address.host != "localhost":
        return places_to_bind(address)
    places = [Place(socket.AF_INET, ("127.0.0.1", address.port))]
    if has_ipv6():
        places.append(Place(socket.AF_INET6, ("::1", address.port, 0, 0)))
    return places


def _open(key: str, place: Place, inherited: Inherited | None, *, metrics: bool) -> Door:
    """Take what was left, or bind and listen in the place of a dead process. Raises OSError."""
    if inherited is not None and (left := inherited(key)) is not None:
        return Door(key, left, metrics=metrics)
    sock = socket.socket(place.family, socket.SOCK_STREAM)
    try:
        if place.family == socket.AF_UNIX:
            # bind() gives the file the mode of the socket's own inode (unix_bind of af_unix.c):
            # there is no moment at which others may come in.
            os.fchmod(sock.fileno(), _MODE)
        else:
            _prepare_tcp(sock, join=inherited is not None)
        file = bind_file(sock, place)
        if place.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except BaseException:
        sock.close()
        raise
    door = Door(key, sock, metrics=metrics)
    door.file = file
    try:
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except BaseException:
        door.close()
        raise
    return door


def _prepare_tcp(sock: socket.socket, *, join: bool) -> None:
    """To `join`: where the process that is replaced has :9900, this one may have 127.0.0.1:9900.

    All doors get SO_REUSEPORT for that, but without it when they are bound by the first process:
    so a second proxy fails with "in use" in place of stealing requests.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if join:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


def _open_default(inherited: Inherited | None) -> list[Door]:
    path = default_admin_path()
    if path is None:
        _tell_none("this user has no XDG_RUNTIME_DIR")
        return []
    place = Place(socket.AF_UNIX, str(path))
    try:
        path.parent.mkdir(mode=0o755, exist_ok=True)
        return [_open(str(place), place, inherited, metrics=False)]
    except OSError as error:
        why = explain_place(place, error)
        if error.errno == errno.EADDRINUSE:
            _log.warning("no door for status and drain", path=str(path), why=why)
        else:
            _tell_none(f"{path}: {why}")
        return []


def _tell_none(why: str) -> None:
    _log.info("no door for status and drain", why=why, remedy="admin: {bind: unix:/path}, or off")
