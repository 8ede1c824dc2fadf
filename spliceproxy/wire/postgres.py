"""What a PostgreSQL client says first (PostgreSQL, "Message Formats", "SSL Session Encryption").

It begins with a length and a code, and that tells which of four it is. After a request the client
waits for one byte: S or G (go on encrypted) or N (in clear). What it sends before that byte was not
encrypted by anybody, so nothing may come behind a request (CVE-2021-23214).
"""

from __future__ import annotations

from typing import Final, Literal

from spliceproxy.wire.need import Buffer, Need

FirstMessage = Literal["ssl_request", "gssenc_request", "cancel_request", "startup"]

SSL_REQUEST: Final = bytes.fromhex("00000008 04d2162f")
GSSENC_REQUEST: Final = bytes.fromhex("00000008 04d21630")
REQUEST_LENGTH: Final = 8
"""Bytes of each of these two."""
ACCEPTED: Final = b"S"
"""The answer to SSLRequest after which the client begins TLS."""
REFUSED: Final = b"N"
"""The answer to either after which it may ask for the other one, go on in clear, or leave."""

# PostgreSQL takes no start-up packet of more than 10000 bytes. A CancelRequest has 16 bytes, from
# protocol 3.2 on up to 268: its key may be up to 256 bytes long.
_STARTUP_VERSION: Final = b"\0\3"
_STARTUP: Final = range(8, 10001)
_REQUESTS: Final[tuple[tuple[bytes, range, FirstMessage], ...]] = (
    (SSL_REQUEST[4:], range(8, 9), "ssl_request"),
    (GSSENC_REQUEST[4:], range(8, 9), "gssenc_request"),
    (bytes.fromhex("04d2162e"), range(16, 269), "cancel_request"),
)


def read_first_message(data: Buffer) -> FirstMessage | Need | None:
    """Which message `data` begins with; None: it is not PostgreSQL. Needs six to eight bytes."""
    head = bytes(data[:8])
    if len(head) < 4:
        least = int.from_bytes(head.ljust(4, b"\0"), "big")
        return Need(6) if least < _STARTUP.stop else None
    length, code = int.from_bytes(head[:4], "big"), head[4:]
    if length not in _STARTUP:
        return None
    if code[:2] == _STARTUP_VERSION:
        return "startup"
    if _STARTUP_VERSION.startswith(code):
        return Need(6)
    for request, lengths, name in _REQUESTS:
        if length in lengths and request.startswith(code):
            return name if code == request else Need(8)
    return None
