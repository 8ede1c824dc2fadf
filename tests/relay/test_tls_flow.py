"""The relay's rules I1 to I9 where a side speaks TLS, step by step on real sockets.

Every test here is also run against flows that break its rule: see test_tls_mutants.py.
"""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from typing import Any

import pytest
from harness.fds import open_fds
from relay_rig import (
    Bench,
    Reader,
    Rig,
    carry,
    parts,
    pattern,
    reset,
    write,
)
from tls_rig import (
    MIXES,
    Ends,
    far_ends,
    first_to_close,
    is_tls,
    mixes,
    raw,
    sides,
    tcp_mixes,
    tls_rig,
)

from spliceproxy.relay.verdicts import RUNNING

# I2: every byte, once, in order.


@sides
@mixes
@pytest.mark.parametrize("rate", [None, 4_000_000])
def test_i2_a_bulk_both_ways_at_once_arrives_whole_and_in_order(
    tls: tuple[str, str], client: str, upstream: str, rate: int | None, seed: int
) -> None:
    choice = random.Random(f"{seed} {tls} {client} {upstream}")
    with tls_rig(tls, client, upstream, rate=rate) as r:
        size = 400_000 if rate else 3_000_000
        data = pattern(0, size), pattern(333_333, size)
        ways = [
            (r.client, Reader(r.upstream), data[0]),
            (r.upstream, Reader(r.client), data[1]),
        ]
        sent = [0, 0]

        def turn() -> bool:
            for way, (source, reader, what) in enumerate(ways):
                piece = choice.choice([1, 100, 16384, 16385, 300_000])
                sent[way] += write(source, what[sent[way] : sent[way] + piece])
                reader.read(choice.choice([100, 70_000, 1 << 20]))
            return all(len(reader.data) == size for _, reader, _ in ways)

        r.bench.drive(turn, "all bytes")
        assert [bytes(way[1].data) for way in ways] == list(data)
        assert (r.up.moved, r.down.moved) == (size, size)


@sides
@tcp_mixes
def test_i2_tiny_buffers_and_a_slow_reader_lose_nothing(
    tls: tuple[str, str], client: str, upstream: str
) -> None:
    with tls_rig(tls, client, upstream, buffers=8192, mss=1448) as r:
        for source, far in ((r.client, r.upstream), (r.upstream, r.client)):
            reader = Reader(far)
            data = pattern(0, 300_000)
            sent = 0

            def turn(source: Any = source, reader: Reader = reader, data: bytes = data) -> bool:
                nonlocal sent
                sent += write(source, data[sent : sent + 30_000])
                reader.read(5000)
                return len(reader.data) == len(data)

            r.bench.drive(turn, "all bytes")
            assert bytes(reader.data) == data


@sides
@mixes
def test_i2_small_messages_to_and_fro(tls: tuple[str, str], client: str, upstream: str) -> None:
    with tls_rig(tls, client, upstream) as r:
        upper, lower = Reader(r.upstream), Reader(r.client)
        for turn in range(50):
            carry(r.bench, r.client, upper, b"question %d" % turn)
            carry(r.bench, r.upstream, lower, b"answer %d" % turn)


# I6 and I9: a side that does not read.


@sides
@mixes
@first_to_close
def test_i6_a_stalled_destination_stops_the_reading_and_wakes_nobody(
    tls: tuple[str, str], client: str, upstream: str, closes_first: str
) -> None:
    with tls_rig(tls, client, upstream, buffers=16384, mss=1448) as r:
        source, far = far_ends(r, closes_first)
        sent = 0
        for _ in range(100):
            sent += write(source, pattern(sent, 50_000))
            r.bench.step()
        assert sent < 600_000, "a full destination does not stop the source"
        flow = r.up if closes_first == "client" else r.down
        assert flow.held
        r.bench.wakes()
        assert r.bench.wakes() == 0
        for end in (r.near.client, r.near.upstream):
            assert end is None or end.unsent < 80_000
        other = Reader(source)
        carry(r.bench, far, other, pattern(9, 200_000))
        assert r.bench.wakes() == 0
        reader = Reader(far)
        r.bench.drive(lambda: (reader.read(), len(reader.data) == sent)[1], "all bytes")
        assert bytes(reader.data) == pattern(0, sent)
        assert r.bench.wakes() == 0
        assert not any((r.up.watching, r.down.watching, r.up.muted, r.down.muted))


@mixes
def test_i6_answers_that_a_peer_does_not_read_are_bounded_and_wake_nobody(
    client: str, upstream: str
) -> None:
    with tls_rig(("1.3", ""), client, upstream, buffers=4096, mss=1448) as r:
        for _ in range(20_000):
            r.client.key_update(asked=True)
            r.client.tls.write(b"x")
            if not r.client.pump():
                r.bench.step()
            if len(r.client.backlog) > 100_000 or r.relay.over:
                break
            Reader(r.upstream).read()
        r.bench.settle()
        r.bench.wakes()
        assert r.bench.wakes() == 0
        assert r.near.client.unsent < 600_000


@mixes
def test_i9_answers_wait_for_room_and_data_follows_them(client: str, upstream: str) -> None:
    with tls_rig(("1.3", ""), client, upstream, buffers=16384, mss=1448) as r:
        sent = 0
        for _ in range(40):
            sent += write(r.upstream, pattern(sent, 30_000))
            r.bench.step()
        upper, lower = Reader(r.upstream), Reader(r.client)
        for turn in range(20):
            r.client.key_update(asked=True)
            carry(r.bench, r.client, upper, b"question %d" % turn)
        assert r.bench.wakes() == 0
        r.bench.drive(lambda: (lower.read(), len(lower.data) == sent)[1], "all bytes")
        assert bytes(lower.data) == pattern(0, sent)
        r.upstream.shutdown(socket.SHUT_WR)
        assert lower.read_to_end(r.bench) == "fin"


@sides
@mixes
def test_i9_peers_that_withhold_everything_do_not_wake_the_loop(
    tls: tuple[str, str], client: str, upstream: str
) -> None:
    with tls_rig(tls, client, upstream) as r:
        for far in (r.client, r.upstream):
            if is_tls(far):
                far.tls.write(b"half a record")
                raw(far).send(far.outgoing.read()[:20])
        r.bench.wakes()
        assert r.bench.wakes() == 0
        assert (r.up.end, r.down.end) == (RUNNING, RUNNING)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_i9_a_small_message_costs_one_recv_and_one_send(version: str) -> None:
    with tls_rig((version, version)) as r:
        upper, lower = Reader(r.upstream), Reader(r.client)
        carry(r.bench, r.client, upper, b"question")
        carry(r.bench, r.upstream, lower, b"answer")
        calls: list[str] = []
        for end in (r.near.client, r.near.upstream):
            end.sock = _Counted(end.sock, calls)
        carry(r.bench, r.client, upper, b"question")
        carry(r.bench, r.upstream, lower, b"answer")
        assert calls == ["recv_into", "send"] * 2


class _Counted:
    def __init__(self, sock: Any, calls: list[str]) -> None:
        self._sock, self._calls = sock, calls

    def __getattr__(self, name: str) -> Any:
        if name in ("recv_into", "send"):
            self._calls.append(name)
        return getattr(self._sock, name)


# I7 and I8.


@sides
def test_i7_a_turn_moves_a_bounded_number_of_bytes(
    tls: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts.tls_flow, "TLS_TURN", 100_000)
    with tls_rig(tls, buffers=4_000_000) as r:
        sent = 0
        for _ in range(40):
            sent += write(r.client, pattern(sent, 50_000))
        reader, most = Reader(r.upstream), 0
        while len(reader.data) < sent:
            before = r.up.moved
            r.bench.step()
            most = max(most, r.up.moved - before)
            reader.read()
        assert 100_000 - 65536 < most <= 2 * (100_000 + 256 * 1024)


def test_i8_as_many_fds_after_many_sessions_as_before(seed: int) -> None:
    choice = random.Random(seed)
    with tls_rig(("1.3", "1.3")):
        before = open_fds()
        bench = Bench()
        endings = [reset, lambda far: far.close(), lambda far: far.shutdown(socket.SHUT_WR)]
        for _ in range(40):
            tls = choice.choice([("1.3", ""), ("", "1.2"), ("1.3", "1.3")])
            r = Rig(bench, *choice.choice(MIXES), prepare=Ends(tls))
            write(r.client, pattern(0, choice.choice([0, 1, 200_000])))
            bench.step()
            for far in choice.sample([r.client, r.upstream], 2):
                with suppress(OSError):
                    choice.choice(endings)(far)
                bench.settle()
            for far in (r.client, r.upstream):
                far.close()
            bench.drive(lambda r=r: r.parted, "the end of the session")
        bench.close()
        assert open_fds() == before


# A rate.


@sides
def test_a_rate_holds_where_a_side_speaks_tls(tls: tuple[str, str]) -> None:
    rate = 200_000
    with tls_rig(tls, rate=rate, buffers=8192, mss=1448) as r:
        reader, sent = Reader(r.upstream), 0
        start = r.bench.loop.now

        def turn() -> bool:
            nonlocal sent
            sent += write(r.client, pattern(sent, 30_000))
            reader.read(3000)
            return r.bench.now - start >= 1.0

        r.bench.drive(turn, "a second")
        taken = len(reader.data)
        assert 0.5 * rate < taken < 1.5 * rate
        assert bytes(reader.data) == pattern(0, taken)


@pytest.mark.parametrize("upstream", ["v4", "unix"])
def test_i2_a_client_that_takes_no_answer_and_resets_makes_no_gap(upstream: str) -> None:
    """What its upstream has no room for goes before whatever is read at the reset."""
    with tls_rig(("1.3", ""), "v4", upstream, buffers=4096, mss=1448, replay=1 << 20) as r:
        sent, upper = 0, Reader(r.upstream)
        while not r.near.client.unsent:
            r.client.key_update(asked=True)
            sent += r.client.tls.write(pattern(sent, 1))
            while not r.client.pump():
                r.bench.step()
            r.bench.step()
            upper.read()
        for _ in range(60):
            if r.client.pump():
                sent += r.client.tls.write(pattern(sent, 1000))
            r.bench.step()
        assert not r.up.writable
        reset(r.client.sock)
        upper.read()  # there is room, of which the next event would tell
        upper.read_to_end(r.bench)
        assert bytes(upper.data) == pattern(0, len(upper.data))
