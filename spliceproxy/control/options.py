"""Socket options: those of a configuration set, and explained where the kernel refuses them.

The kernel copies the options of a listening socket to every client socket accepted from it.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spliceproxy.errors import BindError

if TYPE_CHECKING:
    from spliceproxy.config import ListenerTcp, PoolTcp

_LEVEL_TCP = socket.IPPROTO_TCP


def remedy_by_capability(name: str) -> str:
    """How a process is given a capability, in the two places where proxies live."""
    return (
        f"it needs {name}: AmbientCapabilities={name} in the systemd unit, "
        f"or --cap-add {name.removeprefix('CAP_')} for a container"
    )


def apply_options(sock: socket.socket, tcp: ListenerTcp, key: str) -> None:
    """Set what `tcp` says on `sock`, before it is bound. UNIX sockets have buffers only.

    `key` is the configuration key of `tcp`, for the message. Raises BindError.
    """
    unix = sock.family == socket.AF_UNIX
    options = [*common_options(tcp, unix)]
    if tcp.defer_accept is not None and not unix:
        seconds = _seconds(tcp.defer_accept)
        options.append(Option("defer_accept", _LEVEL_TCP, socket.TCP_DEFER_ACCEPT, seconds))
    for option in options:
        problem = option.apply(sock, key)
        if problem:
            raise BindError(problem)


@dataclass(frozen=True, slots=True)
class Option:
    """One option to be set, and its key in the section `tcp`."""

    key: str
    level: int
    option: int
    value: int | bytes

    def apply(self, sock: socket.socket, key: str) -> str:
        """Set it; returns what went wrong, or nothing. `key` leads to the section."""
        try:
            sock.setsockopt(self.level, self.option, self.value)
        except OSError as error:
            return f"{key}.{self.key}: {_explain(error, self.option, self.value)}"
        return ""


def common_options(tcp: ListenerTcp | PoolTcp, unix: bool) -> Iterator[Option]:
    """The options that listeners and pools have in common; UNIX sockets have buffers only."""
    buffers = tcp.buffers
    for name, size in ((socket.SO_RCVBUF, buffers.receive), (socket.SO_SNDBUF, buffers.send)):
        if size is not None:
            yield Option("buffers", socket.SOL_SOCKET, name, size)
    if unix:
        return
    yield Option("nodelay", _LEVEL_TCP, socket.TCP_NODELAY, int(tcp.nodelay))
    if tcp.keepalive is not None:
        idle, interval = _seconds(tcp.keepalive.idle), _seconds(tcp.keepalive.interval)
        yield Option("keepalive", socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        yield Option("keepalive", _LEVEL_TCP, socket.TCP_KEEPIDLE, idle)
        yield Option("keepalive", _LEVEL_TCP, socket.TCP_KEEPINTVL, interval)
        yield Option("keepalive", _LEVEL_TCP, socket.TCP_KEEPCNT, tcp.keepalive.count)
    if tcp.user_timeout is not None:
        milliseconds = max(1, round(tcp.user_timeout * 1000))
        yield Option("user_timeout", _LEVEL_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    if tcp.interface:
        interface = tcp.interface.encode()
        yield Option("interface", socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface)
    if tcp.mark:
        yield Option("mark", socket.SOL_SOCKET, socket.SO_MARK, tcp.mark)


def _explain(error: OSError, option: int, value: int | bytes) -> str:
    shown = os.fsdecode(value) if isinstance(value, bytes) else value
    if error.errno == errno.ENODEV:
        return f"{shown}: no such interface; `ip link` lists them"
    if error.errno == errno.EPERM:
        capability = "CAP_NET_ADMIN" if option == socket.SO_MARK else "CAP_NET_RAW"
        return f"{shown}: not permitted; {remedy_by_capability(capability)}"
    return f"{shown}: {error.strerror}"


def _seconds(time: float) -> int:
    """Whole seconds, which is all that these options know, and never 0, which means the default."""
    return max(1, round(time))
