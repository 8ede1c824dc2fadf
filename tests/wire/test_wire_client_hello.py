"""Each rule of the ClientHello, on hellos made by hand."""

from __future__ import annotations

import itertools
import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire.fuzz_client_hello import fuzz_client_hello
from wire.hello_builder import (
    alpn,
    body,
    extension,
    hello,
    message,
    pieces,
    record,
    records,
    server_name,
    supported_versions,
    vector,
)

from spliceproxy.wire.client_hello import (
    ClientHello,
    ClientHelloError,
    ClientHelloReader,
    parse_client_hello,
)
from spliceproxy.wire.need import Need

LABELS = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=20)
GREASE = [0x0A0A, 0x1A1A, 0x2A2A, 0x3A3A, 0x4A4A, 0x5A5A, 0x6A6A, 0x7A7A]
GREASE += [0x8A8A, 0x9A9A, 0xAAAA, 0xBABA, 0xCACA, 0xDADA, 0xEAEA, 0xFAFA]


def parse(data: bytes) -> ClientHello:
    """The hello that `data` is; what the fuzzers check holds of it too."""
    fuzz_client_hello(data)
    found = parse_client_hello(data)
    assert isinstance(found, ClientHello), found
    return found


def error(data: bytes) -> str:
    fuzz_client_hello(data)
    with pytest.raises(ClientHelloError) as caught:
        parse_client_hello(data)
    return str(caught.value)


def test_a_hello_says_name_protocols_and_versions() -> None:
    found = parse(
        hello(
            server_name(b"www.example.com"),
            alpn(b"h2", b"http/1.1"),
            supported_versions(0x0304, 0x0303),
        )
    )
    assert found == ClientHello("www.example.com", (b"h2", b"http/1.1"), 0x0303, (0x0304, 0x0303))


@given(
    labels=st.lists(LABELS, min_size=1, max_size=5).filter(
        lambda labels: not (len(labels) == 4 and all(label.isdigit() for label in labels))
    ),
    protocols=st.lists(st.binary(min_size=3, max_size=255), max_size=4),
    versions=st.lists(st.sampled_from(range(0x0300, 0x0305)), min_size=1, max_size=5),
    grease=st.lists(st.sampled_from(GREASE), min_size=2, max_size=2, unique=True),
    others=st.lists(
        st.tuples(st.integers(50, 2000), st.binary(max_size=300)),
        max_size=10,
        unique_by=lambda other: other[0],
    ),
    sizes=st.lists(st.integers(1, 500), min_size=1, max_size=8),
    cuts=st.lists(st.integers(0, 4000), max_size=6),
    order=st.randoms(use_true_random=False),
)
def test_what_went_in_comes_out_however_it_is_ordered_recorded_and_cut(
    labels: list[str],
    protocols: list[bytes],
    versions: list[int],
    grease: list[int],
    others: list[tuple[int, bytes]],
    sizes: list[int],
    cuts: list[int],
    order: random.Random,
) -> None:
    name = ".".join(labels)
    parts = [server_name(name.encode()), supported_versions(grease[0], *versions)]
    parts += [
        extension(kind, data) for kind, data in [*others, (grease[0], b""), (grease[1], b"x")]
    ]
    if protocols:
        parts.append(alpn(*protocols, grease[1].to_bytes(2, "big")))
    order.shuffle(parts)
    stream = records(message(body(*parts, session_id=bytes(32))), itertools.cycle(sizes))
    wanted = ClientHello(name.lower(), tuple(protocols), 0x0303, tuple(versions))
    reader = ClientHelloReader()
    *early, last = [
        reader.read(seen) for seen in pieces(stream, [c for c in cuts if c < len(stream)])
    ]
    assert last == wanted
    assert all(isinstance(found, Need) and found.total <= len(stream) for found in early)
    assert parse_client_hello(stream) == wanted


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_a_hello_without_extensions_is_one_of_an_old_client(version: int) -> None:
    data = record(message(body(version=bytes([3, version]))))
    assert parse(data) == ClientHello(None, (), 0x0300 + version, (0x0300 + version,))


def test_an_empty_list_of_extensions_is_allowed() -> None:
    assert parse(record(message(body() + vector(b"")))).sni is None


@pytest.mark.parametrize("value", GREASE)
def test_grease_is_nothing(value: int) -> None:
    grease = value.to_bytes(2, "big")
    found = parse(
        hello(
            extension(value, b""),
            server_name(b"a.example"),
            supported_versions(value, 0x0304),
            alpn(grease, b"h2"),
            extension(GREASE[0] if value != GREASE[0] else GREASE[1], b"\0"),
        )
    )
    assert found == ClientHello("a.example", (b"h2",), 0x0303, (0x0304,))


def test_what_looks_like_grease_but_is_not_stays() -> None:
    found = parse(hello(supported_versions(0x0A1A, 0x0304), alpn(b"\x0a\x1a", b"\x0a\x0a\x0a")))
    assert found.versions == (0x0A1A, 0x0304)
    assert found.alpn == (b"\x0a\x1a", b"\x0a\x0a\x0a")


@pytest.mark.parametrize(
    ("raw", "sni"),
    [
        (b"WWW.Example.COM", "www.example.com"),
        (b"www.example.com.", "www.example.com"),
        (b"localhost", "localhost"),
        (b"_dmarc.my_host.example", "_dmarc.my_host.example"),
        (b"r3---sn-x.example", "r3---sn-x.example"),
        (b"xn--bcher-kva.example", "xn--bcher-kva.example"),
        (b"1.2.3", "1.2.3"),
        (b"1.2.3.256", "1.2.3.256"),
        (b"beef.cafe", "beef.cafe"),
        (b"a" * 63 + b".example", "a" * 63 + ".example"),
        (b".".join([b"a" * 49] * 5) + b".abc.", ".".join(["a" * 49] * 5) + ".abc"),
        (b"192.0.2.1", None),
        (b"192.0.2.1.", None),
        (b"2001:DB8::1", None),
        (b"::ffff:192.0.2.1", None),
    ],
)
def test_a_name_has_one_form_and_an_address_is_none(raw: bytes, sni: str | None) -> None:
    assert parse(hello(server_name(raw))).sni == sni


@pytest.mark.parametrize(
    "raw",
    [
        b"www.example.com\0.evil.example",
        b"\0",
        "bücher.example".encode(),
        b"b\xfccher.example",
        b"a b",
        b".",
        b"..",
        b"a..b",
        b".a",
        b"a..",
        b"a" * 64,
        b".".join([b"a" * 49] * 5) + b".abcd",
        b"*.example.com",
        b"[::1]",
        b"fe80::1%eth0",
        b"example.com:443",
        b"user@example.com",
        b"example.com/",
        b"example.com\n",
        b"a" * 10000,
        b":" * 10000,
        b"1" * 10000,
        b"1." * 5000,
    ],
)
def test_what_is_no_host_name_is_an_error_of_bounded_length(raw: bytes) -> None:
    text = error(hello(server_name(raw)))
    assert text.startswith("server_name is not a host name: '")
    assert len(text) < 300


def test_the_first_host_name_counts_and_other_types_are_skipped() -> None:
    found = parse(hello(server_name((7, b"\xff\0"), b"one.example", b"two.example", (0, b"\0"))))
    assert found.sni == "one.example"
    assert parse(hello(server_name((7, b"name")))).sni is None


def test_the_outer_name_counts_where_the_hello_is_encrypted() -> None:
    ech = extension(0xFE0D, b"\0\0\1\0\1\x42" + vector(bytes(32)) + vector(bytes(144)))
    assert parse(hello(ech, server_name(b"public.example"))).sni == "public.example"


@pytest.mark.parametrize("kind", [0, 16, 43, 10, 0x0A0A, 65535])
def test_an_extension_that_comes_twice_is_an_error(kind: int) -> None:
    known = {0: server_name(b"a.example"), 16: alpn(b"h2"), 43: supported_versions(0x0304)}
    one = known.get(kind, extension(kind, b""))
    text = error(hello(one, extension(12345, b"x"), one))
    assert text == f"extension {kind} comes twice"


WRONG = {
    "server_name without a list": (extension(0, b""), "server_name has a list of 0 bytes"),
    "server_name with an empty list": (extension(0, vector(b"")), "has a list of 0 bytes"),
    "server_name with a list too long": (extension(0, b"\0\x09\0\0\1a"), "list of 9 bytes"),
    "server_name with something behind": (extension(0, b"\0\4\0\0\1ab"), "list of 4 bytes"),
    "server_name with an empty name": (extension(0, b"\0\3\0\0\0"), "a name of 0 bytes"),
    "server_name with a name too long": (extension(0, b"\0\4\0\0\2a"), "a name of 2 bytes"),
    "server_name with half an entry": (extension(0, b"\0\6\0\0\1a\0\0"), "inside a name"),
    "ALPN without a list": (extension(16, b""), "ALPN has a list of 0 bytes"),
    "ALPN with an empty list": (extension(16, vector(b"")), "ALPN has a list of 0 bytes"),
    "ALPN with an empty name": (extension(16, vector(b"\2h2\0")), "ALPN has a name of 0 bytes"),
    "ALPN with a name too long": (extension(16, vector(b"\3h2")), "a name of 3 bytes"),
    "ALPN with something behind": (extension(16, vector(b"\2h2") + b"x"), "list of 3 bytes"),
    "no versions": (extension(43, vector(b"", 1)), "supported_versions has a list of 0 bytes"),
    "half a version": (extension(43, vector(b"\3\4\3", 1)), "half a version"),
    "versions with something behind": (extension(43, b"\2\3\4\0"), "a list of 2 bytes"),
    "half a header": (extension(7, b"") + b"\0\x08\0", "ends inside an extension"),
    "an extension too long": (b"\0\7\0\5abcd", "extension 7 is longer than the list"),
}


@pytest.mark.parametrize("what", WRONG)
def test_lengths_that_do_not_fit_inside_an_extension_are_an_error(what: str) -> None:
    data, text = WRONG[what]
    assert text in error(hello(data))
    assert text in error(hello(extension(10, b"before"), data)), "also behind another one"


def test_lengths_that_do_not_fit_before_the_extensions_are_an_error() -> None:
    good = body(server_name(b"a.example"), session_id=b"s" * 32)
    assert parse(record(message(good))).sni == "a.example"
    for end in range(1, len(good)):
        if end != 32 + 2 + 33 + 4 + 2:  # a hello may end before its extensions
            assert error(record(message(good[:end])))
    assert "session id of 33 bytes" in error(record(message(body(session_id=b"s" * 33))))
    assert "cipher suites of 3 bytes" in error(record(message(body(suites=b"123"))))
    assert "cipher suites of 0 bytes" in error(record(message(body(suites=b""))))
    assert "empty list of compression" in error(record(message(body(compression=b""))))
    assert "where 1 follow" in error(record(message(body() + vector(b"") + b"x")))
    assert "version 2.0" in error(record(message(body(version=b"\2\0"))))
    assert "of 0 bytes" in error(record(message(b"")))
