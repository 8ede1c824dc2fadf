"""Checks that speak with an upstream: bytes of the user's own, and the first words of protocols."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from spliceproxy.config import units
from spliceproxy.control.health.verdict import CheckFailedError, quote
from spliceproxy.wire.postgres import ACCEPTED, REFUSED, SSL_REQUEST

if TYPE_CHECKING:
    from spliceproxy.config import PoolHealth
    from spliceproxy.control.health.stream import Stream

_MOST = 65536
"""Bytes of an answer that are looked at."""


async def exchange(stream: Stream, health: PoolHealth) -> str:
    """Send `send`, and wait for `expect` anywhere in the answer; without it for any answer."""
    if health.send is not None:
        await stream.send(units.binary(health.send))
    wanted = units.binary(health.expect) if health.expect is not None else b""
    received = b""
    try:
        received = await _receive(stream, lambda data: wanted in data)
    except _TooShortError as error:
        if not wanted:
            raise CheckFailedError("closed without an answer") from None
        text = f"answered {quote(error.received)}" if error.received else "closed"
        raise CheckFailedError(f"{text} without {quote(wanted)}") from None
    return f"answered {quote(wanted or received)}"


async def redis(stream: Stream, _health: PoolHealth) -> str:
    """PING; +PONG, or -NOAUTH: it serves, and only wants a password that a check has not."""
    await stream.send(b"PING\r\n")
    line = await _line(stream)
    if not line.startswith((b"+PONG", b"-NOAUTH")):
        raise CheckFailedError(f"answered {quote(line)} to PING")
    return f"answered {quote(line)}"


async def postgres(stream: Stream, *, needs_tls: bool) -> tuple[str, bool]:
    """SSLRequest; S or N, and whether a handshake follows.

    After S the server waits for one and logs an error where none comes, so it gets one. After N,
    or after the handshake, it takes an end without a word (ProcessStartupPacket).
    """
    await stream.send(SSL_REQUEST)
    answer = await stream.receive(1)
    if not answer:
        raise CheckFailedError("closed without an answer")
    if answer not in (ACCEPTED, REFUSED):
        raise CheckFailedError(f"answered {quote(answer)} to SSLRequest")
    if needs_tls and answer == REFUSED:
        raise CheckFailedError("the upstream refuses TLS (N)")
    return f"answered {quote(answer)}", answer == ACCEPTED


async def smtp(stream: Stream, _health: PoolHealth) -> str:
    """The greeting, 220 and maybe several lines (RFC 5321, section 4.2); then QUIT."""
    greeting = await _reply(stream)
    await stream.send(b"QUIT\r\n")
    if not greeting.startswith(b"220"):
        raise CheckFailedError(f"greeted with {quote(greeting)}")
    return f"greeted with {quote(greeting)}"


class _TooShortError(CheckFailedError):
    """It ended, or said too much, before what was waited for."""

    def __init__(self, received: bytes) -> None:
        said = f"answered only {quote(received)}" if received else "closed without an answer"
        super().__init__(said)
        self.received = received


async def _receive(stream: Stream, enough: Callable[[bytes], bool]) -> bytes:
    """What was received, as soon as it is `enough`. Raises _TooShortError, OSError."""
    received = b""
    while True:
        data = await stream.receive(_MOST)
        received += data
        if data and enough(received):
            return received
        if not data or len(received) >= _MOST:
            raise _TooShortError(received)


async def _line(stream: Stream) -> bytes:
    """One line, without its end."""
    received = await _receive(stream, lambda data: b"\n" in data)
    return received.partition(b"\n")[0].rstrip(b"\r")


async def _reply(stream: Stream) -> bytes:
    """The last line of an SMTP reply: those before it have a hyphen behind the code."""

    def complete(data: bytes) -> bool:
        lines = data.split(b"\n")[:-1]
        return bool(lines) and lines[-1][3:4] != b"-"

    received = await _receive(stream, complete)
    return received.rstrip(b"\r\n").rpartition(b"\n")[2]
