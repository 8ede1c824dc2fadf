"""Which protocol, by the fewest bytes that tell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire.fuzz_client_hello import fuzz_protocol

from spliceproxy.wire.need import Need
from spliceproxy.wire.postgres import GSSENC_REQUEST, SSL_REQUEST
from spliceproxy.wire.protocol import MAX_METHOD, candidates, sniff

KNOWN = {
    b"\x16\3\1\2\0\1\0\1\xfc\3\3": ("tls", 2),
    b"SSH-2.0-OpenSSH_9.2\r\n": ("ssh", 4),
    SSL_REQUEST: ("postgres", 8),
    GSSENC_REQUEST: ("postgres", 8),
    bytes.fromhex("00000010 04d2162e 00000001 00000002"): ("postgres", 8),
    bytes.fromhex("0000010c 04d2162e 00000001") + bytes(256): ("postgres", 8),
    bytes.fromhex("00000031 00030000") + b"user\0me\0\0": ("postgres", 6),
    bytes.fromhex("00000031 00030002") + b"user\0me\0\0": ("postgres", 6),
    bytes.fromhex("00002710 0003270f") + b"user\0me\0\0": ("postgres", 6),
    b"GET / HTTP/1.1\r\n": ("http", 5),
    b"OPTIONS * HTTP/1.1\r\n": ("http", 9),
    b"POST http://a.example/ HTTP/1.1\r\n": ("http", 12),
    b"GET HTTPS://a.example/ HTTP/1.1\r\n": ("http", 12),
    b"CONNECT a.example:443 HTTP/1.1\r\n": ("http", 8),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": ("http", 5),
    b"SSHX / HTTP/1.1\r\n": ("http", 6),
    b"S / HTTP/1.1\r\n": ("http", 3),
    b"VERSION-CONTROL /x HTTP/1.1\r\n": ("http", 17),
    b"M" * MAX_METHOD + b" https://x/": ("http", MAX_METHOD + 9),
}

STRANGE = {
    b"\x16G": 2,  # almost TLS
    b"\x15\3\1\0\2\1\0": 1,  # a TLS alert
    b"\x80\x2e\1\0\2": 1,  # the hello of SSL 2
    b"\0\1": 2,  # PostgreSQL, but too long
    b"\0\0\x28\0": 3,
    b"\0\0\x27\x11\0\3\0\0": 4,
    b"\0\0\0\7\0\3\0\0": 4,  # too short
    b"\0\0\0\x20\0\4\0\0": 6,  # version 4
    b"\0\0\0\x20\0\2\0\0": 6,  # version 2
    b"\0\0\0\x20\5": 5,
    b"\0\0\0\x09\4\xd2\x16\x2f": 5,  # a request of the wrong length
    b"\0\0\0\x0f\4\xd2\x16\x2e": 5,
    b"\0\0\1\x0d\4\xd2\x16\x2e": 5,
    b"\0\0\0\x08\4\xd2\x16\x2e": 8,
    b"\0\0\0\x08\4\xd2\x17": 7,
    b"EHLO mail.example.com\r\n": 6,
    b"HELO httpd.example.com\r\n": 10,
    b"USER anonymous\r\n": 6,
    b"get httpkey\r\n": 9,
    b"GET  / HTTP/1.1\r\n": 5,  # two blanks
    b"GET\t/ HTTP/1.1\r\n": 4,
    b"*1\r\n$4\r\nPING\r\n": 3,
    b"PING\r\n": 5,
    b" GET / HTTP/1.1\r\n": 1,
    b"\r\nGET / HTTP/1.1\r\n": 1,
    b"M" * (MAX_METHOD + 1) + b" / HTTP/1.1\r\n": MAX_METHOD + 1,
    b"\x10\x1b\0\4MQTT\4": 1,
    b"\xff" * 100: 1,
}


def answers_at(data: bytes) -> tuple[object, int]:
    """The answer, and with how many bytes it first comes."""
    fuzz_protocol(data)
    for seen in range(len(data) + 1):
        found = sniff(data[:seen])
        if not isinstance(found, Need):
            return found, seen
    raise AssertionError(f"no answer to {data!r}")


@pytest.mark.parametrize("data", KNOWN)
def test_a_protocol_is_known_by_the_fewest_bytes(data: bytes) -> None:
    assert answers_at(data) == KNOWN[data]


@pytest.mark.parametrize("data", STRANGE)
def test_what_nobody_knows_is_unknown_by_the_fewest_bytes(data: bytes) -> None:
    assert answers_at(data) == ("unknown", STRANGE[data])


@pytest.mark.parametrize("data", KNOWN)
def test_what_is_needed_is_never_more_than_it_takes(data: bytes) -> None:
    _, enough = KNOWN[data]
    for seen in range(enough):
        found = sniff(data[:seen])
        assert isinstance(found, Need)
        assert seen < found.total <= enough


def test_a_silent_client_needs_one_byte() -> None:
    assert sniff(b"") == Need(1)


@given(
    st.one_of(
        st.binary(max_size=60),
        st.builds(
            bytes.__add__, st.sampled_from(list(KNOWN)).map(lambda data: data[:9]), st.binary()
        ),
        st.builds(bytes.__add__, st.just(b"\0\0"), st.binary(max_size=10)),
    )
)
def test_every_beginning_says_the_same_or_asks_for_more(data: bytes) -> None:
    fuzz_protocol(data)
    if len(data) > MAX_METHOD + 9:
        assert not isinstance(sniff(data), Need), "so many bytes are enough"


@pytest.mark.parametrize("data", KNOWN)
def test_what_a_client_turns_out_to_speak_was_among_what_it_might_speak(data: bytes) -> None:
    protocol, needed = KNOWN[data]
    assert all(protocol in candidates(data[:size]) for size in range(needed))
    assert set(candidates(b"PI")) == {"http"}
