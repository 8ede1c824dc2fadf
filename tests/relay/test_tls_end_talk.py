"""What goes between OpenSSL and its peer beside data: key updates, alerts, handshakes."""

from __future__ import annotations

import contextlib
import socket
import ssl
from pathlib import Path

import pytest
from relay_rig import acknowledged, pattern, reset
from tls_peers import (
    VERSIONS,
    TlsFar,
    contexts,
    crafted,
    cut,
    nothing,
    read,
    read_once,
    say,
    tls_pair,
    try_until,
)

from spliceproxy.relay.tls_end import (
    BARREN,
    RECORD,
    UNREAD,
    TlsError,
)

pytestmark = pytest.mark.usefixtures("closed_sockets")

versions = pytest.mark.parametrize("version", VERSIONS)
roles = pytest.mark.parametrize("server", [True, False], ids=["server", "client"])
views = pytest.mark.parametrize("size", [1, 1000, RECORD - 1, RECORD, 1 << 16])


# What OpenSSL wants to say itself.


@roles
@pytest.mark.parametrize("asked", [False, True])
def test_data_goes_on_after_key_updates(server: bool, asked: bool) -> None:
    end, peer = tls_pair("1.3", server=server)
    for turn in range(5):
        peer.key_update(asked=asked)
        peer.sendall(b"data %d" % turn)
        assert read(end) == b"data %d" % turn
        say(end, b"answer %d" % turn)
        assert try_until(lambda: peer.recv(100), "the answer") == b"answer %d" % turn


@pytest.mark.parametrize("asked", [False, True])
def test_a_key_update_after_our_close_notify_is_no_error(asked: bool) -> None:
    end, peer = tls_pair("1.3")
    end.close_write()
    assert end.flush()
    assert try_until(lambda: peer.recv(100), "close_notify") == b""
    peer.key_update(asked=asked)
    peer.sendall(b"data")
    assert read(end) == b"data"
    peer.close_notify()
    assert read(end) == b""


@pytest.mark.parametrize("asked", [False, True])
def test_key_updates_without_an_end_are_one(asked: bool) -> None:
    end, peer = tls_pair("1.3")
    sent = most = 0

    def go_on() -> None:
        nonlocal sent, most
        while sent < 4 * BARREN:
            peer.key_update(asked=asked)
            wire = peer.outgoing.read()
            sent += peer.sock.send(wire)
            try:
                read_once(end)
            finally:
                most = max(most, end.unsent)

    with pytest.raises(TlsError, match="without data") as caught:
        go_on()
    assert BARREN < sent < 2 * BARREN, caught.value
    assert most <= UNREAD


def test_key_updates_whose_answers_nobody_reads_are_bounded() -> None:
    end, peer = tls_pair("1.3", buffers=4096)
    most = 0

    def go_on() -> None:
        nonlocal most
        for _ in range(40_000):  # each with a byte of data, so that none is without
            peer.key_update(asked=True)
            peer.tls.write(b"x")
            assert peer.pump()
            read_once(end)
            end.flush()
            most = max(most, end.unsent)

    with pytest.raises(TlsError, match="does not read"):
        go_on()
    assert UNREAD < most < UNREAD + 3 * (1 << 16)


def test_renegotiation_is_refused_and_data_goes_on() -> None:
    end, peer = tls_pair("1.2")
    peer.renegotiate()
    acknowledged(peer.sock)
    assert nothing(end)
    assert end.unsent, "the refusal"
    assert end.flush()
    with pytest.raises(ssl.SSLError, match="NO_RENEGOTIATION"):
        try_until(lambda: peer.recv(100), "the refusal")
    say(end, b"data")


def test_renegotiation_that_a_server_asks_for_is_refused() -> None:
    end, peer = tls_pair("1.2", server=False)
    peer.renegotiate()
    acknowledged(peer.sock)
    assert nothing(end)
    assert end.unsent, "the refusal"
    assert end.flush()


@versions
def test_alerts_of_the_peer_are_told_by_name(version: str) -> None:
    end, peer = tls_pair(version)
    say(end, b"data")
    assert try_until(lambda: peer.recv(100), "data")
    wire = b"\x17\x03\x03\x00\x20" + b"y" * 32
    end.sock.send(wire)
    with pytest.raises(ssl.SSLError):
        try_until(lambda: peer.recv(100), "the tampered record")
    peer.pump()
    with pytest.raises(TlsError, match="alert bad record mac"):
        read(end)


@versions
@pytest.mark.parametrize("at", [0, 1, 3, 5, 20, -1])
def test_a_flipped_byte_is_an_error_and_the_peer_is_told(version: str, at: int) -> None:
    end, peer = tls_pair(version)
    peer.sendall(b"before")
    assert read(end) == b"before"
    wire = bytearray(cut(peer, pattern(0, 200)))
    wire[at] ^= 1 if at != 3 else 0x80  # a length that no record has
    peer.sock.send(wire)
    peer.sock.send(b"\0" * 600)
    for _ in range(2):
        with pytest.raises(TlsError) as caught:
            read(end)
        assert not caught.value.truncated
    assert end.flush()
    with pytest.raises(ssl.SSLError, match="ALERT"):
        try_until(lambda: peer.recv(100), "the alert")


def test_records_without_a_byte_bring_none_and_come_to_an_end(tmp_path: Path) -> None:
    end, peer, records = crafted(tmp_path)
    for _ in range(20):
        peer.sock.send(records.make(23, b""))
    acknowledged(peer.sock)
    assert nothing(end)
    peer.sock.send(records.make(23, b"data", padding=5000))
    assert read(end) == b"data"

    def go_on() -> None:
        for _ in range(BARREN // 16):
            peer.sock.send(records.make(23, b"", padding=100))
            read_once(end)

    with pytest.raises(TlsError):
        go_on()


def test_close_notify_goes_out_amid_a_message_of_the_peer(tmp_path: Path) -> None:
    end, peer, records = crafted(tmp_path)
    key_update = b"\x18\0\0\x01\0"
    peer.sock.send(records.make(22, key_update[:2]))
    acknowledged(peer.sock)
    assert nothing(end)
    end.close_write()
    assert end.flush()
    assert try_until(lambda: peer.recv(100), "close_notify") == b""


# Handshakes.


@versions
@roles
def test_a_handshake_in_single_bytes_comes_to_its_end(version: str, server: bool) -> None:
    end, peer = tls_pair(version, server=server, shaken=False)
    done = [False, False]
    for _ in range(10_000):
        done[0] = end.shake_hands() or done[0]
        try:
            peer.tls.do_handshake()
            done[1] = True
        except ssl.SSLWantReadError:
            peer.fill(1)
        peer.backlog += peer.outgoing.read()
        if peer.backlog:
            peer.backlog = peer.backlog[peer.sock.send(peer.backlog[:1]) :]
        if all(done) and not peer.backlog:
            break
    assert all(done)
    peer.sendall(b"data")
    assert read(end) == b"data"


@versions
@pytest.mark.parametrize("kind", ["v4", "unix"])
def test_a_handshake_is_done_when_all_of_it_is_sent(version: str, kind: str) -> None:
    end, peer = tls_pair(version, kind, shaken=False)
    full = 0
    end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    done = [False, False]

    class Slow:
        """Takes no more than a few bytes every other time."""

        turn = 0

        def __getattr__(self, name: str) -> object:
            return getattr(sock, name)

        def send(self, data: memoryview, flags: int) -> int:
            nonlocal full
            Slow.turn += 1
            if Slow.turn % 2:
                full += 1
                raise BlockingIOError
            return sock.send(data[:50], flags)

    sock = end.sock
    end.sock = Slow()  # type: ignore[assignment]
    for _ in range(1000):
        done = [end.shake_hands(), peer.shake_hands() or done[1]]
        assert not (done[0] and end.unsent)
        if done[1]:
            peer.fill()
        if all(done):
            break
    assert all(done)
    assert full > 10


@versions
def test_data_that_comes_with_the_end_of_the_handshake_is_there(version: str) -> None:
    end, peer = tls_pair(version, shaken=False)
    done = False
    while not done:
        end.shake_hands()
        try:
            peer.tls.do_handshake()
        except ssl.SSLWantReadError:
            peer.fill()
        if version == "1.3" and peer.tls.version() and peer.outgoing.pending > 40:
            with contextlib.suppress(ssl.SSLError):
                peer.tls.write(pattern(0, 50_000))
        peer.pump()
        done = end.shake_hands()
    if version == "1.3":
        got = b""
        while len(got) < 50_000:
            got += read(end)
            peer.pump()
        assert got == pattern(0, 50_000)
    assert nothing(end)


@versions
def test_the_first_full_buffer_after_a_handshake_is_no_error(version: str) -> None:
    end, peer = tls_pair(version)
    data = pattern(0, 1 << 18)
    wire = b"".join(cut(peer, data[at : at + RECORD]) for at in range(0, len(data), RECORD))
    wire = wire[peer.sock.send(wire) :]
    got = b""
    while len(got) < len(data):
        got += read(end)
        with contextlib.suppress(BlockingIOError):
            wire = wire[peer.sock.send(wire) :] if wire else wire
    assert got == data


def test_a_handshake_that_fails_tells_the_peer_by_an_alert() -> None:
    end, peer = tls_pair("1.3", shaken=False)
    old = TlsFar(peer.sock, contexts("1.2")[1])
    end.tls.context.minimum_version = ssl.TLSVersion.TLSv1_3
    assert not old.shake_hands()

    def go_on() -> None:
        for _ in range(100):
            end.shake_hands()

    with pytest.raises(TlsError, match="unsupported protocol"):
        go_on()

    def go_on() -> None:
        for _ in range(100):
            old.shake_hands()

    with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
        go_on()


@pytest.mark.parametrize(
    "words", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x02\x01\x00", b"\0" * 9]
)
def test_garbage_in_place_of_a_handshake_is_an_error(words: bytes) -> None:
    end, peer = tls_pair("1.3", shaken=False)
    peer.sock.send(words)
    peer.sock.shutdown(socket.SHUT_WR)

    def go_on() -> None:
        for _ in range(100):
            assert not end.shake_hands()

    with pytest.raises(TlsError):
        go_on()


@versions
@pytest.mark.parametrize("ending", ["fin", "reset"])
def test_a_handshake_that_the_peer_leaves_is_an_error(version: str, ending: str) -> None:
    end, peer = tls_pair(version, shaken=False)
    assert not peer.shake_hands()
    if ending == "fin":
        peer.sock.shutdown(socket.SHUT_WR)
    else:
        acknowledged(peer.sock)
        reset(peer.sock)
    expected = TlsError if ending == "fin" else ConnectionError

    def go_on() -> None:
        for _ in range(100):
            assert not end.shake_hands()

    with pytest.raises(expected) as caught:
        go_on()
    if ending == "fin":
        assert str(caught.value) == "the peer closed the connection"


def test_a_handshake_without_an_end_is_one() -> None:
    end, peer = tls_pair("1.3", shaken=False)
    empty = b"\x16\x03\x01\x40\x00\x01\x00\xff\xf0" + b"a" * (RECORD - 4)
    sent = 0

    def go_on() -> None:
        nonlocal sent
        while sent < 4 * BARREN:
            sent += peer.sock.send(empty)
            end.shake_hands()

    with pytest.raises(TlsError):
        go_on()
    assert sent < 3 * BARREN
