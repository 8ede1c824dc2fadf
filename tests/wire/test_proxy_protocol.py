"""PROXY headers, versions 1 and 2: what is a header, what is none, and that pieces do not matter.

The examples are those of the specification, haproxy.org, doc/proxy-protocol.txt.
"""

from __future__ import annotations

import ipaddress
import re

import pytest
from fuzz_proxy_protocol import check, check_every_split, outcome, seeds
from harness.lines import lines_run
from hypothesis import given
from hypothesis import strategies as st
from proxy_headers import ip_pairs, raw_header, tlvs, unix_header, unix_pairs

from spliceproxy.wire.need import Need
from spliceproxy.wire.proxy_protocol import (
    LOCAL_V2,
    UNKNOWN_V1,
    Address,
    Header,
    ProxyHeaderError,
    Tlvs,
    build_v1,
    build_v2,
    parse_proxy_header,
)

SIGNATURE = bytes.fromhex("0D0A0D0A000D0A515549540A")
WIDE = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"


def error_of(data: bytes) -> str:
    """The sentence with which `data` is refused, however it is split."""
    with pytest.raises(ProxyHeaderError) as caught:
        parse_proxy_header(data)
    assert check_every_split(data) == str(caught.value)
    return str(caught.value)


def test_the_line_of_the_specification_is_read_and_what_follows_is_left() -> None:
    line = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
    request = b"GET / HTTP/1.1\r\nHost: 192.168.0.11\r\n\r\n"
    header = check_every_split(line + request)
    assert header == Header(
        length=len(line),
        version=1,
        family="tcp4",
        source=("192.168.0.1", 56324),
        destination=("192.168.0.11", 443),
    )


@pytest.mark.parametrize(
    ("line", "size", "source"),
    [
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            56,
            ("255.255.255.255", 65535),
        ),
        (f"PROXY TCP6 {WIDE} {WIDE} 65535 65535\r\n", 104, (WIDE, 65535)),
        ("PROXY UNKNOWN\r\n", 15, None),
        (f"PROXY UNKNOWN {WIDE} {WIDE} 65535 65535\r\n", 107, None),
    ],
)
def test_the_longest_and_shortest_lines_of_the_specification_are_read(
    line: str, size: int, source: Address | None
) -> None:
    header = check_every_split(line.encode())
    assert isinstance(header, Header)
    assert (header.length, header.source, header.destination) == (size, source, source)


def test_the_shortest_lines_are_never_waited_for_too_long() -> None:
    check_every_split(b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n")
    check_every_split(b"PROXY TCP6 :: :: 0 0\r\n")
    assert outcome(b"PROXY TCP6 :") == Need(22)
    assert outcome(b"PROXY TCP4 1") == Need(32)
    assert outcome(b"PROXY TCP4 192.0.2.1 192.0.2.2 10 20") == Need(38)
    assert outcome(b"PROXY TCP4 192.0.2.1 192.0.2.2 10 20\r") == Need(38)


@pytest.mark.parametrize(
    "text",
    ["1:2:3:4:5:6:7:8", "2001:DB8::a", "::", "::1", "1::", "2001:0db8:0000:0000:0001:0:0:1"],
)
def test_an_ipv6_address_is_told_in_its_one_canonical_form(text: str) -> None:
    header = check_every_split(f"PROXY TCP6 {text} ::2 1 2\r\n".encode())
    assert isinstance(header, Header)
    assert header.source == (ipaddress.IPv6Address(text).compressed, 1)


def test_an_ipv4_mapped_address_is_told_as_the_ipv4_address_that_it_stands_for() -> None:
    header = check_every_split(b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 1 2\r\n")
    assert isinstance(header, Header)
    assert (header.source, header.destination) == (("192.0.2.1", 1), ("2001:db8::1", 2))
    assert header.family == "tcp6"
    packed = ipaddress.IPv6Address("::ffff:192.0.2.1").packed
    header = check_every_split(SIGNATURE + b"\x21\x21\0\x24" + packed * 2 + b"\0\1\0\2")
    assert isinstance(header, Header)
    assert (header.source, header.destination) == (("192.0.2.1", 1), ("192.0.2.1", 2))


@pytest.mark.parametrize(
    "line",
    [
        "PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n",
        "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
        "PROXY TCP4 192.0.2.1\t192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1. 192.0.2.2 1 2\r\n",
        "PROXY TCP4 0xc0.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 ::1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1\0 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.\u00b9 192.0.2.2 1 2\r\n",
        "PROXY TCP6 192.0.2.1 ::1 1 2\r\n",
        "PROXY TCP6 ::1 192.0.2.1 1 2\r\n",
        "PROXY TCP6 1:2:3:4:5:6:7 ::1 1 2\r\n",
        "PROXY TCP6 1:2:3:4:5:6:7:8:9 ::1 1 2\r\n",
        "PROXY TCP6 1::2::3 ::1 1 2\r\n",
        "PROXY TCP6 00001::2 ::1 1 2\r\n",
        "PROXY TCP6 fe80::1%lo ::1 1 2\r\n",
        "PROXY TCP6 [::1] ::1 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 00 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 -2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1_0 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 100000\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 \u0662\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\rX",
        "PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY UNKNOWN\n",
        "PROXY \r\n",
        "PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY\tTCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        " PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        f"PROXY UNKNOWN {WIDE} {WIDE} 65535 65535 \r\n",
        "PROXY UNKNOWN " + "x" * 200,
        "PROXY TCP4 " + "1" * 200,
    ],
)
def test_a_line_that_is_not_exactly_that_of_the_specification_is_refused(line: str) -> None:
    assert "\n" not in error_of(line.encode("utf-8"))


def test_a_single_lf_is_refused_at_once_so_that_nobody_waits_for_the_rest() -> None:
    with pytest.raises(ProxyHeaderError, match="ends with CR LF"):
        parse_proxy_header(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n")


def test_a_line_that_can_no_longer_end_in_time_is_refused_at_once() -> None:
    assert outcome(b"PROXY UNKNOWN ".ljust(105, b"x")) == Need(107)
    assert outcome(b"PROXY UNKNOWN ".ljust(105, b"x") + b"\r") == Need(107)
    with pytest.raises(ProxyHeaderError, match="no end of line in 107 bytes"):
        parse_proxy_header(b"PROXY UNKNOWN ".ljust(106, b"x"))
    # Its 107th byte makes no other mistake of it.
    for last in (b"\n", b"\r", b"x"):
        assert "no end of line" in error_of(b"PROXY TCP6 ".ljust(106, b"x") + last)


def test_whatever_stands_behind_unknown_is_ignored() -> None:
    for rest in (b" ", b" \r \n \0\xff", b" TCP4 1 2 3 4", b" PROXY UNKNOWN\r"):
        line = b"PROXY UNKNOWN" + rest + b"\r\n"
        assert check_every_split(line + b"more") == Header(len(line), 1)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"PROXIMITY",
        b"\r\n\r\n\0\r\nQUIT\r\n",
        b"\r\nHELO",
        b"\0",
    ],
)
def test_what_is_no_header_is_refused_with_its_first_wrong_byte(data: bytes) -> None:
    sentence = error_of(data)
    found = re.fullmatch(r"no PROXY header: byte (\d+) is 0x(..);.*", sentence)
    assert found is not None, sentence
    place = int(found[1])
    assert data[place - 1] == int(found[2], 16)
    assert isinstance(outcome(data[: place - 1]), Need)


def test_nothing_at_all_needs_the_shortest_header() -> None:
    assert outcome(b"") == Need(15)
    assert outcome(b"P") == Need(15)
    assert outcome(b"\r") == Need(16)


V2 = [
    (
        "21 11 000C  C0A80001 C0A8000B DC04 01BB",
        Header(28, 2, False, "tcp4", ("192.168.0.1", 56324), ("192.168.0.11", 443)),
    ),
    (
        "21 21 0024  20010DB8000000000000000000000001 20010DB8000000000000000000000002 0000 FFFF",
        Header(52, 2, False, "tcp6", ("2001:db8::1", 0), ("2001:db8::2", 65535)),
    ),
    (
        "21 31 00D8  2F612F62" + "00" * 104 + "006E616D65" + "00" * 103,
        Header(232, 2, False, "unix", "/a/b", "\0name"),
    ),
    (
        "21 31 00D8  2F610062" + "00" * 103 + "FF" + "2F63" + "00" * 106,
        Header(232, 2, False, "unix", "/a", "/c"),
    ),
    ("21 31 00D8  " + "61" * 108 + "00" * 108, Header(232, 2, False, "unix", "a" * 108, "")),
    ("21 00 0000", Header(16, 2)),
    ("21 01 0000", Header(16, 2)),
    ("21 10 000C  C0A80001 C0A8000B DC04 01BB", Header(28, 2)),
    ("20 00 0000", Header(16, 2, True)),
]


@pytest.mark.parametrize(("text", "expected"), V2)
def test_a_binary_header_is_read(text: str, expected: Header) -> None:
    assert check_every_split(SIGNATURE + bytes.fromhex(text) + b"hello") == expected


@pytest.mark.parametrize("block", [b"", b"\0", bytes(12), bytes(216), b"\xff" * 300])
@pytest.mark.parametrize("family", [0x00, 0x11, 0x12, 0x31, 0x55, 0xFF])
def test_of_local_only_the_length_counts(family: int, block: bytes) -> None:
    start = SIGNATURE + bytes([0x20, family]) + len(block).to_bytes(2, "big")
    header = check_every_split(start + block + b"EHLO")
    assert header == Header(16 + len(block), 2, local=True)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("11 11 000C", "version 1 behind the signature"),
        ("31 11 000C", "version 3 behind the signature"),
        ("22 11 000C", "no command 2"),
        ("2F 11 000C", "no command 15"),
        ("21 12 000C", "datagrams"),
        ("21 22 0024", "datagrams"),
        ("21 32 00D8", "datagrams"),
        ("21 13 000C", "no family and transport 0x13"),
        ("21 41 000C", "no family and transport 0x41"),
        ("21 11 000B", "its family 0x11 takes 12"),
        ("21 21 0023", "its family 0x21 takes 36"),
        ("21 31 00D7", "its family 0x31 takes 216"),
        ("21 11 0FF1", "the header says 4097 bytes"),
        ("20 00 FFFF", "the header says 65551 bytes"),
    ],
)
def test_a_binary_header_that_can_come_to_nothing_is_refused_within_its_16_bytes(
    text: str, sentence: str
) -> None:
    data = SIGNATURE + bytes.fromhex(text)
    assert sentence in error_of(data)
    decided = next(size for size in range(17) if not isinstance(outcome(data[:size]), Need))
    if sentence.startswith(("version", "no command")):
        assert decided == 13
    elif sentence.startswith(("datagrams", "no family")):
        assert decided == 14


def test_a_header_of_4096_bytes_is_taken() -> None:
    data = build_v2(("192.0.2.1", 1), ("192.0.2.2", 2), Tlvs(others=((0xE0, bytes(4065)),)))
    assert len(data) == 4096
    header = parse_proxy_header(data)
    assert isinstance(header, Header)
    assert header.length == 4096


def test_a_binary_header_says_from_its_16th_byte_on_how_many_it_takes() -> None:
    data = build_v2(("2001:db8::1", 1), ("2001:db8::2", 2), Tlvs(authority="www.example.com"))
    needs = {size: outcome(data[:size]) for size in range(len(data))}
    assert {needs[size] for size in range(1, 16)} == {Need(16)}
    assert {needs[size] for size in range(16, len(data))} == {Need(len(data))}


@given(ip_pairs)
def test_a_line_that_was_built_reads_as_what_was_said(pair: tuple[Address, Address]) -> None:
    line = build_v1(*pair)
    header = check_every_split(line)
    assert isinstance(header, Header)
    assert (header.length, header.version) == (len(line), 1)
    assert (header.source, header.destination) == pair


@given(unix_pairs)
def test_unix_sockets_are_told_by_their_paths(pair: tuple[str, str]) -> None:
    header = check_every_split(unix_header(*pair))
    assert header == Header(232, 2, False, "unix", *pair)


@given(ip_pairs, tlvs)
def test_a_binary_header_that_was_built_reads_as_what_was_said(
    pair: tuple[Address, Address], said: Tlvs
) -> None:
    data = build_v2(*pair, said)
    header = check_every_split(data)
    assert isinstance(header, Header)
    assert (header.length, header.version, header.local) == (len(data), 2, False)
    assert (header.source, header.destination, header.tlvs) == (*pair, said)


def test_mixed_families_are_told_as_ipv6() -> None:
    v4, v6 = ("192.0.2.1", 1), ("2001:db8::1", 2)
    assert build_v1(v4, v6) == b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 1 2\r\n"
    assert build_v1(v6, v4) == b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 2 1\r\n"
    mapped = bytes.fromhex("00000000000000000000FFFFC0000201")
    assert build_v2(v4, v6)[13:32] == b"\x21\0\x24" + mapped


def test_two_mapped_addresses_are_told_as_ipv4_as_all_receivers_know_it() -> None:
    a, b = ("::ffff:192.0.2.1", 1, 0, 0), ("::FFFF:c000:202", 2, 0, 0)
    assert build_v1(a, b) == b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
    assert build_v2(a, b) == build_v2(("192.0.2.1", 1), ("192.0.2.2", 2))


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("", "/run/web.sock"),
        (b"\0name", "/run/web.sock"),
        (None, None),
        (("192.0.2.1", 1), None),
        (("192.0.2.1", 1), "/run/web.sock"),
    ],
)
def test_all_but_two_ip_addresses_is_unknown_or_local_which_every_receiver_takes(
    source: Address | bytes | None, destination: Address | None
) -> None:
    assert build_v1(source, destination) == UNKNOWN_V1
    assert build_v2(source, destination) == LOCAL_V2
    data = build_v2(source, destination, Tlvs(authority="a"))
    assert data == raw_header(0x00, b"\x02\0\x01a", command=0x20)
    assert check_every_split(data) == Header(len(data), 2, local=True)


@pytest.mark.parametrize(
    "ip", ["", "192.0.2.1\r\nX", "localhost", "::g", "192.0.2.01", "fe80::1%1", "192.0.2.1\0"]
)
def test_what_is_no_ip_address_is_not_written(ip: str) -> None:
    for build in (build_v1, build_v2):
        with pytest.raises(ValueError, match="is no IP address"):
            build((ip, 1), ("192.0.2.1", 2))


def test_local_is_written_as_the_specification_recommends() -> None:
    assert bytes.fromhex("0D0A0D0A000D0A515549540A 20 00 0000") == LOCAL_V2


@given(
    st.binary(max_size=40)
    | st.sampled_from(seeds()).flatmap(
        lambda seed: st.binary(max_size=40).map(lambda end: seed + end)
    )
)
def test_any_bytes_give_a_header_a_need_or_an_error_however_they_are_split(data: bytes) -> None:
    check(data)


@pytest.mark.parametrize("seed", seeds())
def test_every_seed_of_the_fuzzer_gives_the_same_at_every_split(seed: bytes) -> None:
    check_every_split(seed)


def test_steps_grow_with_the_bytes_and_no_faster() -> None:
    def longest(tlvs: int) -> bytes:
        others = ((0xE0, b""),) * tlvs
        return build_v2(("::1", 1), ("::2", 2), Tlvs(others=others, crc32c=True))

    def lines(data: bytes) -> int:
        return lines_run(lambda: parse_proxy_header(data))

    parse_proxy_header(longest(1))  # makes the table of the checksum
    half, whole = lines(longest(600)), lines(longest(1200))
    print(f"{half} lines for 1859 bytes, {whole} for 3659")
    assert whole < 2.1 * half
    growing = [longest(1200)[:size] for size in range(3000)]
    waiting = max(lines(data) for data in growing)
    print(f"{waiting} lines at most while the header is not whole")
    assert waiting < 40
