"""PostgreSQL's first messages, told from each other by the fewest bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire.fuzz_client_hello import fuzz_postgres

from spliceproxy.wire.need import Need
from spliceproxy.wire.postgres import GSSENC_REQUEST, SSL_REQUEST, read_first_message

MESSAGES = {
    SSL_REQUEST: ("ssl_request", 8),
    GSSENC_REQUEST: ("gssenc_request", 8),
    bytes.fromhex("00000010 04d2162e 00000001 00000002"): ("cancel_request", 8),
    bytes.fromhex("0000010c 04d2162e 00000001") + bytes(256): ("cancel_request", 8),
    bytes.fromhex("00000008 00030000"): ("startup", 6),
    bytes.fromhex("00002710 0003270f") + b"user\0me\0\0": ("startup", 6),
}
OTHERS = [
    b"\x16\3",
    b"\0\1",
    bytes.fromhex("00000007 0003"),
    bytes.fromhex("00002711 0003"),
    bytes.fromhex("00000009 04d2162f"),
    bytes.fromhex("00000008 04d2162e"),
    bytes.fromhex("00000008 04d21631"),
    bytes.fromhex("00000020 0002"),
]


@pytest.mark.parametrize("data", MESSAGES)
def test_a_message_is_known_by_the_fewest_bytes_and_never_waits_for_more(data: bytes) -> None:
    name, enough = MESSAGES[data]
    fuzz_postgres(data)
    for seen in range(enough):
        found = read_first_message(data[:seen])
        assert isinstance(found, Need)
        assert seen < found.total <= enough
    for seen in range(enough, len(data) + 1):
        assert read_first_message(data[:seen]) == name


@pytest.mark.parametrize("data", OTHERS)
def test_what_is_no_such_message_is_nothing(data: bytes) -> None:
    fuzz_postgres(data)
    assert read_first_message(data) is None


@given(st.binary(max_size=12) | st.builds(bytes.__add__, st.just(b"\0\0"), st.binary(max_size=9)))
def test_any_bytes_have_an_answer_that_holds_whatever_follows(data: bytes) -> None:
    fuzz_postgres(data)
    assert len(data) < 8 or not isinstance(read_first_message(data), Need)
