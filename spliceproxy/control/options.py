"""Options of listening sockets. The kernel copies them to every client socket accepted from one."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

from spliceproxy.errors import BindError

if TYPE_CHECKING:
    from spliceproxy.config import ListenerTcp

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
    _set(sock, f"{key}.buffers", socket.SOL_SOCKET, socket.SO_RCVBUF, tcp.buffers.receive)
    _set(sock, f"{key}.buffers", socket.SOL_SOCKET, socket.SO_SNDBUF, tcp.buffers.send)
    if sock.family == socket.AF_UNIX:
        return
    _set(sock, f"{key}.nodelay", _LEVEL_TCP, socket.TCP_NODELAY, int(tcp.nodelay))
    if tcp.keepalive is not None:
        name = f"{key}.keepalive"
        idle, interval = _seconds(tcp.keepalive.idle), _seconds(tcp.keepalive.interval)
        _set(sock, name, socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        _set(sock, name, _LEVEL_TCP, socket.TCP_KEEPIDLE, idle)
        _set(sock, name, _LEVEL_TCP, socket.TCP_KEEPINTVL, interval)
        _set(sock, name, _LEVEL_TCP, socket.TCP_KEEPCNT, tcp.keepalive.count)
    if tcp.user_timeout is not None:
        milliseconds = max(1, round(tcp.user_timeout * 1000))
        _set(sock, f"{key}.user_timeout", _LEVEL_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    if tcp.defer_accept is not None:
        seconds = _seconds(tcp.defer_accept)
        _set(sock, f"{key}.defer_accept", _LEVEL_TCP, socket.TCP_DEFER_ACCEPT, seconds)
    if tcp.interface:
        interface = tcp.interface.encode()
        _set(sock, f"{key}.interface", socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface)
    if tcp.mark:
        _set(sock, f"{key}.mark", socket.SOL_SOCKET, socket.SO_MARK, tcp.mark)


def _set(sock: socket.socket, key: str, level: int, option: int, value: int | bytes | None) -> None:
    if value is None:
        return
    try:
        sock.setsockopt(level, option, value)
    except OSError as error:
        raise BindError(f"{key}: {_explain(error, option, value)}") from None


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
