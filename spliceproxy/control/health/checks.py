"""The ways to ask an upstream, by the name that `health.check` gives them."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from spliceproxy.control.addresses import Place
from spliceproxy.control.health import talk
from spliceproxy.control.health.connection import Dial, Farewell
from spliceproxy.control.health.stream import (
    ClearStream,
    Stream,
    TlsStream,
    context_of,
    lenient_context,
)
from spliceproxy.control.health.verdict import Passed

if TYPE_CHECKING:
    from spliceproxy.config import PoolHealth


class Check(Protocol):
    """One pool's way to ask its upstreams."""

    async def check(self, place: Place, name: str | None) -> Passed:
        """Ask once. `name` is what the upstream has to prove where the pool has `tls`.

        The caller limits the time and may cancel. Raises CheckFailedError, OSError.
        """

    async def close(self) -> None:
        """Close what is open between two checks."""


def make_check(health: PoolHealth, dial: Dial, farewell: Farewell) -> Check:
    """The check that `health` describes."""
    if health.check == "http":
        # aiohttp takes a fifth of a second and 20 MB, which only its users shall pay.
        from spliceproxy.control.health.http import HttpCheck

        return HttpCheck(health, dial, farewell)
    return _SocketCheck(health, dial, farewell)


class _SocketCheck:
    """Connects, talks where the check wants it, and ends politely."""

    def __init__(self, health: PoolHealth, dial: Dial, farewell: Farewell) -> None:
        self._health = health
        self._dial = dial
        self._farewell = farewell
        self._talk = _TALKS.get(health.check)
        self._context: ssl.SSLContext | None = None

    async def check(self, place: Place, name: str | None) -> Passed:
        """See `Check`."""
        sock = await self._dial.connect(place)
        try:
            if self._health.check == "tcp":
                return Passed("connected")
            return await self._ask(sock, name)
        finally:
            self._farewell.say(sock)

    async def close(self) -> None:
        """See `Check`."""

    async def _ask(self, sock: socket.socket, name: str | None) -> Passed:
        kind, has_tls, clear, how = self._health.check, self._dial.tls, ClearStream(sock), ""
        encrypts = has_tls is not None or kind == "tls"
        if kind == "postgres":
            how, encrypts = await talk.postgres(clear, needs_tls=has_tls is not None)
        if encrypts:
            return await self._ask_by_tls(sock, name, how)
        return Passed(how or await self._say(clear))

    async def _ask_by_tls(self, sock: socket.socket, name: str | None, how: str) -> Passed:
        tls = TlsStream(sock, *self._identity(name))
        try:
            version = await tls.shake_hands()
            expires = tls.expires()
            if self._talk is not None:
                how = await self._say(tls)
            return Passed(how or f"{version} handshake", expires)
        finally:
            tls.say_end()

    def _identity(self, name: str | None) -> tuple[ssl.SSLContext, str | None]:
        """As sessions do it; and where they speak no TLS, as suits whoever answers."""
        if self._dial.tls is None:
            return lenient_context(), self._health.host if self._health.check == "tls" else None
        self._context = self._context or context_of(self._dial.tls)
        return self._context, name

    async def _say(self, stream: Stream) -> str:
        assert self._talk is not None
        return await self._talk(stream, self._health)


_TALKS: dict[str, Callable[[Stream, PoolHealth], Awaitable[str]]] = {
    "exchange": talk.exchange,
    "redis": talk.redis,
    "smtp": talk.smtp,
}
