"""A ClientHello in records of any size: reassembled, bounded, and in linear time."""

from __future__ import annotations

import itertools
import time
from contextlib import suppress

import pytest
from harness.lines import lines_run
from wire.fuzz_client_hello import fuzz_client_hello
from wire.hello_builder import (
    alpn,
    body,
    extension,
    hello,
    message,
    record,
    records,
    server_name,
    vector,
)

from spliceproxy.wire.client_hello import (
    MAX_BODY,
    MAX_BYTES,
    MAX_EMPTY,
    ClientHello,
    ClientHelloError,
    ClientHelloReader,
    parse_client_hello,
)
from spliceproxy.wire.need import Need


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


def need(data: bytes) -> int:
    found = parse_client_hello(data)
    assert isinstance(found, Need), found
    return found.total


def test_what_follows_the_hello_is_not_looked_at() -> None:
    data = hello(server_name(b"a.example"))
    wanted = parse(data)
    for behind in (record(b"\1", 20), record(bytes(100), 23), b"\xff", b"\x16\3", bytes(70_000)):
        assert parse(data + behind) == wanted
    inner = message(body(server_name(b"a.example")))
    assert parse(record(inner + b"\x0b\0\0\0")) == wanted


@pytest.mark.parametrize("size", range(1, 12))
def test_records_of_any_size_hold_the_same_hello(size: int) -> None:
    inner = message(body(server_name(b"a.example"), alpn(b"h2")))
    assert parse(records(inner, itertools.repeat(size))) == parse(record(inner))


def test_the_largest_hello_is_read_and_one_byte_more_is_refused_at_once() -> None:
    small = len(body(server_name(b"a.example"), extension(21, b"")))
    large = body(server_name(b"a.example"), extension(21, bytes(MAX_BODY - small)))
    assert len(large) == MAX_BODY
    inner = message(large)
    for size in (16384, 16383, 10000, 1000, 2):
        assert parse(records(inner, itertools.repeat(size))).sni == "a.example"
    more = records(b"\1" + vector(large + b"x", 3), itertools.repeat(16384))
    assert "a ClientHello of 16385 bytes; 1 to 16384 may be" in error(more[:9])


def test_records_that_make_a_hello_too_long_are_refused_before_all_came() -> None:
    inner = message(body(extension(21, bytes(MAX_BODY - 100))))
    data = records(inner, itertools.repeat(1))
    assert len(data) > MAX_BYTES
    assert error(data[:60_000]) == f"a ClientHello in more than {MAX_BYTES} bytes of records"


def test_waiting_for_what_is_needed_takes_few_calls() -> None:
    inner = message(body(extension(21, bytes(10_000))))
    data = records(inner, itertools.repeat(1))
    reader = ClientHelloReader()
    totals = [0]
    while isinstance(found := reader.read(data[: totals[-1]]), Need):
        totals.append(found.total)
    print(f"{len(data)} bytes in records of one: {totals}")
    assert isinstance(found, ClientHello)
    assert totals[-1] == len(data)
    assert len(totals) < 80


def test_a_client_that_stops_in_the_middle_costs_a_few_numbers() -> None:
    inner = message(body(extension(21, bytes(10_000))))
    reader = ClientHelloReader()
    reader.read(records(inner, itertools.repeat(7))[:-1])
    assert all(isinstance(getattr(reader, slot), int) for slot in ClientHelloReader.__slots__)


def test_a_record_may_be_full_and_not_more() -> None:
    inner = message(body(extension(21, bytes(MAX_BODY - 100))))
    assert parse(record(inner + bytes(2**14 - len(inner))))
    text = error(record(inner + bytes(2**14 + 1 - len(inner))))
    assert text == "a record of 16385 bytes; at most 16384 are allowed"


def test_some_empty_records_are_borne_and_more_are_not() -> None:
    inner = message(body(server_name(b"a.example")))
    empty = record(b"")
    spread = itertools.chain([0, 1, 0, 2, 0, 0], [0] * (MAX_EMPTY - 4), itertools.repeat(50))
    assert parse(records(inner, spread)).sni == "a.example"
    assert parse(empty * MAX_EMPTY + record(inner)).sni == "a.example"
    assert error(empty * (MAX_EMPTY + 1) + record(inner)) == f"more than {MAX_EMPTY} empty records"
    assert error(empty * 100_000) == f"more than {MAX_EMPTY} empty records"


@pytest.mark.parametrize("place", [1, 3, 4, 5, 40])
@pytest.mark.parametrize(
    "strange",
    [record(b"\1", 20), record(b"\2\50", 21), record(b"x", 23), record(b"x", version=b"\2\0")],
)
def test_another_record_in_the_middle_is_an_error(place: int, strange: bytes) -> None:
    inner = message(body(server_name(b"a.example")))
    text = error(record(inner[:place]) + strange + record(inner[place:]))
    assert "came before the ClientHello was whole" in text


@pytest.mark.parametrize("kind", [0, 2, 11, 22, 128, 255])
def test_another_message_is_an_error_at_its_first_byte(kind: int) -> None:
    text = error(record(bytes([kind]) + vector(bytes(50), 3))[:6])
    assert text == f"a handshake message of type {kind} is not a ClientHello"
    assert text == error(record(b"") + record(bytes([kind])))


SSL2 = bytes.fromhex("802e0100020015000000100100800300800700c006004002008004008000000a") + bytes(16)


@pytest.mark.parametrize(
    "data",
    [
        SSL2,
        b"GET / HTTP/1.1\r\n\r\n",
        b"SSH-2.0-x\r\n",
        b"\0",
        b"\x15\3\1\0\2\2\50",
        b"\x17",
        b"\x16\2",
        b"\x16G",
    ],
)
def test_what_is_not_tls_is_told_by_two_bytes(data: bytes) -> None:
    fuzz_client_hello(data)
    assert parse_client_hello(data) is None
    assert parse_client_hello(data[:2]) is None


def test_what_is_needed_is_known_as_soon_as_a_length_is() -> None:
    data = hello(server_name(b"a.example"))
    assert [need(data[:seen]) for seen in (0, 1, 2, 8, 9, len(data) - 1)] == [
        2, 2, 9, 9, len(data), len(data),
    ]  # fmt: skip
    inner = message(body(server_name(b"a.example")))
    parts = record(inner[:2]) + record(inner[2:10]) + record(inner[10:])
    assert need(parts[:2]) == 9
    assert need(parts[:5]) == 7 + 5 + 2
    assert need(parts[:7]) == 7 + 5 + 2
    assert need(parts[:16]) == 20 + 5 + len(inner) - 10
    assert need(parts[:20]) == len(parts)
    large = message(body(extension(21, bytes(16_300))) + bytes(0))
    assert need(record(large[:100])[:9]) == 105 + 5 + len(large) - 100


def test_steps_grow_with_the_bytes_and_no_faster_though_they_come_one_by_one() -> None:
    inner = message(body(*(extension(kind, b"") for kind in range(1000, 3000))))
    data = records(inner, itertools.repeat(1))

    def read(length: int) -> int:
        reader = ClientHelloReader()
        return lines_run(lambda: [reader.read(data[:seen]) for seen in range(length + 1)])

    short, long = read(len(data) // 8), read(len(data))
    print(f"{len(data) // 8} bytes: {short} steps; {len(data)}: {long}")
    assert long < 9 * short


@pytest.mark.parametrize("size", [1, 2, 1000, 16384])
def test_the_worst_hellos_take_milliseconds(size: int) -> None:
    count = 2500 if size == 1 else 4000
    inner = message(body(*(extension(kind, b"") for kind in range(1000, 1000 + count))))
    for content in (inner, message(body(server_name(b"a." * 4000 + b"!")))):
        data = records(content, itertools.repeat(size))
        begin = time.process_time()
        with suppress(ClientHelloError):
            assert isinstance(parse_client_hello(data), ClientHello)
        spent = time.process_time() - begin
        print(f"{len(data)} bytes in records of {size}: {spent * 1e3:.1f} ms")
        assert spent < 0.2
