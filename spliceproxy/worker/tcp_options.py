"""The options of the sockets that are connected to upstreams."""

from __future__ import annotations

import socket
from socket import IPPROTO_TCP, SOL_SOCKET, SocketType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spliceproxy.ipc import TcpPlan


def set_tcp_options(sock: SocketType, tcp: TcpPlan) -> None:
    """Set a pool's options on a new socket, but for keepalive. Raises OSError (EPERM: mark)."""
    if tcp.nodelay:
        sock.setsockopt(IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tcp.user_timeout_ms:
        sock.setsockopt(IPPROTO_TCP, socket.TCP_USER_TIMEOUT, tcp.user_timeout_ms)
    if tcp.receive_buffer:
        sock.setsockopt(SOL_SOCKET, socket.SO_RCVBUF, tcp.receive_buffer)
    if tcp.send_buffer:
        sock.setsockopt(SOL_SOCKET, socket.SO_SNDBUF, tcp.send_buffer)
    if tcp.interface:
        name = tcp.interface.encode() + b"\0"
        sock.setsockopt(SOL_SOCKET, socket.SO_BINDTODEVICE, name)
    if tcp.mark:
        sock.setsockopt(SOL_SOCKET, socket.SO_MARK, tcp.mark)


def set_keepalive(sock: SocketType, tcp: TcpPlan) -> None:
    """Have the kernel probe a silent connection.

    Four system calls: a listening socket's options are inherited, a connecting one's are not. So
    this is left until a session has lived for a moment, which most never do.
    """
    if tcp.keepalive is not None:
        idle, interval, count = tcp.keepalive
        sock.setsockopt(SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
        sock.setsockopt(IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
        sock.setsockopt(IPPROTO_TCP, socket.TCP_KEEPCNT, count)
