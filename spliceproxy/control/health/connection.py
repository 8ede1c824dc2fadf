"""The connections of checks: how they are made, and how they end without a reset.

A close with unread bytes in the queue, or bytes that come after it, make the kernel send a reset,
and the upstream logs an error for each check. So a check says FIN, reads what is still to come to
its end, and only then closes. Nobody waits for that: a `Farewell` needs no task.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from dataclasses import dataclass

from spliceproxy.control.addresses import Place
from spliceproxy.control.health.verdict import CheckFailedError
from spliceproxy.ipc import PoolTlsPlan, TcpPlan
from spliceproxy.wire.proxy_build import LOCAL_V2, build_v1

_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; Python names it from 3.12 on
_PATIENCE = 1.0
"""Seconds that an upstream has to answer a FIN with its own."""
_MOST = 256
"""Connections that wait for it at the same time; beyond, the oldest is closed."""
_UNIX_RETRY = 0.05
"""Seconds between two tries to connect to a UNIX socket whose queue is full."""
_CHUNK = 65536


@dataclass(frozen=True, slots=True)
class Dial:
    """Makes connections as sessions of the pool make them: interface, mark, source address.

    Where sessions send a PROXY header, checks send one too, in our own name.
    """

    tcp: TcpPlan
    send_proxy: str | None = None
    """Its version, v1 or v2; None: none."""
    tls: PoolTlsPlan | None = None
    """How sessions speak TLS with the upstreams, for whoever has the connection; None: they do
    not."""

    def open(self, family: int) -> socket.socket:
        """A socket that is not connected yet. Raises OSError."""
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            if family != socket.AF_UNIX:
                self._prepare(sock)
        except BaseException:
            sock.close()
            raise
        return sock

    def _prepare(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.tcp.interface:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.tcp.interface.encode())
        if self.tcp.mark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self.tcp.mark)
        v6 = sock.family == socket.AF_INET6
        source = next((ip for ip in self.tcp.sources if (":" in ip) == v6), None)
        if source is not None:
            sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((source, 0))

    async def connect(self, place: Place) -> socket.socket:
        """A connected socket, which the caller owns, and which is ready for the first byte of the
        check. Raises OSError, CheckFailedError."""
        sock = self.open(place.family)
        try:
            if place.family == socket.AF_UNIX:
                await _connect_unix(sock, place)
            else:
                await asyncio.get_running_loop().sock_connect(sock, place.address)
                if sock.getsockname() == sock.getpeername():
                    # Nobody listens, and the kernel chose that very port to connect from.
                    raise CheckFailedError("connection refused")
            if self.send_proxy is not None:
                await asyncio.get_running_loop().sock_sendall(sock, self._header(sock))
        except BaseException:
            sock.close()
            raise
        return sock

    def _header(self, sock: socket.socket) -> bytes:
        """Version 1 has no LOCAL: the connection's own addresses say the same, as they should
        (doc/proxy-protocol.txt, section 2.1)."""
        if self.send_proxy == "v2":
            return LOCAL_V2
        return build_v1(sock.getsockname(), sock.getpeername())


async def _connect_unix(sock: socket.socket, place: Place) -> None:
    """asyncio would take EAGAIN, which is a full accept queue, for a connect under way; nothing
    tells when there is room (unix(7)), so it is tried again."""
    while True:
        try:
            return sock.connect(place.address)
        except BlockingIOError:
            await asyncio.sleep(_UNIX_RETRY)


class Farewell:
    """Ends connections politely, and owns them until they are closed."""

    def __init__(self) -> None:
        self._waiting: dict[socket.socket, asyncio.TimerHandle] = {}

    def say(self, sock: socket.socket) -> None:
        """Send FIN, read what still comes, close at the upstream's FIN or after a second."""
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:  # the other side has reset it
            sock.close()
            return
        if len(self._waiting) >= _MOST:
            self._close(next(iter(self._waiting)))
        loop = asyncio.get_running_loop()
        self._waiting[sock] = loop.call_later(_PATIENCE, self._close, sock)
        loop.add_reader(sock, self._read, sock)

    def close(self) -> None:
        """Close all of them now."""
        for sock in list(self._waiting):
            self._close(sock)

    def _read(self, sock: socket.socket) -> None:
        try:
            if sock.recv(_CHUNK):
                return
        except BlockingIOError:
            return
        except OSError:  # a reset: over as well
            pass
        self._close(sock)

    def _close(self, sock: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(sock)
        self._waiting.pop(sock).cancel()
        # What came meanwhile would make a reset of the close.
        with suppress(OSError):
            sock.recv(_CHUNK)
        sock.close()
