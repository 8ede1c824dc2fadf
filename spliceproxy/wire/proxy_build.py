"""PROXY headers to send: versions 1 and 2 of doc/proxy-protocol.txt, haproxy.org."""

from __future__ import annotations

from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from spliceproxy.wire.crc32c import crc32c
from spliceproxy.wire.proxy_tlvs import CRC32C, walk, write_tlvs
from spliceproxy.wire.proxy_values import (
    INET,
    INET6,
    INET6_BLOCK,
    INET_BLOCK,
    LOCAL,
    MAPPED,
    MAX_HEADER,
    MIN_V2,
    NO_TLVS,
    PROXY,
    SIGNATURE,
    START,
    UNSPEC,
    SocketAddress,
    Tlvs,
)

LOCAL_V2 = SIGNATURE + b"\x20\x00\x00\x00"
"""What the sender asks by itself, as a health check does."""
UNKNOWN_V1 = b"PROXY UNKNOWN\r\n"
"""Version 1 has no LOCAL. Some receivers refuse this one; a health check does better with
`build_v1` of its own two addresses (section 2.1)."""


def build_v1(source: SocketAddress | None, destination: SocketAddress | None) -> bytes:
    """The line that tells of a client at `source`, which connected to `destination`.

    Both are told in one family: where they differ the IPv4 address is mapped into IPv6, and where
    both are mapped they are told as IPv4, which all receivers know. UNKNOWN for UNIX sockets and
    None. Raises ValueError: a text that is no IP address.
    """
    if not (isinstance(source, tuple) and isinstance(destination, tuple)):
        return UNKNOWN_V1
    packed_source, packed_destination = _packed_alike(source[0], destination[0])
    if len(packed_source) == 4:
        head, family = "PROXY TCP4", AF_INET
    else:
        head, family = "PROXY TCP6", AF_INET6
    return (
        f"{head} {inet_ntop(family, packed_source)} {inet_ntop(family, packed_destination)}"
        f" {source[1]} {destination[1]}\r\n"
    ).encode("ascii")


def build_v2(
    source: SocketAddress | None, destination: SocketAddress | None, tlvs: Tlvs = NO_TLVS
) -> bytes:
    """The header that tells of a client at `source`, which connected to `destination`.

    Families are made one as in `build_v1`. For UNIX sockets and None it is LOCAL, without
    addresses but with the TLVs, as HAProxy writes it: every receiver must take that, while PROXY
    with UNIX or UNSPEC is refused by HAProxy itself (2.6). Raises ValueError: a text that is no IP
    address, a unique id that is too long, more than 4096 bytes in all.
    """
    if isinstance(source, tuple) and isinstance(destination, tuple):
        ip, to_ip = _packed_alike(source[0], destination[0])
        command, kind, layout = PROXY, INET, INET_BLOCK
        if len(ip) == 16:
            kind, layout = INET6, INET6_BLOCK
        addresses = layout.pack(ip, to_ip, source[1], destination[1])
    else:
        command, kind, addresses = LOCAL, UNSPEC, b""
    tail = b"" if tlvs is NO_TLVS else write_tlvs(tlvs)
    tlvs_at = MIN_V2 + len(addresses)
    length = tlvs_at + len(tail)
    if length > MAX_HEADER:
        raise ValueError(f"a PROXY header of {length} bytes; receivers take {MAX_HEADER}")
    header = SIGNATURE + START.pack(command, kind, length - MIN_V2) + addresses + tail
    if tlvs.crc32c:
        at = next(tlv.start for tlv in walk(header, tlvs_at) if tlv.kind == CRC32C)
        header = header[:at] + crc32c(header).to_bytes(4, "big") + header[at + 4 :]
    return header


def _packed_alike(source: str, destination: str) -> tuple[bytes, bytes]:
    """Both as IPv4 where both are or stand for that, else both as IPv6."""
    a, b = _packed(source), _packed(destination)
    if len(a) != len(b):
        return (MAPPED + a, b) if len(a) == 4 else (a, MAPPED + b)
    return a, b


def _packed(ip: str) -> bytes:
    try:
        if ":" not in ip:
            return inet_pton(AF_INET, ip)
        packed = inet_pton(AF_INET6, ip)
    except (OSError, ValueError):
        raise ValueError(f"{ip!a} is no IP address") from None
    return packed[12:] if packed.startswith(MAPPED) else packed
