"""What must hold of the parsers of `wire` for any bytes. A function raises where it does not.

Each takes one input. It makes the splits that it tries from the input itself, so an input that
fails once fails again.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path

from wire.hello_builder import payload, records

from spliceproxy.wire.client_hello import (
    HANDSHAKE,
    MAX_BYTES,
    ClientHello,
    ClientHelloError,
    ClientHelloReader,
    parse_client_hello,
)
from spliceproxy.wire.http_host import read_http_host
from spliceproxy.wire.need import Buffer, Need
from spliceproxy.wire.postgres import GSSENC_REQUEST, SSL_REQUEST, read_first_message
from spliceproxy.wire.protocol import sniff

SPLITS = 6
_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_PROTOCOLS = {"tls", "http", "ssh", "postgres", "unknown"}
_FIRST_MESSAGES = {"ssl_request", "gssenc_request", "cancel_request", "startup", None}


def seeds() -> list[bytes]:
    """What real clients sent, to be mutated; hellos in small records too."""
    found = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("data/*.bin"))]
    hellos = [payload(data) for data in found if data[0] == HANDSHAKE]
    tiny = records(min(hellos, key=len), repeat(3))
    return [*found, tiny, *(records(inner, repeat(200)) for inner in hellos)]


def postgres_seeds() -> list[bytes]:
    """What psql sent, both requests, and a cancel."""
    found = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("data/*psql*.bin"))]
    cancel = bytes.fromhex("00000010 04d2162e 00000001 00000002")
    return [*found, SSL_REQUEST, GSSENC_REQUEST, cancel]


def fuzz_client_hello(data: bytes) -> None:
    """A hello, Need, None or ClientHelloError; the same for each split and each type of bytes."""
    whole = _hello_outcome(parse_client_hello, data)
    _check_hello(whole)
    _check_splits(data, whole, lambda seen: _hello_outcome(parse_client_hello, seen))
    reader = ClientHelloReader()
    for seen in _growing(data):
        outcome = _hello_outcome(reader.read, seen)
        if not isinstance(outcome, Need):
            break
        # Whoever waits for what is needed must not wait for more than the hello has.
        if isinstance(whole, ClientHello):
            assert outcome.total <= len(data), (outcome, len(data))
            early = _hello_outcome(parse_client_hello, data[: outcome.total - 1])
            assert isinstance(early, Need), (outcome, early)
    assert outcome == whole, (outcome, whole)


def fuzz_protocol(data: bytes) -> None:
    """A protocol or Need; it is tls exactly where the hello's parser says so too."""
    whole = sniff(data)
    assert isinstance(whole, Need) or whole in _PROTOCOLS, whole
    _check_splits(data, whole, sniff)
    if not isinstance(whole, Need):
        is_tls = _hello_outcome(parse_client_hello, data) is not None
        assert (whole == "tls") == is_tls, (whole, is_tls)


def fuzz_http_host(data: bytes) -> None:
    """A host name, an address, None or Need; the same for each split."""
    whole = read_http_host(data)
    if isinstance(whole, str):
        assert _NAME.fullmatch(whole) or re.fullmatch(r"[0-9a-f:.]+", whole), whole
    _check_splits(data, whole, read_http_host)


def fuzz_postgres(data: bytes) -> None:
    """A message, None or Need for eight bytes at the most; it agrees with the protocol's rule."""
    whole = read_first_message(data)
    if isinstance(whole, Need):
        assert len(data) < whole.total <= 8, whole
    else:
        assert whole in _FIRST_MESSAGES, whole
    _check_splits(data, whole, read_first_message)
    protocol = sniff(data)
    if data[:1] == b"\0":
        expected = whole if isinstance(whole, Need) else "postgres" if whole else "unknown"
        assert protocol == expected, (protocol, whole)
    elif data:
        assert whole is None, whole


def _hello_outcome(parse: Callable[[Buffer], object], data: Buffer) -> object:
    try:
        return parse(data)
    except ClientHelloError as error:
        return f"error: {error}"


def _check_hello(outcome: object) -> None:
    if isinstance(outcome, ClientHello):
        assert outcome.sni is None or _NAME.fullmatch(outcome.sni), outcome
        assert outcome.sni is None or len(outcome.sni) <= 253, outcome
        assert all(outcome.alpn), outcome
        assert outcome.legacy_version >> 8 == 3, outcome
    elif isinstance(outcome, str):
        assert outcome.isprintable(), outcome
        assert len(outcome) < 400, outcome
    else:
        assert outcome is None or isinstance(outcome, Need), outcome


def _check_splits(data: bytes, whole: object, parse: Callable[[Buffer], object]) -> None:
    """A beginning has the same answer as the whole, or asks for more than it has."""
    assert parse(memoryview(data)) == whole
    assert parse(bytearray(data)) == whole
    if isinstance(whole, Need):
        assert len(data) < whole.total <= max(MAX_BYTES, len(data) + 1), (whole, len(data))
    else:
        assert parse(data + b"\x16\3\1\0\1 more\r\n\r\n") == whole, "what follows changed it"
    for seen in _growing(data):
        part = parse(seen)
        if isinstance(part, Need):
            assert len(seen) < part.total, (part, len(seen))
        else:
            assert part == whole, (len(seen), part, whole)


def _growing(data: bytes) -> Iterator[bytes]:
    rng = random.Random(zlib.crc32(data))
    for cut in sorted(rng.choices(range(len(data) + 1), k=SPLITS)):
        yield data[:cut]
    yield data
