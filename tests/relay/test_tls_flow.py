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
    acknowledged,
    carry,
    parts,
    pattern,
    reset,
    write,
    write_all,
)
from tls_rig import Ends, raw, sides, tls_rig

from spliceproxy.relay.verdicts import FINISHED, RUNNING

MIXES = (("v4", "v4"), ("v6", "unix"), ("unix", "v4"))
mixes = pytest.mark.parametrize(("client", "upstream"), MIXES)
tcp_mixes = pytest.mark.parametrize(("client", "upstream"), [("v4", "v4"), ("v4", "unix")])
first_to_close = pytest.mark.parametrize("closes_first", ["client", "upstream"])


def is_tls(far: Any) -> bool:
    return raw(far) is not far


def tells_resets(far: Any) -> bool:
    """Whether a far end can tell a broken session from a finished one."""
    return is_tls(far) or far.family != socket.AF_UNIX


def far_ends(r: Rig, closes_first: str) -> tuple[Any, Any]:
    return (r.client, r.upstream) if closes_first == "client" else (r.upstream, r.client)


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


# I3: half-closes.


@sides
@mixes
@first_to_close
@pytest.mark.parametrize("by", ["fin", "close_notify"])
def test_i3_one_direction_runs_on_after_the_other_one_ended(
    tls: tuple[str, str], client: str, upstream: str, closes_first: str, by: str
) -> None:
    with tls_rig(tls, client, upstream) as r:
        first, second = far_ends(r, closes_first)
        reader, other = Reader(second), Reader(first)
        data = pattern(0, 50_000)
        write_all(r.bench, first, data)
        if by == "close_notify" and is_tls(first):
            first.close_notify()
        else:
            first.shutdown(socket.SHUT_WR)
        assert reader.read_to_end(r.bench) == "fin"
        assert bytes(reader.data) == data
        assert not r.relay.over
        carry(r.bench, second, other, pattern(7, 300_000))
        assert r.bench.wakes() == 0
        second.shutdown(socket.SHUT_WR)
        assert other.read_to_end(r.bench) == "fin"
        r.bench.drive(lambda: r.parted, "the end")
        assert r.fate is None
        assert (r.up.end, r.down.end) == (FINISHED, FINISHED)


@sides
@mixes
@first_to_close
def test_i3_an_end_comes_after_all_that_was_queued_before_it(
    tls: tuple[str, str], client: str, upstream: str, closes_first: str
) -> None:
    with tls_rig(tls, client, upstream, buffers=16384, mss=1448) as r:
        first, second = far_ends(r, closes_first)
        sent = 0
        for _ in range(40):
            sent += write(first, pattern(sent, 30_000))
            r.bench.step()
        first.shutdown(socket.SHUT_WR)
        r.bench.wakes()  # the kernels come to rest
        assert r.bench.wakes() == 0
        reader = Reader(second)
        assert reader.read_to_end(r.bench) == "fin"
        assert bytes(reader.data) == pattern(0, sent)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("together", [False, True])
def test_i3_an_end_in_the_segment_of_the_last_data_is_seen(version: str, together: bool) -> None:
    with tls_rig((version, "")) as r:
        r.client.tls.write(b"data")
        wire = r.client.outgoing.read() + r.client.last_words()
        for piece in (wire,) if together else (wire[:-10], wire[-10:]):
            raw(r.client).send(piece)
        reader = Reader(r.upstream)
        assert reader.read_to_end(r.bench) == "fin"
        assert bytes(reader.data) == b"data"


@sides
def test_i3_the_peer_gets_a_fin_behind_close_notify(tls: tuple[str, str]) -> None:
    with tls_rig(tls) as r:
        r.client.shutdown(socket.SHUT_WR)
        reader = Reader(r.upstream)
        assert reader.read_to_end(r.bench) == "fin"
        r.bench.drive(lambda: raw(r.upstream).recv(1) == b"", "the FIN")


# I4: what a broken side means for the other one.


@sides
@mixes
@first_to_close
@pytest.mark.parametrize("how", ["reset", "truncated", "tampered"])
def test_i4_what_came_before_a_break_is_delivered_before_the_reset(
    tls: tuple[str, str], client: str, upstream: str, closes_first: str, how: str
) -> None:
    with tls_rig(tls, client, upstream) as r:
        first, second = far_ends(r, closes_first)
        if not is_tls(first) and (how != "reset" or first.family == socket.AF_UNIX):
            return
        data = pattern(0, 40_000)
        write_all(r.bench, first, data)
        acknowledged(first)
        if how == "reset":
            reset(first)
        elif how == "truncated":
            raw(first).shutdown(socket.SHUT_WR)
        else:
            raw(first).sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        reader = Reader(second)
        assert reader.read_to_end(r.bench) == ("reset" if tells_resets(second) else "fin")
        assert bytes(reader.data) == data
        r.bench.drive(lambda: r.parted, "the end")
        assert r.fate is (r.near_client if closes_first == "client" else r.near_upstream)
        end = r.near.client if closes_first == "client" else r.near.upstream
        if end is not None and how != "reset":
            assert end.fault.truncated == (how == "truncated")


@sides
@first_to_close
def test_i4_a_break_behind_a_full_destination_is_told_after_all_of_it(
    tls: tuple[str, str], closes_first: str
) -> None:
    with tls_rig(tls, buffers=16384, mss=1448) as r:
        first, second = far_ends(r, closes_first)
        if not is_tls(first):
            return
        sent = 0
        for _ in range(40):
            sent += write(first, pattern(sent, 30_000))
            r.bench.step()
        reader = Reader(second)
        r.bench.drive(lambda: (reader.read(2000), first.pump())[1], "the last segment sent")
        raw(first).shutdown(socket.SHUT_WR)
        r.bench.wakes()
        assert r.bench.wakes() == 0
        assert reader.read_to_end(r.bench) == "reset"
        assert bytes(reader.data) == pattern(0, sent)


@sides
@pytest.mark.parametrize("size", [10, 200_000])
def test_i4_a_response_received_before_the_reset_still_reaches_the_client(
    tls: tuple[str, str], size: int
) -> None:
    with tls_rig(tls) as r:
        reader = Reader(r.client)
        write_all(r.bench, r.client, b"question")
        r.bench.settle()
        write(r.upstream, pattern(0, size)[: 1 << 16])
        expected = min(size, 50_000 if is_tls(r.upstream) else 1 << 16)
        acknowledged(r.upstream)
        reset(r.upstream)
        with_what = write(r.client, b"more")
        assert with_what == 4
        assert reader.read_to_end(r.bench) == "reset"
        assert bytes(reader.data[:expected]) == pattern(0, expected)


@sides
def test_i4_a_destination_that_dies_while_it_is_full_ends_both_flows(
    tls: tuple[str, str],
) -> None:
    with tls_rig(tls, buffers=16384, mss=1448) as r:
        sent = 0
        for _ in range(40):
            sent += write(r.client, pattern(sent, 30_000))
            r.bench.step()
        assert r.up.held
        reset(r.upstream)
        assert Reader(r.client).read_to_end(r.bench) == "reset"
        r.bench.drive(lambda: r.parted, "the end")
        assert r.fate is r.near_upstream


@pytest.mark.parametrize("tls", [("1.3", ""), ("1.2", "1.3")])
def test_i4_a_write_that_used_up_the_error_leaves_no_clean_end(tls: tuple[str, str]) -> None:
    with tls_rig(tls) as r:
        r.bench.settle()
        write(r.client, b"question")
        acknowledged(r.client)
        reset(r.upstream)
        reader = Reader(r.client)
        assert reader.read_to_end(r.bench) == "reset"
        assert r.client.stream_ended == "reset"
        assert r.near.upstream is None or r.near.upstream.fault is None


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_i4_a_client_that_fails_is_told_by_an_alert(version: str) -> None:
    with tls_rig((version, "")) as r:
        raw(r.client).sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        r.bench.settle()
        with pytest.raises(OSError, match="ALERT"):
            r.client.recv(100)


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
    monkeypatch.setattr(parts.flow, "TURN", 100_000)
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
        assert 100_000 - 65536 < most <= 2 * (100_000 + 65536)


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
