"""Socket activation: sockets that systemd opened serve a listener in place of its `bind`."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING

from spliceproxy.control.addresses import Place, place_of
from spliceproxy.control.options import apply_options
from spliceproxy.control.sockets import ListeningSocket, join_group
from spliceproxy.control.systemd import Handed
from spliceproxy.errors import BindError

if TYPE_CHECKING:
    from spliceproxy.config import Listener

_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


class Activation:
    """The sockets handed over, until each has found its listener."""

    def __init__(self, handed: Iterable[Handed], listeners: Iterable[Listener]) -> None:
        names = {listener.name for listener in listeners}
        self._named: dict[str, list[Handed]] = {}
        self._others: list[Handed] = []
        for one in handed:
            if one.name in names:
                self._named.setdefault(one.name, []).append(one)
            else:
                self._others.append(one)

    def take_named(self, listener: str) -> list[Handed]:
        """The sockets that carry the name of a listener."""
        return self._named.pop(listener, [])

    def take_at(self, places: list[Place]) -> tuple[list[Handed], list[Place]]:
        """The unnamed sockets that are bound to one of `places`, and the places left over."""
        found, left = [], []
        for place in places:
            here = [one for one in self._others if _covers(one.sock, place)]
            found += [one for one in here if one not in found]
            left += [] if here else [place]
        self._others = [one for one in self._others if one not in found]
        return found, left

    def close_unused(self) -> list[str]:
        """Close what no listener took; one line about each."""
        unused = [*self._others, *(one for named in self._named.values() for one in named)]
        lines = []
        for one in unused:
            lines.append(
                f"{_describe(one)}: no listener has this name or address; "
                "FileDescriptorName= in its socket unit says which listener it is for"
            )
            one.sock.close()
        self._others, self._named = [], {}
        return lines


def adopt(handed: Handed, listener: Listener, workers: int) -> list[ListeningSocket]:
    """Make a handed-over socket serve `listener`, whose options it gets.

    On TCP it grows a group, so that each worker has a queue of its own; where that is not
    possible, and on UNIX, all workers share the one socket. It is closed where this fails.
    Raises BindError.
    """
    sock = handed.sock
    try:
        if not _accepts_streams(sock):
            raise BindError(f"{_describe(handed)}: not a listening stream socket")
        apply_options(sock, listener.tcp, f"listeners.{listener.name}.tcp")
        group, owner = _grow(sock, listener, workers)
    except BaseException:
        sock.close()
        raise
    first = ListeningSocket(listener.name, sock, owner, listener.tcp.backlog, handed=True)
    return [first, *group]


def _grow(
    sock: socket.socket, listener: Listener, workers: int
) -> tuple[list[ListeningSocket], int | None]:
    """The sockets beside `sock`, and its own owner: None where it must be shared."""
    if sock.family == socket.AF_UNIX:
        return [], None
    v6only = sock.family != socket.AF_INET6 or _v6only(sock)
    try:
        return join_group(listener, sock, range(1, workers), v6only), 0
    except OSError:
        # Another uid that we may not take on, or a privileged port.
        return [], None


def _accepts_streams(sock: socket.socket) -> bool:
    return (
        sock.family in _FAMILIES
        and sock.type == socket.SOCK_STREAM
        and bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    )


def _covers(sock: socket.socket, place: Place) -> bool:
    """Whether `sock` is bound to `place`; the IPv6 wildcard may take IPv4 as well."""
    if sock.family not in _FAMILIES:
        return False
    here = place_of(sock)
    if here == place:
        return True
    both = sock.family == socket.AF_INET6 and not _v6only(sock)
    return both and here.host == "::" and place == Place(socket.AF_INET, ("0.0.0.0", here.port))


def _v6only(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))


def _describe(handed: Handed) -> str:
    name = f" {handed.name}" if handed.name else ""
    where = f" at {place_of(handed.sock)}" if handed.sock.family in _FAMILIES else ""
    return f"the socket{name}{where} that systemd handed over"
