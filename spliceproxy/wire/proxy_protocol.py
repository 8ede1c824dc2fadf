"""The PROXY protocol, versions 1 and 2: who the client is, told by the proxy before us.

Source: "The PROXY protocol, versions 1 & 2", haproxy.org, doc/proxy-protocol.txt. Whether a header
is to be expected is for the configuration to say (section 5): nothing here guesses.

How `parse_proxy_header` decides:

1. It looks at the first bytes that came, as many as there are. Once they decide, by a header or by
   an error, no later byte changes the decision: so how they come split makes no difference.
2. A mistake is told at the first byte that no header could have there. Only what lies within the
   line of version 1, or behind the 16 bytes of version 2, waits until all of it is there.
3. LOCAL is over with its length: its family and its block mean nothing (section 2.2).
4. UNKNOWN and UNSPEC are headers without addresses. What a sender of UNSPEC puts behind byte 16 is
   not defined; where it reads as TLVs to its end it is taken as such, as HAProxy writes it.
5. Datagrams are refused: this proxy relays streams.
"""

from __future__ import annotations

import os
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from spliceproxy.wire.need import Buffer, Need
from spliceproxy.wire.proxy_build import LOCAL_V2, UNKNOWN_V1, build_v1, build_v2
from spliceproxy.wire.proxy_tlvs import read_tlvs, walk
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
    UNIX,
    UNIX_BLOCK,
    UNSPEC,
    Address,
    Family,
    Header,
    ProxyHeaderError,
    SocketAddress,
    Ssl,
    Tlvs,
)

__all__ = [
    "LOCAL_V2",
    "MAX_HEADER",
    "NO_TLVS",
    "UNKNOWN_V1",
    "Address",
    "Family",
    "Header",
    "ProxyHeaderError",
    "SocketAddress",
    "Ssl",
    "Tlvs",
    "build_v1",
    "build_v2",
    "parse_proxy_header",
]

_V1 = b"PROXY "
_TCP4, _TCP6, _UNKNOWN = b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN"
_V1_HEADS = (_TCP4, _TCP6, _UNKNOWN + b" ", _UNKNOWN + b"\r\n")
_MAX_V1 = 107
_MIN_V1 = len(UNKNOWN_V1)
_MIN_TCP4 = len(b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n")
_MIN_TCP6 = len(b"PROXY TCP6 :: :: 0 0\r\n")

_ADDRESS_BYTES = {UNSPEC: 0, 0x01: 0, 0x10: 0, 0x20: 0, 0x30: 0, INET: 12, INET6: 36, UNIX: 216}
"""By the 14th byte. Where the family or the transport is UNSPEC there is no address."""
_DATAGRAM = 0x02
_SHOWN = 64


def parse_proxy_header(data: Buffer) -> Header | Need:
    """Read the header that `data` begins with: all bytes that came so far, a peeked buffer.

    Takes no more steps than the header has bytes, or than came. Raises ProxyHeaderError.
    """
    start = bytes(data[:MIN_V2])
    if start.startswith(SIGNATURE):
        return _parse_v2(data, start)
    if start.startswith(_V1):
        return _parse_v1(bytes(data[:_MAX_V1]))
    if _V1.startswith(start):
        return Need(_MIN_V1)
    if SIGNATURE.startswith(start):
        return Need(MIN_V2)
    place = max(_alike(start, known) for known in (_V1, SIGNATURE))
    raise ProxyHeaderError(
        f"no PROXY header: byte {place + 1} is 0x{start[place]:02x}; a header begins with "
        '"PROXY " or with the 12 bytes of version 2'
    )


def _alike(start: bytes, known: bytes) -> int:
    """How many bytes of both are the same, up to the first that is not."""
    place = 0
    for seen, expected in zip(start, known, strict=False):
        if seen != expected:
            break
        place += 1
    return place


def _parse_v1(line: bytes) -> Header | Need:
    """`line`: what came, up to 107 bytes; it begins with "PROXY "."""
    if line.startswith((_TCP4, _TCP6)):
        return _parse_tcp(line)
    if line.startswith(_V1_HEADS):
        # Whatever stands before the CRLF is to be ignored, single CR and LF too (section 2.1).
        end = line.find(b"\r\n")
        if end < 0:
            return _rest_of_line(line, _MIN_V1)
        return Header(end + 2, 1)
    if any(head.startswith(line) for head in _V1_HEADS):
        return Need(_MIN_V1)
    raise ProxyHeaderError(
        "version 1 tells of a protocol that is not known; TCP4, TCP6 or UNKNOWN would be right"
    )


def _parse_tcp(line: bytes) -> Header | Need:
    end = line.find(b"\r\n")
    content = line[:end] if end >= 0 else line.removesuffix(b"\r")
    # As far as the last byte that could be a CR: a longer line is that, whatever comes then.
    checked = content[: _MAX_V1 - 1]
    if b"\r" in checked or b"\n" in checked:
        raise ProxyHeaderError("the line of version 1 has a single CR or LF; it ends with CR LF")
    is_v4 = line.startswith(_TCP4)
    if end < 0:
        return _rest_of_line(line, _MIN_TCP4 if is_v4 else _MIN_TCP6)
    parts = content.split(b" ")
    if len(parts) != 6:
        raise ProxyHeaderError(
            f"{_shown(content)} has {len(parts)} parts; after TCP4 or TCP6 come the source's "
            "address, the destination's, and their ports, with one blank before each"
        )
    _, _, source, destination, source_port, destination_port = parts
    ip = _read_v4 if is_v4 else _read_v6
    return Header(
        end + 2,
        1,
        False,
        "tcp4" if is_v4 else "tcp6",
        (ip(source), _port(source_port)),
        (ip(destination), _port(destination_port)),
    )


def _rest_of_line(line: bytes, least: int) -> Need:
    """What is needed to find the CRLF that is not in `line`."""
    needed = len(line) + (1 if line.endswith(b"\r") else 2)
    if needed > _MAX_V1:
        raise ProxyHeaderError(f"no end of line in {_MAX_V1} bytes, the most that version 1 takes")
    return Need(max(least, needed))


def _read_v4(text: bytes) -> str:
    try:
        # Four numbers without leading zeros, as inet_pton(3) has it; so the text is canonical.
        ip = text.decode("ascii")
        inet_pton(AF_INET, ip)
    except (OSError, ValueError):
        raise ProxyHeaderError(f"{_shown(text)} is no IPv4 address, which TCP4 takes") from None
    return ip


def _read_v6(text: bytes) -> str:
    try:
        packed = inet_pton(AF_INET6, text.decode("ascii"))
    except (OSError, ValueError):
        raise ProxyHeaderError(f"{_shown(text)} is no IPv6 address, which TCP6 takes") from None
    return _v6_text(packed)


def _port(text: bytes) -> int:
    """No signs, no leading zeros. Bytes know no digits but ASCII's."""
    if text.isdigit() and (text[0] != 0x30 or text == b"0"):
        port = int(text)
        if port <= 0xFFFF:
            return port
    raise ProxyHeaderError(f"{_shown(text)} is no port; 0 to 65535 without leading zeros is one")


def _shown(text: bytes) -> str:
    """Bytes of a peer in a sentence of ours: printable, and not many."""
    return ascii(text[:_SHOWN].decode("latin-1"))


def _parse_v2(data: Buffer, start: bytes) -> Header | Need:
    """`start`: the first 16 bytes, or as many as came; they begin with the signature."""
    size = len(start)
    if size > 12 and start[12] not in (PROXY, LOCAL):
        raise _unknown_command(start[12])
    if size > 13 and start[12] == PROXY and start[13] not in _ADDRESS_BYTES:
        raise _unknown_kind(start[13])
    if size < MIN_V2:
        return Need(MIN_V2)
    command, kind, block = START.unpack_from(start, 12)
    length: int = MIN_V2 + block
    if length > MAX_HEADER:
        raise ProxyHeaderError(f"the header says {length} bytes; at most {MAX_HEADER} are taken")
    if command == LOCAL:
        return Header(length, 2, True) if len(data) >= length else Need(length)
    tlvs_at = MIN_V2 + _ADDRESS_BYTES[kind]
    if length < tlvs_at:
        raise ProxyHeaderError(
            f"the header says {block} bytes of addresses; its family 0x{kind:02x} takes "
            f"{tlvs_at - MIN_V2}"
        )
    if len(data) < length:
        return Need(length)
    tlvs = NO_TLVS if length == tlvs_at else _tlvs(bytes(data[:length]), kind, tlvs_at)
    if kind == INET:
        ip, to_ip, port, to_port = INET_BLOCK.unpack_from(data, MIN_V2)
        source, destination = inet_ntop(AF_INET, ip), inet_ntop(AF_INET, to_ip)
        return Header(length, 2, False, "tcp4", (source, port), (destination, to_port), tlvs)
    if kind == INET6:
        ip, to_ip, port, to_port = INET6_BLOCK.unpack_from(data, MIN_V2)
        source, destination = _v6_text(ip), _v6_text(to_ip)
        return Header(length, 2, False, "tcp6", (source, port), (destination, to_port), tlvs)
    if kind == UNIX:
        path, to_path = UNIX_BLOCK.unpack_from(data, MIN_V2)
        return Header(length, 2, False, "unix", _unix_text(path), _unix_text(to_path), tlvs)
    return Header(length, 2, tlvs=tlvs)


def _tlvs(header: bytes, kind: int, at: int) -> Tlvs:
    if not _ADDRESS_BYTES[kind]:
        try:
            for _ in walk(header, at):
                pass
        except ProxyHeaderError:
            return NO_TLVS
    return read_tlvs(header, at)


def _unknown_command(byte: int) -> ProxyHeaderError:
    if byte >> 4 != 2:
        return ProxyHeaderError(
            f"version {byte >> 4} behind the signature of version 2; 2 would be right"
        )
    return ProxyHeaderError(
        f"version 2 knows no command {byte & 0xF}; 0 (LOCAL) or 1 (PROXY) would be right"
    )


def _unknown_kind(byte: int) -> ProxyHeaderError:
    if byte & 0x0F == _DATAGRAM:
        return ProxyHeaderError(
            f"the header tells of datagrams (0x{byte:02x}); this proxy relays streams"
        )
    return ProxyHeaderError(
        f"version 2 knows no family and transport 0x{byte:02x}; 0x11 (TCP, IPv4), 0x21 (TCP, "
        "IPv6), 0x31 (UNIX) or 0x00 would be right"
    )


def _v6_text(packed: bytes) -> str:
    if packed.startswith(MAPPED):
        return inet_ntop(AF_INET, packed[12:])
    return inet_ntop(AF_INET6, packed)


def _unix_text(sun_path: bytes) -> str:
    """The path up to its NUL; an abstract name, which begins with one, up to the padding."""
    if sun_path[0]:
        return os.fsdecode(sun_path.partition(b"\0")[0])
    return os.fsdecode(sun_path.rstrip(b"\0"))
