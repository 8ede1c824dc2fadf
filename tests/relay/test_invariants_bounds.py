"""The relay's rules I5 to I10 of ARCHITECTURE.md, what a session may take, on real sockets.

Every test here is also run against relays that break its rule: see test_mutants.py.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import ExitStack
from typing import Any

import pytest
import relay_rig
from harness.fds import same_fds
from relay_rig import (
    MIXES,
    MODES,
    Reader,
    Rig,
    acknowledged,
    bench,
    bytes_in,
    carry,
    connected,
    parts,
    pattern,
    reset,
    rig,
    write,
)

from spliceproxy.relay.flow import TURN
from spliceproxy.relay.means import COPY_SIZE
from spliceproxy.relay.verdicts import BLOCKED

SMALL_BUFFERS = 8192
FEW = 3
"""Wake-ups that late acknowledgements of the kernel may cause. A spin is thousands of them."""

mixes = pytest.mark.parametrize(("client", "upstream"), MIXES)
modes = pytest.mark.parametrize("mode", MODES)
pipe_modes = pytest.mark.parametrize("mode", ["adaptive", "splice"])


@pipe_modes
@mixes
def test_i5_a_pipe_that_holds_bytes_is_closed_and_reaches_no_stranger(
    client: str, upstream: str, mode: str
) -> None:
    with bench(mode, max_pipes=2) as b:
        r = Rig(b, client, upstream)
        while not r.up.pipe:
            write(r.client, pattern(0, 1 << 20))
            b.step()
        assert b.pipes.statistics().lent == 1
        r.close()
        b.step()
        assert b.pipes.statistics().lent == 0
        for pipe in (b.pipes.lend(), b.pipes.lend()):
            assert bytes_in(pipe.read_fd) == 0, "bytes of a session that is gone"
            b.pipes.take_back(pipe)
        other = Rig(b, upstream, client)
        carry(b, other.client, Reader(other.upstream), pattern(999, 1 << 20))


@modes
@mixes
def test_i6_a_stalled_destination_stops_the_reading_of_the_source(
    client: str, upstream: str, mode: str
) -> None:
    with rig(client, upstream, mode, pipe_size=65536) as r:
        sent = 0
        while sent < 64 << 20:
            size = write(r.client, pattern(sent, 1 << 20))
            sent += size
            r.bench.settle()
            if not size:
                break
        assert sent < 32 << 20, "bytes were taken without end"
        held, moved = r.up.held, r.up.moved
        assert 0 < held <= 1 << 20
        unread = bytes_in(r.near_client.fileno())
        write(r.client, pattern(sent, 1 << 20))
        r.relay.up.on_event(relay_rig.EPOLLIN)
        assert r.relay.up.move() == BLOCKED
        r.bench.settle()
        assert (r.up.held, r.up.moved) == (held, moved)
        assert bytes_in(r.near_client.fileno()) >= unread > 0
        reader = Reader(r.upstream)
        r.bench.drive(lambda: (reader.read(), len(reader.data) >= sent)[1], "all of it")
        assert bytes(reader.data[:sent]) == pattern(0, sent)


@mixes
@modes
def test_i6_a_source_that_is_ahead_wakes_the_worker_once(
    client: str, upstream: str, mode: str
) -> None:
    with rig(client, upstream, mode, upstream_buffers=SMALL_BUFFERS) as r:
        sent = 0
        while not r.up.held:
            sent += write(r.client, pattern(sent, 20_000))
            r.bench.settle()

        def send_a_little() -> int:
            before = r.bench.activity
            size = write(r.client, pattern(sent, 100))
            acknowledged(r.client)
            r.bench.settle()
            assert r.up.held
            print(f"{r.bench.activity - before} events")
            return size

        sent += send_a_little()
        assert r.up.muted
        before = r.bench.activity
        for _ in range(10):
            sent += send_a_little()
        assert r.bench.activity - before <= FEW
        reader = Reader(r.upstream)
        r.bench.drive(lambda: (reader.read(), len(reader.data) >= sent)[1], "all of it")
        assert bytes(reader.data) == pattern(0, sent)
        r.bench.settle()
        assert not r.up.muted
        carry(r.bench, r.client, reader, b"it is heard again")


class Endless(socket.socket):
    """A socket that always has bytes and always takes them, `piece` at a time.

    Counts what one turn took of it, and fails where a turn does not end.
    """

    piece = COPY_SIZE
    taken = 0
    calls = 0
    primed = False

    def recv_into(self, buffer: Any, size: int = 0, flags: int = 0) -> int:
        if not self.primed:
            return super().recv_into(buffer, size, flags)
        return self.take(self.piece)

    def take(self, size: int) -> int:
        self.taken += size
        self.calls += 1
        assert self.taken <= 64 << 20, "a turn without end"
        assert self.calls <= 4096, f"a turn of {self.calls} reads"
        return size

    def send(self, data: Any, flags: int = 0) -> int:
        return len(data) if self.primed else super().send(data, flags)


def endless_rig(b: relay_rig.Bench, piece: int) -> Rig:
    """A rig whose upload, once it began, has no end."""
    ends = []
    for _ in range(2):
        far, near = connected("unix")
        ends += [far, Endless(fileno=near.detach())]
    made = Rig(b, ends=ends)
    for near in (made.near_client, made.near_upstream):
        near.setblocking(False)
        near.piece = piece
    return made


@pytest.mark.parametrize(("mode", "piece"), [("copy", COPY_SIZE), ("splice", 65536), ("copy", 1)])
def test_i7_an_echo_beside_eight_bulk_flows_keeps_its_turns(
    monkeypatch: pytest.MonkeyPatch, mode: str, piece: int
) -> None:
    endless: dict[int, Endless] = {}

    def splice(src: int, dst: int, count: int, *rest: Any) -> int:
        if src in endless:
            return endless[src].take(min(count, piece))
        return count if dst in endless else os.splice(src, dst, count, *rest)

    monkeypatch.setattr(parts.flow, "_splice", splice)
    with bench(mode) as b:
        bulks = [endless_rig(b, piece) for _ in range(8)]
        for bulk in bulks:
            bulk.client.sendall(b"begin")
            for near in (bulk.near_client, bulk.near_upstream):
                near.primed = True
            endless[bulk.near_client.fileno()] = bulk.near_client
            endless[bulk.near_upstream.fileno()] = bulk.near_upstream
        echo = Rig(b, "v4", "v6")
        at_upstream, at_client = Reader(echo.upstream), Reader(echo.client)
        for number in range(20):
            word = b"%d" % number
            for sender, reader in ((echo.client, at_upstream), (echo.upstream, at_client)):
                sender.sendall(word)
                acknowledged(sender)
                for bulk in bulks:
                    bulk.near_client.taken = bulk.near_client.calls = 0
                b.step()
                wanted = len(reader.data) + len(word)
                wait_read(reader, wanted)
                for bulk in bulks:
                    taken = bulk.near_client.taken
                    assert 0 < taken <= 2 * (TURN + COPY_SIZE), f"{taken} bytes in a turn"
        assert bytes(at_client.data) == b"".join(b"%d" % number for number in range(20))


def wait_read(reader: Reader, size: int) -> None:
    """Read what the relay has sent already."""
    relay_rig.wait_until(
        lambda: (reader.read(), len(reader.data) >= size)[1],
        parts.patience,
        "an answer in one turn",
    )


@modes
def test_i8_as_many_fds_after_many_sessions_as_before(mode: str) -> None:
    with same_fds(timeout=parts.patience / 2), bench(mode, max_pipes=4) as b:
        for number in range(120):
            r = Rig(b, *MIXES[number % 4])
            write(r.client, pattern(0, 1 << (number % 21)))
            b.step()
            write(r.upstream, pattern(0, 1 << (20 - number % 21)))
            for end in (r.client, r.upstream):
                (reset if number % 3 == 0 else socket.socket.close)(end)
                if number % 2:
                    b.step()
            b.drive(lambda r=r: r.parted, "the end of the relay")
            b.rigs.remove(r)
            assert r.near_client.fileno() == r.near_upstream.fileno() == -1


@modes
@pytest.mark.parametrize("kind", ["v4", "v6"])
@pytest.mark.parametrize("fin", [False, True])
def test_i9_bytes_around_an_urgent_byte_arrive_and_nothing_spins(
    kind: str, mode: str, fin: bool
) -> None:
    with rig(kind, "v4", mode) as r:
        reader = Reader(r.upstream)
        r.client.sendall(b"abc")
        r.client.send(b"!", socket.MSG_OOB)
        r.client.sendall(b"def")
        if fin:
            r.client.shutdown(socket.SHUT_WR)
        r.bench.drive(
            lambda: (reader.read(), len(reader.data) >= 6 and (reader.end or not fin))[1], "abcdef"
        )
        assert bytes(reader.data) == b"abcdef"
        assert reader.end == ("fin" if fin else "")
        assert r.bench.wakes() <= FEW
        carry(r.bench, r.upstream, Reader(r.client), b"the other way")


@modes
@mixes
def test_i9_a_fin_behind_a_full_destination_does_not_wake_the_loop(
    client: str, upstream: str, mode: str
) -> None:
    with rig(client, upstream, mode, buffers=SMALL_BUFFERS, mss=1448) as r:
        for _ in range(50):
            write(r.client, pattern(0, 50_000))
            r.bench.step()
        r.client.shutdown(socket.SHUT_WR)
        r.bench.settle()
        assert r.up.held
        assert r.bench.wakes() <= FEW


@modes
@mixes
def test_i9_peers_that_withhold_everything_do_not_wake_the_loop(
    client: str, upstream: str, mode: str
) -> None:
    with rig(client, upstream, mode) as r:
        assert r.bench.wakes() == 0
        r.client.shutdown(socket.SHUT_WR)
        assert r.bench.wakes() <= FEW


@modes
def test_i9_a_unix_destination_that_keeps_up_does_not_wake_the_loop(mode: str) -> None:
    # A UNIX socket has an OUT edge at each read of its peer.
    with rig("v4", "unix", mode) as r:
        reader = Reader(r.upstream)
        for start in range(0, 2000, 100):
            r.client.sendall(pattern(start, 100))
            acknowledged(r.client)
        r.bench.drive(lambda: r.up.moved == 2000, "2000 bytes")
        r.bench.settle()
        before = r.bench.activity
        while reader.read(10):
            r.bench.step()
        assert r.bench.activity == before, "events for nothing"
        assert not r.up.watching


@modes
def test_i9_a_unix_destination_wakes_the_loop_only_while_blocked(mode: str) -> None:
    with rig("v4", "unix", mode) as r:
        reader = Reader(r.upstream)
        sent = 0
        while not r.up.held:
            sent += write(r.client, pattern(sent, 1 << 20))
            r.bench.step()
        assert r.up.watching
        r.bench.drive(lambda: (reader.read(), len(reader.data) == sent)[1], "what was held")
        r.bench.settle()
        assert not r.up.watching
        r.client.sendall(b"x" * 2000)
        acknowledged(r.client)
        r.bench.drive(lambda: r.up.moved == sent + 2000, "2000 bytes more")
        r.bench.settle()
        before = r.bench.activity
        while reader.read(10):
            r.bench.step()
        assert r.bench.activity == before, "events for nothing"


@modes
def test_i9_a_dead_unix_upstream_does_not_spin_beside_a_silent_client(mode: str) -> None:
    with rig("v4", "unix", mode) as r:
        r.upstream.close()
        assert Reader(r.client).read_to_end(r.bench) == "fin"
        assert r.bench.wakes() <= FEW
        assert r.relay.half_closed
        r.client.sendall(b"to nobody")
        assert Reader(r.client).read_to_end(r.bench) in ("reset", "fin")
        r.bench.drive(lambda: r.parted, "the end of the relay")
        assert r.fate is r.near_upstream


def test_i10_an_event_of_a_closed_fd_reaches_nobody_who_has_its_number() -> None:
    heard: list[str] = []
    with ExitStack() as stack:
        loop = parts.loop.Loop(relay_rig.fail)
        stack.callback(loop.close)
        first, second = connected("unix"), connected("unix")
        for end in (*first, *second):
            stack.enter_context(end)
        number = second[1].fileno()
        strangers: list[int] = []

        def on_first(_events: int) -> None:
            heard.append("first")
            loop.close_socket_later(second[1])
            while not strangers or strangers[-1] < number:  # all lower numbers are taken then
                for stranger in socket.socketpair():
                    strangers.append(stack.enter_context(stranger).fileno())
                    mask = relay_rig.EPOLLIN | relay_rig.EPOLLET
                    loop.add(strangers[-1], mask, lambda _: heard.append("stranger"))

        loop.add(first[1].fileno(), relay_rig.EPOLLIN | relay_rig.EPOLLET, on_first)
        loop.add(number, relay_rig.EPOLLIN, lambda _: heard.append("second"))
        first[0].sendall(b"1")
        second[0].sendall(b"2")  # both events are in one batch
        loop.run_again(loop.stop)
        loop.run()
        assert heard == ["first"]
        assert number not in strangers
        assert second[1].fileno() == -1
        late = stack.enter_context(socket.socket(socket.AF_UNIX))
        assert late.fileno() == number, "the number is free once the batch is over"


@modes
def test_i10_both_ends_of_a_session_closing_in_one_batch_end_it_once(mode: str) -> None:
    with bench(mode) as b:
        rigs = [Rig(b, "v4", "v4") for _ in range(20)]
        for r in rigs:
            r.client.sendall(b"x")
            reset(r.client)
            reset(r.upstream)
        b.drive(lambda: all(r.parted for r in rigs), "the ends")
        began = time.monotonic()
        b.settle()
        assert time.monotonic() - began < parts.patience
        assert all(1 <= r.changes <= 2 for r in rigs)
