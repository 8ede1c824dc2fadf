"""CRC-32C, the checksum of SCTP and of PROXY headers (RFC 4960, appendix B)."""

from __future__ import annotations

from functools import cache

_POLYNOMIAL = 0x82F63B78
"""Castagnoli's 0x1EDC6F41 with its bits in the order in which they are sent."""


def crc32c(data: bytes) -> int:
    """The checksum of `data`, 32 bits. Takes some 50 ns for each byte; zlib has only CRC-32."""
    table = _table()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


@cache
def _table() -> tuple[int, ...]:
    """What each byte does to a remainder of 0. Made at the first use: most never need it."""
    return tuple(_divide(byte) for byte in range(256))


def _divide(remainder: int) -> int:
    for _ in range(8):
        remainder = (remainder >> 1) ^ (_POLYNOMIAL if remainder & 1 else 0)
    return remainder
