"""A TLS handshake on a connected socket, whose end stays in our hands.

asyncio's own TLS owns the socket and closes it as it likes; here the FIN is a `Farewell`'s.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from functools import cache

from spliceproxy.control.health.verdict import CheckFailedError

_CHUNK = 65536


@cache
def _context() -> ssl.SSLContext:
    """Accepts every certificate and every version that OpenSSL still speaks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def shake_hands(sock: socket.socket, name: str | None) -> tuple[str, bytes]:
    """Make the handshake, with `name` as SNI, and say that nothing follows (close_notify).

    Returns the version of TLS and the upstream's certificate (DER; empty: it showed none).
    Raises OSError, CheckFailedError.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = _context().wrap_bio(incoming, outgoing, server_hostname=name)
    loop = asyncio.get_running_loop()
    try:
        while not await _step(tls, loop, sock, incoming, outgoing):
            pass
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).replace("_", " ").lower()
        raise CheckFailedError(f"TLS handshake: {reason}") from None
    with suppress(ssl.SSLError):
        tls.unwrap()  # writes close_notify; the upstream's own is not waited for
    await loop.sock_sendall(sock, outgoing.read())
    return tls.version() or "", tls.getpeercert(binary_form=True) or b""


async def _step(
    tls: ssl.SSLObject,
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    incoming: ssl.MemoryBIO,
    outgoing: ssl.MemoryBIO,
) -> bool:
    """One turn of the handshake; whether it is done."""
    try:
        tls.do_handshake()
        done = True
    except ssl.SSLWantReadError:
        done = False
    finally:
        if outgoing.pending:
            await loop.sock_sendall(sock, outgoing.read())
    if not done:
        data = await loop.sock_recv(sock, _CHUNK)
        if not data:
            raise CheckFailedError("closed during the TLS handshake")
        incoming.write(data)
    return done
