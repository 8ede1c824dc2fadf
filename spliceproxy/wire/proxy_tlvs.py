"""The type-length-value part of PROXY headers, version 2: bytes ↔ `Tlvs`.

Source: doc/proxy-protocol.txt of haproxy.org, sections 2.2 to 2.2.7.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from spliceproxy.wire.crc32c import crc32c
from spliceproxy.wire.proxy_values import MAX_UNIQUE_ID, ProxyHeaderError, Ssl, Tlvs

ALPN, AUTHORITY, CRC32C, NOOP, UNIQUE_ID, SSL, NETNS = 0x01, 0x02, 0x03, 0x04, 0x05, 0x20, 0x30
SSL_VERSION, SSL_CN, SSL_CIPHER, SSL_SIG_ALG, SSL_KEY_ALG = range(0x21, 0x26)

_NAMES = {
    ALPN: "ALPN",
    AUTHORITY: "AUTHORITY",
    CRC32C: "CRC32C",
    UNIQUE_ID: "UNIQUE_ID",
    SSL: "SSL",
    NETNS: "NETNS",
}
_SSL_NAMES = {
    SSL_VERSION: "SSL_VERSION",
    SSL_CN: "SSL_CN",
    SSL_CIPHER: "SSL_CIPHER",
    SSL_SIG_ALG: "SSL_SIG_ALG",
    SSL_KEY_ALG: "SSL_KEY_ALG",
}

_HEAD = struct.Struct("!BH")
_SSL_HEAD = struct.Struct("!BI")


class _Tlv(NamedTuple):
    kind: int
    value: bytes
    start: int
    """Where its value begins."""


def read_tlvs(header: bytes, start: int) -> Tlvs:
    """The TLVs of the whole `header`, from byte `start` to its end.

    Raises ProxyHeaderError: they do not end with the header, one is told twice, a value is not
    what its type says, the checksum is wrong.
    """
    known, others = _sorted(walk(header, start), _NAMES)
    ssl = known.get(SSL)
    checksum = known.get(CRC32C)
    if checksum is not None:
        _check_crc32c(header, checksum)
    return Tlvs(
        alpn=known[ALPN].value if ALPN in known else None,
        authority=_text(known, AUTHORITY, "utf-8"),
        unique_id=_unique_id(known.get(UNIQUE_ID)),
        netns=_text(known, NETNS, "ascii"),
        ssl=None if ssl is None else _read_ssl(ssl.value),
        others=tuple(other for other in others if other[0] != NOOP),
        crc32c=checksum is not None,
    )


def walk(data: bytes, start: int) -> Iterator[_Tlv]:
    """One TLV after the other. Raises ProxyHeaderError where the last one ends behind `data`."""
    end = len(data)
    while start < end:
        if end - start < 3:
            raise ProxyHeaderError(
                f"{end - start} bytes are left behind the last TLV; a TLV has at least 3"
            )
        kind, size = _HEAD.unpack_from(data, start)
        start += 3
        if size > end - start:
            raise ProxyHeaderError(
                f"the TLV of type 0x{kind:02x} says {size} bytes, but only {end - start} follow"
            )
        yield _Tlv(kind, data[start : start + size], start)
        start += size


def write_tlvs(tlvs: Tlvs) -> bytes:
    """All of them, by type, as some receivers want it; zeros for the checksum.

    Raises ValueError: a unique id of more than 128 bytes, or a value of more than 65,535.
    """
    if tlvs.unique_id is not None and len(tlvs.unique_id) > MAX_UNIQUE_ID:
        raise ValueError(
            f"a unique id of {len(tlvs.unique_id)} bytes; PROXY headers take {MAX_UNIQUE_ID}"
        )
    known = (
        (ALPN, tlvs.alpn),
        (AUTHORITY, _encoded(tlvs.authority, "utf-8")),
        (CRC32C, bytes(4) if tlvs.crc32c else None),
        (UNIQUE_ID, tlvs.unique_id),
        (SSL, None if tlvs.ssl is None else _write_ssl(tlvs.ssl)),
        (NETNS, _encoded(tlvs.netns, "ascii")),
    )
    return _write((*known, *tlvs.others))


def _sorted(
    tlvs: Iterator[_Tlv], names: dict[int, str]
) -> tuple[dict[int, _Tlv], tuple[tuple[int, bytes], ...]]:
    """Those that have names, by type, and the others."""
    known: dict[int, _Tlv] = {}
    others = []
    for tlv in tlvs:
        if tlv.kind in names:
            if tlv.kind in known:
                raise ProxyHeaderError(
                    f"the TLV {names[tlv.kind]} is there twice, and which of them holds is unclear"
                )
            known[tlv.kind] = tlv
        else:
            others.append((tlv.kind, tlv.value))
    return known, tuple(others)


def _check_crc32c(header: bytes, tlv: _Tlv) -> None:
    """The checksum is that of the header with zeros in its place."""
    if len(tlv.value) != 4:
        raise ProxyHeaderError(f"the TLV CRC32C has {len(tlv.value)} bytes; it takes 4")
    said = int.from_bytes(tlv.value, "big")
    found = crc32c(header[: tlv.start] + bytes(4) + header[tlv.start + 4 :])
    if said != found:
        raise ProxyHeaderError(
            f"the checksum is wrong: the header says 0x{said:08x}, its bytes give 0x{found:08x}"
        )


def _unique_id(tlv: _Tlv | None) -> bytes | None:
    if tlv is None:
        return None
    if len(tlv.value) > MAX_UNIQUE_ID:
        raise ProxyHeaderError(
            f"the TLV UNIQUE_ID has {len(tlv.value)} bytes; it takes at most {MAX_UNIQUE_ID}"
        )
    return tlv.value


def _text(
    known: dict[int, _Tlv], kind: int, encoding: str, names: dict[int, str] = _NAMES
) -> str | None:
    tlv = known.get(kind)
    if tlv is None:
        return None
    try:
        return tlv.value.decode(encoding)
    except UnicodeDecodeError as error:
        raise ProxyHeaderError(
            f"the TLV {names[kind]} is no {encoding.upper()}: byte {error.start + 1} of it is "
            f"0x{tlv.value[error.start]:02x}"
        ) from None


def _read_ssl(value: bytes) -> Ssl:
    if len(value) < _SSL_HEAD.size:
        raise ProxyHeaderError(f"the TLV SSL has {len(value)} bytes; it has at least 5")
    client, verify = _SSL_HEAD.unpack_from(value)
    known, others = _sorted(walk(value, _SSL_HEAD.size), _SSL_NAMES)
    cn = known.get(SSL_CN)
    return Ssl(
        client=client,
        verify=verify,
        version=_text(known, SSL_VERSION, "ascii", _SSL_NAMES),
        # Certificates have names in older codes too. Nobody should be refused for that.
        cn=None if cn is None else cn.value.decode("utf-8", "replace"),
        cipher=_text(known, SSL_CIPHER, "ascii", _SSL_NAMES),
        sig_alg=_text(known, SSL_SIG_ALG, "ascii", _SSL_NAMES),
        key_alg=_text(known, SSL_KEY_ALG, "ascii", _SSL_NAMES),
        others=others,
    )


def _write_ssl(ssl: Ssl) -> bytes:
    known = (
        (SSL_VERSION, _encoded(ssl.version, "ascii")),
        (SSL_CN, _encoded(ssl.cn, "utf-8")),
        (SSL_CIPHER, _encoded(ssl.cipher, "ascii")),
        (SSL_SIG_ALG, _encoded(ssl.sig_alg, "ascii")),
        (SSL_KEY_ALG, _encoded(ssl.key_alg, "ascii")),
    )
    return _SSL_HEAD.pack(ssl.client, ssl.verify) + _write((*known, *ssl.others))


def _encoded(text: str | None, encoding: str) -> bytes | None:
    return None if text is None else text.encode(encoding)


def _write(tlvs: tuple[tuple[int, bytes | None], ...]) -> bytes:
    parts: list[bytes] = []
    for kind, value in tlvs:
        if value is not None:
            if len(value) > 0xFFFF:
                raise ValueError(f"{len(value)} bytes for the TLV 0x{kind:02x}; it takes 65535")
            parts += (_HEAD.pack(kind, len(value)), value)
    return b"".join(parts)
