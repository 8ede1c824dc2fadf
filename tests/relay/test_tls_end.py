"""What a TlsEnd relies on of OpenSSL, and what it promises, against OpenSSL over real sockets."""

from __future__ import annotations

import contextlib
import random
import select
import socket
from collections.abc import Callable

import pytest
from harness.wait import wait_until
from relay_rig import acknowledged, bytes_in, connected, pattern, reset
from tls_peers import (
    VERSIONS,
    TlsFar,
    cut,
    nothing,
    read,
    read_all,
    say,
    tls_pair,
    try_until,
)

from spliceproxy.relay.relay import was_reset
from spliceproxy.relay.tls_end import (
    RECORD,
    UNREAD,
    TlsError,
    TlsTruncatedError,
)

pytestmark = pytest.mark.usefixtures("closed_sockets")

versions = pytest.mark.parametrize("version", VERSIONS)
roles = pytest.mark.parametrize("server", [True, False], ids=["server", "client"])
views = pytest.mark.parametrize("size", [1, 1000, RECORD - 1, RECORD, 1 << 16])


# Reading.


@versions
@roles
@views
def test_every_byte_is_read_once_however_small_the_view_is(
    version: str, server: bool, size: int
) -> None:
    end, peer = tls_pair(version, server=server)
    data = pattern(0, 40 if size == 1 else 150_000)
    rest = memoryview(data)
    got = b""
    view = memoryview(bytearray(size))
    while len(got) < len(data):
        if rest:
            with contextlib.suppress(BlockingIOError):
                rest = rest[peer.send(rest[:30_000]) :]
        peer.pump()
        try:
            got += view[: end.recv_into(view)]
        except BlockingIOError:
            continue
    assert got == data
    assert nothing(end, size)
    assert nothing(end, size), "a read that finds nothing leaves nothing behind"
    peer.close_notify()
    assert read(end, size) == b""
    assert read(end, size) == b""


@versions
def test_a_byte_per_segment_makes_the_same_data(version: str) -> None:
    end, peer = tls_pair(version)
    got, view = b"", memoryview(bytearray(RECORD))
    for byte in cut(peer, b"one") + cut(peer, b"two"):
        peer.sock.send(bytes([byte]))
        wait_until(lambda: bytes_in(end.sock.fileno()), 5, "the byte")
        try:
            got += view[: end.recv_into(view)]
        except BlockingIOError:
            continue
    assert got == b"onetwo"


@versions
def test_a_full_buffer_after_a_cut_record_is_no_record_without_data(version: str) -> None:
    end, peer = tls_pair(version)
    data = pattern(0, 300_000)
    wire = b"".join(cut(peer, data[at : at + RECORD]) for at in range(0, len(data), RECORD))
    peer.sock.send(wire[:10_000])
    acknowledged(peer.sock)
    assert nothing(end)
    got, wire = b"", wire[10_000:]
    while len(got) < len(data):
        with contextlib.suppress(BlockingIOError):
            wire = wire[peer.sock.send(wire) :] if wire else wire
        got += read(end)
    assert got == data


@versions
@pytest.mark.parametrize("seed_of_case", range(5))
def test_however_the_stream_is_cut_the_data_is_the_same(
    version: str, seed_of_case: int, seed: int
) -> None:
    choice = random.Random(f"{seed} {seed_of_case}")
    end, peer = tls_pair(version)
    wire = b""
    size = 0
    while size < 200_000:
        piece = choice.choice([1, 100, 5000, 50_000])
        wire += cut(peer, pattern(size, piece))
        size += piece
    wire += peer.last_words()
    got, done = b"", False
    while not done:
        piece = choice.choice([1, 4, 7, 500, 20_000, 100_000])
        try:
            wire = wire[peer.sock.send(wire[:piece]) :] if wire else wire
            view = memoryview(bytearray(choice.choice([1, 100, RECORD, 1 << 16])))
            more = end.recv_into(view)
            got, done = got + view[:more], not more
        except BlockingIOError:
            continue
    assert got == pattern(0, size)


@versions
def test_a_look_takes_nothing_and_tells_the_end(version: str) -> None:
    end, peer = tls_pair(version)
    with pytest.raises(BlockingIOError):
        end.peek()
    peer.sendall(b"data")
    assert try_until(end.peek, "data")
    assert end.peek()
    assert read(end, 2) == b"da"
    assert end.peek()
    assert read(end) == b"ta"
    peer.close_notify()
    assert not try_until(end.peek, "the end")
    assert read(end) == b""


@versions
@pytest.mark.parametrize("size", [100, 1 << 16])
def test_after_the_last_data_it_says_that_an_end_is_there(version: str, size: int) -> None:
    # No event tells of it: it came in with the data.
    end, peer = tls_pair(version)
    peer.sock.send(cut(peer, b"data") + cut(peer, b"and more"))
    acknowledged(peer.sock)
    view = memoryview(bytearray(size))
    assert end.recv_into(view) == (4 if size == 100 else 12)
    if size == 100:
        assert end.more
        assert end.recv_into(view) == 8
        assert end.more, "of what came since the first read no event will tell"
        assert nothing(end, size)
    else:
        assert not end.more
    peer.sock.send(cut(peer, b"last") + peer.last_words())
    acknowledged(peer.sock)
    assert end.recv_into(view) == 4
    assert end.more
    assert end.recv_into(view) == 0


@versions
@pytest.mark.parametrize("looks", [False, True])
def test_what_came_while_data_was_left_is_never_said_to_be_nothing(
    version: str, looks: bool
) -> None:
    """Its event was told before that data is read: there is no other one."""
    end, peer = tls_pair(version)
    view = memoryview(bytearray(RECORD))
    sent = [pattern(number * RECORD, RECORD) for number in range(3)]
    for record in sent[:1] if looks else sent[:2]:
        peer.sock.sendall(cut(peer, record))
    acknowledged(peer.sock)
    if looks:
        assert end.peek()
    else:
        assert view[: end.recv_into(view)] == sent.pop(0)
    peer.sock.sendall(cut(peer, sent[-1]))
    acknowledged(peer.sock)
    assert view[: end.recv_into(view)] == sent[0]
    assert end.more


@versions
def test_after_the_last_data_it_says_that_an_error_is_there(version: str) -> None:
    end, peer = tls_pair(version)
    peer.sock.send(cut(peer, b"data") + b"\x17\x03\x03\x00\x20" + b"x" * 320)
    acknowledged(peer.sock)
    assert read(end) == b"data"
    assert end.more
    for _ in range(3):
        with pytest.raises(TlsError, match=r"bad record mac|decryption failed"):
            read(end)


# Half-closes.


def _nothing_came(_peer: TlsFar) -> bytes:
    return b""


def _half_a_record(peer: TlsFar) -> bytes:
    wire = cut(peer, b"data of the peer")
    peer.sock.send(wire[:12])
    return wire[12:]


def _half_a_header(peer: TlsFar) -> bytes:
    wire = cut(peer, b"data of the peer")
    peer.sock.send(wire[:3])
    return wire[3:]


def _a_record(peer: TlsFar) -> bytes:
    peer.sock.send(cut(peer, b"data of the peer"))
    return b""


def _records(peer: TlsFar) -> bytes:
    peer.sock.send(b"".join(cut(peer, pattern(0, RECORD)) for _ in range(6)))
    return b""


@versions
@roles
@pytest.mark.parametrize(
    "state", [_nothing_came, _half_a_record, _half_a_header, _a_record, _records]
)
@pytest.mark.parametrize("looked", ["not", "peek", "one byte", "a record", "all"])
def test_close_notify_closes_one_direction_whatever_is_pending_in_the_other(
    version: str, server: bool, state: Callable[[TlsFar], bytes], looked: str
) -> None:
    end, peer = tls_pair(version, server=server)
    if not server:
        with pytest.raises(BlockingIOError):
            end.peek()  # takes in the tickets of TLS 1.3
    rest = state(peer)
    acknowledged(peer.sock)
    got = b""
    try:
        if looked == "peek":
            end.peek()
        elif looked != "not":
            size = {"one byte": 1, "a record": RECORD, "all": 1 << 17}[looked]
            view = memoryview(bytearray(size))
            got += view[: end.recv_into(view)]
    except BlockingIOError:
        pass
    end.close_write()
    end.close_write()
    assert end.flush()
    assert try_until(lambda: peer.recv(100), "close_notify") == b""
    peer.sock.send(rest)
    sent = b"" if state is _nothing_came else b"data of the peer"
    if state is _records:
        sent = pattern(0, RECORD) * 6
    for size in (1, 70_000):
        rest = peer.tls and cut(peer, pattern(0, size))
        while rest:
            rest = rest[peer.sock.send(rest) :]
            acknowledged(peer.sock)
        sent += pattern(0, size)
        while len(got) < len(sent):
            got += read(end)
    peer.close_notify()
    peer.pump()
    got += read_all(end)
    assert got == sent


@versions
@roles
def test_a_fin_without_close_notify_is_a_truncation_after_the_data(
    version: str, server: bool
) -> None:
    end, peer = tls_pair(version, server=server)
    peer.sendall(b"data")
    peer.sock.shutdown(socket.SHUT_WR)
    assert read(end) == b"data"
    for _ in range(3):
        with pytest.raises(TlsTruncatedError):
            read(end)
        with pytest.raises(TlsTruncatedError):
            end.peek()


@versions
@roles
def test_a_fin_in_reply_to_our_close_notify_is_an_end(version: str, server: bool) -> None:
    end, peer = tls_pair(version, server=server)
    end.close_write()
    assert end.flush()
    peer.sock.shutdown(socket.SHUT_WR)
    assert read(end) == b""
    assert not end.peek()
    assert end.fault is None


@versions
@roles
def test_a_fin_after_more_data_than_our_close_notify_is_a_truncation(
    version: str, server: bool
) -> None:
    end, peer = tls_pair(version, server=server)
    end.close_write()
    assert end.flush()
    peer.sendall(b"data")
    peer.sock.shutdown(socket.SHUT_WR)
    assert read(end) == b"data"
    with pytest.raises(TlsTruncatedError):
        read(end)


@versions
def test_what_follows_close_notify_is_nothing(version: str) -> None:
    end, peer = tls_pair(version)
    peer.sendall(b"data")
    peer.close_notify()
    peer.sock.send(b"garbage")
    peer.sock.shutdown(socket.SHUT_WR)
    acknowledged(peer.sock)
    assert read_all(end) == b"data"
    say(end, b"answer")
    assert try_until(lambda: peer.recv(100), "the answer") == b"answer"


@versions
def test_a_reset_is_told_after_what_was_read_before_it(version: str) -> None:
    end, peer = tls_pair(version)
    peer.sendall(b"data")
    acknowledged(peer.sock)
    reset(peer.sock)
    assert read(end) == b"data"
    with pytest.raises(ConnectionResetError):
        read(end)
    with pytest.raises(ConnectionResetError):  # the kernel would say FIN now
        read(end)
    assert end.fault is None


def test_a_socket_tells_a_reset_from_a_fin() -> None:
    for ending in (reset, socket.socket.close):
        far, near = connected("v4")
        with near:
            assert not was_reset(near)
            ending(far)
            assert select.select([near], [], [], 5)[0]
            assert was_reset(near) == (ending is reset)


@versions
@roles
def test_a_peer_that_owes_us_reading_is_still_read_from(version: str, server: bool) -> None:
    """A trial may write all that it has kept at once, to an upstream that answers early."""
    end, peer = tls_pair(version, server=server, buffers=16384)
    end.write(memoryview(bytes(1 << 20)))
    assert not end.flush()
    assert end.unsent > 2 * UNREAD
    peer.tls.write(b"early")
    assert peer.pump()
    assert read(end) == b"early"
