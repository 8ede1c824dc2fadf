"""The ways to ask an upstream, by the name that `health.check` gives them."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from spliceproxy.control.addresses import Place
from spliceproxy.control.health import talk
from spliceproxy.control.health.certificate import expiry
from spliceproxy.control.health.connection import Dial, Farewell
from spliceproxy.control.health.tls import shake_hands
from spliceproxy.control.health.verdict import CheckFailedError, Passed

if TYPE_CHECKING:
    from spliceproxy.config import PoolHealth


class Check(Protocol):
    """One pool's way to ask its upstreams."""

    async def check(self, place: Place) -> Passed:
        """Ask once.

        The caller limits the time and may cancel. Raises CheckFailedError, OSError.
        """

    async def close(self) -> None:
        """Close what is open between two checks."""


def make_check(health: PoolHealth, dial: Dial, farewell: Farewell) -> Check:
    """The check that `health` describes."""
    if health.check == "http":
        # aiohttp takes a fifth of a second and 20 MB, which only its users shall pay.
        from spliceproxy.control.health.http import HttpCheck

        return HttpCheck(health, dial)
    return _SocketCheck(health, dial, farewell)


class _SocketCheck:
    """Connects, talks where the check wants it, and ends politely."""

    def __init__(self, health: PoolHealth, dial: Dial, farewell: Farewell) -> None:
        self._health = health
        self._dial = dial
        self._farewell = farewell
        self._talk = _TALKS.get(health.check)

    async def check(self, place: Place) -> Passed:
        """See `Check`."""
        sock = await self._dial.connect(place)
        try:
            if self._health.check == "tls":
                return await self._tls(sock)
            if self._talk is not None:
                return Passed(await self._talk(sock, self._health))
            return Passed("connected")
        finally:
            self._farewell.say(sock)

    async def close(self) -> None:
        """See `Check`."""

    async def _tls(self, sock: socket.socket) -> Passed:
        version, certificate = await shake_hands(sock, self._health.host)
        try:
            expires = expiry(certificate) if certificate else None
        except ValueError as error:
            raise CheckFailedError(f"its certificate cannot be read: {error}") from None
        return Passed(f"{version} handshake", expires)


_TALKS: dict[str, Callable[[socket.socket, PoolHealth], Awaitable[str]]] = {
    "exchange": talk.exchange,
    "redis": talk.redis,
    "postgres": talk.postgres,
    "smtp": talk.smtp,
}
