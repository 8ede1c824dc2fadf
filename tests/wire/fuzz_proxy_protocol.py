"""What `parse_proxy_header` promises of any bytes, checked for one input; and good inputs."""

from __future__ import annotations

import zlib
from dataclasses import replace

from wire.proxy_headers import raw_header, unix_header

from spliceproxy.wire.need import Need
from spliceproxy.wire.proxy_protocol import (
    LOCAL_V2,
    MAX_HEADER,
    UNKNOWN_V1,
    Header,
    ProxyHeaderError,
    Ssl,
    Tlvs,
    build_v1,
    build_v2,
    parse_proxy_header,
)

Outcome = Header | Need | str
"""What came of it: an answer, or the sentence of the error."""

MAX_LINE = 107


def outcome(data: bytes | bytearray | memoryview) -> Outcome:
    try:
        return parse_proxy_header(data)
    except ProxyHeaderError as error:
        return str(error)


def check(data: bytes) -> None:
    """Raise AssertionError, or whatever the parser raised, where it breaks a promise."""
    whole = outcome(data)
    _check_answer(whole, data)
    assert outcome(memoryview(bytearray(data))) == whole
    for cut in _cuts(data, whole):
        _check_prefix(outcome(data[:cut]), cut, whole)
    if not isinstance(whole, Need):
        assert outcome(data + b"\r\n more") == whole, "what follows changed the answer"
    if isinstance(whole, Header) and whole.length <= MAX_HEADER // 3:
        _check_written_again(whole)


def check_every_split(data: bytes) -> Outcome:
    """As `check`, with every beginning of `data`. Returns what came of the whole."""
    whole = outcome(data)
    for cut in range(len(data)):
        _check_prefix(outcome(data[:cut]), cut, whole)
    check(data)
    return whole


def _check_answer(answer: Outcome, data: bytes) -> None:
    if isinstance(answer, Need):
        assert len(data) < answer.total <= MAX_HEADER, answer
    elif isinstance(answer, Header):
        assert 0 < answer.length <= min(len(data), MAX_HEADER), answer
        assert answer.version == 2 or answer.length <= MAX_LINE
        assert answer.version == (1 if data.startswith(b"PROXY ") else 2)
        assert (answer.source is None) == (answer.destination is None)
        assert (answer.source is None) == (answer.family == "unspec")
        assert not answer.local or answer == Header(answer.length, 2, local=True)
    else:
        assert answer.isprintable(), answer
        assert "\n" not in answer
        assert len(answer) < 512


def _check_prefix(answer: Outcome, cut: int, whole: Outcome) -> None:
    if not isinstance(answer, Need):
        assert answer == whole, f"the first {cut} bytes gave {answer}, all gave {whole}"
        return
    assert answer.total > cut
    if isinstance(whole, Header):
        assert cut < whole.length, "the whole header is there, and is not seen"
        assert answer.total <= whole.length, "it would wait for more than there is"
    elif isinstance(whole, Need):
        assert answer.total <= whole.total, "it would have waited for too many"


def _check_written_again(header: Header) -> None:
    """What was read can be written, and reads as the same."""
    if header.family not in ("tcp4", "tcp6"):
        return
    if header.version == 1:
        again = parse_proxy_header(build_v1(header.source, header.destination))
    else:
        again = parse_proxy_header(build_v2(header.source, header.destination, header.tlvs))
    assert isinstance(again, Header)
    assert again[4:] == header[4:]


def _cuts(data: bytes, whole: Outcome) -> set[int]:
    """Where to end early: around the places that decide, and at some that vary with the input."""
    size = len(data)
    if size <= 20:
        return set(range(size))
    number = zlib.crc32(data)
    end = whole.length if isinstance(whole, Header) else size
    cuts = {5, 6, 12, 13, 14, 15, 16, end - 1, end, (number >> 16) % size, number % size}
    return {cut for cut in cuts if cut < size}


def seeds() -> list[bytes]:
    """Headers of all kinds, some with bytes behind them, and lines that nearly are headers."""
    v4, other_v4 = ("203.0.113.7", 51234), ("192.0.2.10", 443)
    v6, other_v6 = ("2001:db8::1:7", 65535), ("2001:db8::10", 0)
    ssl = Ssl(7, 0, "TLSv1.3", "client.example", "TLS_AES_256_GCM_SHA384", "RSA-SHA256", "RSA2048")
    tlvs = Tlvs(b"h2", "www.example.com", b"0123456789abcdef", "blue", ssl, ((0xEA, b"\x01vpce"),))
    return [
        build_v1(v4, other_v4),
        build_v1(v4, other_v4) + b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
        build_v1(("255.255.255.255", 65535), ("255.255.255.255", 65535)),
        build_v1(v6, other_v6),
        build_v1(v4, v6),
        b"PROXY TCP6 " + b" ".join([b"ffff:" * 7 + b"ffff"] * 2) + b" 65535 65535\r\n",
        UNKNOWN_V1,
        b"PROXY UNKNOWN " + b" ".join([b"ffff:" * 7 + b"ffff"] * 2) + b" 65535 65535\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n" * 3,
        LOCAL_V2,
        raw_header(0x11, bytes(12), command=0x20) + b"hello",
        build_v2(v4, other_v4),
        build_v2(v6, other_v6) + b"\x16\x03\x01",
        build_v2(v4, other_v6, tlvs),
        build_v2(v6, other_v6, replace(tlvs, crc32c=True)),
        unix_header("/run/app.sock", "\0abstract", b"\x02\0\x01a"),
        unix_header("", "") + b"hello",
        raw_header(0x00, b"\x02\0\x01a"),
        raw_header(0x10, bytes(12)),
        build_v2(None, None, replace(tlvs, crc32c=True)),
        build_v2(v4, other_v4, Tlvs(others=tuple((0x04, b"") for _ in range(40)))),
        build_v2(v4, other_v4, Tlvs(others=((0xE0, bytes(4065)),))),
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"",
    ]
