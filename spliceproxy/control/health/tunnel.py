"""A socket in clear whose bytes go by TLS: for a client that is to be spared TLS.

asyncio's own TLS would wait for the other side's close_notify before it lets go of the socket, or
end without a word.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

from spliceproxy.control.health.stream import TlsStream
from spliceproxy.control.health.verdict import CheckFailedError

_CHUNK = 65536


class Tunnel:
    """Copies between a socket, which is for the client to take, and a `TlsStream`."""

    def __init__(self, tls: TlsStream) -> None:
        self._tls = tls
        self._outer, self._inner = socket.socketpair()
        self._outer.setblocking(False)
        self._inner.setblocking(False)
        self._taken = False
        self.failure: CheckFailedError | OSError | None = None
        """What went wrong with the upstream: to the client it looks like an end."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._up()), loop.create_task(self._down())]

    async def take(self) -> socket.socket:
        """The client's socket, which it has to close."""
        self._taken = True
        return self._outer

    async def close(self) -> None:
        """Copy no more. The stream and its socket stay as they are."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._inner.close()
        if not self._taken:
            self._outer.close()

    async def _up(self) -> None:
        loop = asyncio.get_running_loop()
        with suppress(ConnectionError):  # the client has had enough
            while data := await loop.sock_recv(self._inner, _CHUNK):
                try:
                    await self._tls.send(data)
                except (CheckFailedError, OSError) as error:
                    self._fail(error)
                    return

    async def _down(self) -> None:
        loop = asyncio.get_running_loop()
        with suppress(ConnectionError):
            while data := await self._receive():
                await loop.sock_sendall(self._inner, data)

    async def _receive(self) -> bytes:
        try:
            data = await self._tls.receive()
        except (CheckFailedError, OSError) as error:
            self._fail(error)
            return b""
        if not data:
            self._end()
        return data

    def _fail(self, error: CheckFailedError | OSError) -> None:
        self.failure = self.failure or error
        self._end()

    def _end(self) -> None:
        with suppress(OSError):  # the client is gone
            self._inner.shutdown(socket.SHUT_WR)
