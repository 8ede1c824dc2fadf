"""What a check speaks through: a connected socket, in clear or by TLS.

asyncio's own TLS owns the socket and closes it as it likes; here the FIN is a `Farewell`'s.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from datetime import datetime
from functools import cache
from typing import Protocol

from spliceproxy.control.health.certificate import expiry
from spliceproxy.control.health.verdict import CheckFailedError
from spliceproxy.ipc import PoolTlsPlan
from spliceproxy.relay.tls_context import client_context
from spliceproxy.relay.tls_end import reason

_CHUNK = 65536


class Stream(Protocol):
    """Bytes to an upstream and back."""

    async def send(self, data: bytes) -> None:
        """Send all of it. Raises OSError, CheckFailedError."""

    async def receive(self, most: int = _CHUNK) -> bytes:
        """What comes next, at most so many bytes; empty: the end. Raises as `send`."""


class ClearStream:
    """A connected socket, which stays its owner's."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def send(self, data: bytes) -> None:
        """See `Stream`."""
        await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def receive(self, most: int = _CHUNK) -> bytes:
        """See `Stream`."""
        return await asyncio.get_running_loop().sock_recv(self._sock, most)


class TlsStream:
    """TLS on a connected socket, which stays its owner's. One may send while another receives."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str | None) -> None:
        """`name` is asked for, and verified if `context` verifies. Raises CheckFailedError."""
        self._sock = sock
        self._sending = asyncio.Lock()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        try:
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        except ValueError:
            raise CheckFailedError(f"TLS cannot ask for the name {name!a}") from None

    async def shake_hands(self) -> str:
        """Make the handshake; the version that was agreed on. Raises OSError, CheckFailedError."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                if not await self._fill():
                    raise CheckFailedError("closed during the TLS handshake") from None
            except ssl.SSLError as error:
                self._send_nowait()  # the alert
                raise _failed(error, "TLS handshake") from None
            else:
                await self._flush()
                return self._tls.version() or ""

    def expires(self) -> datetime | None:
        """The end of the certificate that was shown; None: there was none.

        Raises CheckFailedError where it cannot be read.
        """
        certificate = self._tls.getpeercert(binary_form=True)
        try:
            return expiry(certificate) if certificate else None
        except ValueError as error:
            raise CheckFailedError(f"its certificate cannot be read: {error}") from None

    async def send(self, data: bytes) -> None:
        """See `Stream`."""
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            raise _failed(error) from None
        try:
            await self._flush()
        except ConnectionError:
            await self.receive()  # which raises what an alert says
            raise

    async def receive(self, most: int = _CHUNK) -> bytes:
        """See `Stream`. A FIN without close_notify is an end like any other."""
        while True:
            try:
                return self._tls.read(most)
            except ssl.SSLWantReadError:
                if not await self._fill():
                    return b""
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLError as error:
                raise _failed(error) from None

    def say_end(self) -> None:
        """Say that nothing follows (close_notify). The upstream's own is not waited for."""
        with suppress(ssl.SSLError):
            self._tls.unwrap()
        self._send_nowait()

    def _send_nowait(self) -> None:
        with suppress(OSError):  # it is gone, or does not read
            self._sock.send(self._outgoing.read())

    async def _flush(self) -> None:
        if self._outgoing.pending:
            async with self._sending:
                await asyncio.get_running_loop().sock_sendall(self._sock, self._outgoing.read())

    async def _fill(self) -> bool:
        """Give OpenSSL what comes next; False: it is the end."""
        await self._flush()
        data = await asyncio.get_running_loop().sock_recv(self._sock, _CHUNK)
        self._incoming.write(data)
        return bool(data)


@cache
def lenient_context() -> ssl.SSLContext:
    """Accepts every certificate and every version that OpenSSL still speaks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def context_of(tls: PoolTlsPlan, *alpn: str) -> ssl.SSLContext:
    """What sessions of a pool speak with, which offers `alpn`."""
    return client_context(verify=tls.verify, ca=tls.ca, certificate=tls.certificate, alpn=alpn)


def _failed(error: ssl.SSLError, what: str = "TLS") -> CheckFailedError:
    """What went wrong with `what`, in OpenSSL's words. (Its numbers are none of errno.)"""
    return CheckFailedError(f"{what}: {reason(error)}")
