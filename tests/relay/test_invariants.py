"""The relay's rules I1 to I10 of ARCHITECTURE.md, each on real sockets.

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
    KINDS,
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
    write_all,
)

from spliceproxy.relay.flow import (
    ABANDONED,
    BROKEN_DESTINATION,
    BROKEN_SOURCE,
    COPY_SIZE,
    FINISHED,
    RUNNING,
    TURN,
)

TCP_MIXES = (("v4", "v6"), ("v6", "unix"))
SMALL_BUFFERS = 8192
FEW = 3
"""Wake-ups that late acknowledgements of the kernel may cause. A spin is thousands of them."""

mixes = pytest.mark.parametrize(("client", "upstream"), MIXES)
modes = pytest.mark.parametrize("mode", MODES)
pipe_modes = pytest.mark.parametrize("mode", ["adaptive", "splice"])


class Splices:
    """Stands in for splice: calls it, and looks at the pipe before each fill."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fills = self.flushes = self.blocked = 0
        self.pipes: dict[int, int] = {}
        """Write end to read end."""
        self._splice = os.splice
        made = parts.pipes.Pipe

        def remembered(wanted: int) -> Any:
            pipe = made(wanted)
            self.pipes[pipe.write_fd] = pipe.read_fd
            return pipe

        monkeypatch.setattr(parts.pipes, "Pipe", remembered)
        monkeypatch.setattr(parts.flow, "_splice", self)

    def __call__(self, src: int, dst: int, count: int, *rest: Any) -> int:
        assert count > 0, "a splice of nothing looks like an end"
        if dst in self.pipes:
            self.fills += 1
            held = bytes_in(self.pipes[dst])
            assert held == 0, f"filled a pipe that holds {held} bytes"
        else:
            self.flushes += 1
        try:
            return self._splice(src, dst, count, *rest)
        except BlockingIOError:
            self.blocked += dst not in self.pipes
            raise


@pipe_modes
@mixes
def test_i1_fills_only_an_empty_pipe_when_the_destination_takes_little(
    monkeypatch: pytest.MonkeyPatch, client: str, upstream: str, mode: str
) -> None:
    splices = Splices(monkeypatch)
    with rig(client, upstream, mode, pipe_size=65536, upstream_buffers=32768) as r:
        reader = Reader(r.upstream)
        rest = memoryview(data := pattern(0, 3_000_000))

        def piecewise() -> bool:
            nonlocal rest
            rest = rest[write(r.client, rest) :]
            reader.read(10_001)  # leaves the destination full, so that flushes are partial
            return len(reader.data) == len(data)

        r.bench.drive(piecewise, "all bytes")
        assert bytes(reader.data) == data
        assert r.up.spliced > len(data) // 2
    assert splices.fills > 10
    assert splices.blocked > 10


@pipe_modes
def test_i1_the_tail_of_a_response_leaves_a_pipe_whose_slots_are_used_up(mode: str) -> None:
    # A pipe counts slots: 64 KiB are full at 16 segments, here 16 times 1448 bytes.
    with rig("v4", "v4", mode, pipe_size=65536, mss=1460) as r:
        reader = Reader(r.client)
        size = 40 * 1448
        for start in range(0, size, 1448):
            assert write(r.upstream, pattern(start, 1448)) == 1448
        acknowledged(r.upstream)
        r.bench.drive(lambda: (reader.read(), len(reader.data) == size)[1], "the tail")
        assert bytes(reader.data) == pattern(0, size)


@modes
@mixes
def test_i2_a_bulk_both_ways_at_once_arrives_whole_and_in_order(
    client: str, upstream: str, mode: str
) -> None:
    size = 4_000_000
    with rig(client, upstream, mode, buffers=65536) as r:
        at_upstream, at_client = Reader(r.upstream), Reader(r.client)
        up, down = memoryview(pattern(0, size)), memoryview(pattern(77, size))
        rest_up, rest_down = up, down

        def both() -> bool:
            nonlocal rest_up, rest_down
            rest_up = rest_up[write(r.client, rest_up[:300_000]) :]
            rest_down = rest_down[write(r.upstream, rest_down[:70_000]) :]
            at_upstream.read(100_000)
            at_client.read(200_000)
            return len(at_upstream.data) == len(at_client.data) == size

        r.bench.drive(both, "both streams")
        assert at_upstream.data == up
        assert at_client.data == down
        assert r.up.moved == r.down.moved == size
        if mode == "copy":
            assert r.up.spliced == 0
        else:
            assert min(r.up.spliced, r.down.spliced) > size // 2


@modes
@mixes
def test_i2_many_sends_of_one_byte_arrive_in_order(client: str, upstream: str, mode: str) -> None:
    # 16 one-byte segments fill a 64 KiB pipe.
    with rig(client, upstream, mode, pipe_size=65536) as r:
        reader = Reader(r.upstream)
        data = pattern(0, 2000)
        for at in range(2000):
            assert r.client.send(data[at : at + 1]) == 1
            if at % 97 == 0:
                r.bench.step()
        r.bench.drive(lambda: (reader.read(), len(reader.data) == 2000)[1], "2000 bytes")
        assert bytes(reader.data) == data


@modes
@mixes
def test_i2_tiny_segments_into_a_full_destination_arrive_in_order(
    client: str, upstream: str, mode: str
) -> None:
    with rig(client, upstream, mode, pipe_size=65536, buffers=SMALL_BUFFERS, mss=536) as r:
        reader = Reader(r.upstream)
        sent = blocked = 0

        def trickle() -> bool:
            nonlocal sent, blocked
            if sent < 150_000:
                sent += write(r.client, pattern(sent, 1 + sent % 7 * 100))
            if r.up.held or sent >= 150_000:
                blocked += 1
                reader.read(1 + sent % 3000)
            return sent >= 150_000 and len(reader.data) == sent

        r.bench.drive(trickle, "150,000 bytes")
        assert bytes(reader.data) == pattern(0, sent)
        assert blocked > 10


@modes
@mixes
def test_i3_a_fin_comes_after_all_that_was_queued_before_it(
    client: str, upstream: str, mode: str
) -> None:
    with rig(client, upstream, mode, buffers=SMALL_BUFFERS, mss=1448) as r:
        reader = Reader(r.upstream)
        sent = 0
        for _ in range(50):  # until everything between the two ends is full
            sent += write(r.client, pattern(sent, 100_000))
            r.bench.step()
        r.client.shutdown(socket.SHUT_WR)
        r.bench.settle()
        assert r.up.held
        assert r.up.end == RUNNING
        assert reader.read_to_end(r.bench) == "fin"
        assert bytes(reader.data) == pattern(0, sent)
        assert r.up.end == FINISHED
        assert r.changes == 1


@modes
@mixes
@pytest.mark.parametrize("closes_first", ["client", "upstream"])
def test_i3_one_direction_runs_on_after_the_other_one_ended(
    client: str, upstream: str, mode: str, closes_first: str
) -> None:
    with rig(client, upstream, mode) as r:
        first, other = r.client, r.upstream
        flow = r.up
        if closes_first == "upstream":
            first, other, flow = other, first, r.down
        at_first, at_other = Reader(first), Reader(other)
        carry(r.bench, first, at_other, b"request")
        first.shutdown(socket.SHUT_WR)
        assert at_other.read_to_end(r.bench) == "fin"
        assert flow.end == FINISHED
        assert r.relay.half_closed
        for start in range(0, 1_500_000, 300_000):
            carry(r.bench, other, at_first, pattern(start, 300_000))
            r.bench.settle()
            assert not at_first.end
        other.shutdown(socket.SHUT_WR)
        assert at_first.read_to_end(r.bench) == "fin"
        r.bench.drive(lambda: r.parted, "the end of the relay")
        assert r.fate is None
        assert r.relay.first_over is flow


@modes
@mixes
def test_i4_what_was_queued_before_a_reset_is_delivered_before_the_reset(
    client: str, upstream: str, mode: str
) -> None:
    with rig(client, upstream, mode, upstream_buffers=SMALL_BUFFERS, mss=1448) as r:
        reader = Reader(r.upstream)
        sent = 0
        while not r.up.held:
            sent += write(r.client, pattern(sent, 20_000))
            acknowledged(r.client)
            r.bench.settle()
        sent += write(r.client, pattern(sent, 10_000))
        acknowledged(r.client)
        if r.client.family == socket.AF_UNIX:
            # A UNIX socket that is closed with bytes unread in it gives its peer ECONNRESET.
            write_all(r.bench, r.upstream, b"unread")
            r.bench.drive(lambda: bytes_in(r.client.fileno()) == 6, "the byte to be there")
        reset(r.client)
        r.bench.settle()
        assert reader.read_to_end(r.bench) == ("fin" if upstream == "unix" else "reset")
        assert bytes(reader.data) == pattern(0, sent)
        assert r.fate is r.near_client
        assert r.survivor is r.near_upstream


@modes
@pytest.mark.parametrize(("client", "upstream"), [*TCP_MIXES, ("unix", "v4")])
def test_i4_a_response_received_before_the_reset_still_reaches_the_client(
    client: str, upstream: str, mode: str
) -> None:
    with rig(client, upstream, mode) as r:
        reader = Reader(r.client)
        carry(r.bench, r.client, Reader(r.upstream), b"request")
        response = pattern(0, 40_000)
        # The client's next bytes are the first event, so the relay learns of the end by a write.
        r.client.sendall(b"more of the request")
        acknowledged(r.client)
        assert write(r.upstream, response) == len(response)
        acknowledged(r.upstream)
        if upstream == "unix":
            r.upstream.close()
        else:
            reset(r.upstream)
        assert reader.read_to_end(r.bench) == ("fin" if client == "unix" else "reset")
        assert bytes(reader.data) == response
        assert r.up.end == BROKEN_DESTINATION
        assert r.down.end == BROKEN_SOURCE
        assert r.fate is r.near_upstream


@modes
@pytest.mark.parametrize(("client", "upstream"), TCP_MIXES)
def test_i4_a_reset_while_the_destination_is_blocked_ends_both_flows(
    client: str, upstream: str, mode: str
) -> None:
    with rig(client, upstream, mode, buffers=SMALL_BUFFERS, mss=1448) as r:
        for _ in range(50):
            write(r.client, pattern(0, 50_000))
            r.bench.step()
        assert r.up.held
        reset(r.upstream)
        end = Reader(r.client).read_to_end(r.bench)
        assert end == "reset"
        assert r.up.end in (BROKEN_DESTINATION, ABANDONED)
        assert r.fate is r.near_upstream
        assert r.bench.pipes.statistics().lent == 0


@modes
@pytest.mark.parametrize("upstream", KINDS)
def test_i4_a_client_that_resets_after_its_fin_is_noticed_at_once(upstream: str, mode: str) -> None:
    with rig("v4", upstream, mode) as r:
        r.client.sendall(b"request")
        r.client.shutdown(socket.SHUT_WR)
        reader = Reader(r.upstream)
        assert reader.read_to_end(r.bench) == "fin"
        reset(r.client)
        r.bench.drive(lambda: r.parted, "the end of the relay")
        assert r.fate is r.near_client
        if upstream != "unix":
            # Having seen the FIN, the upstream meets the reset when it writes.
            with pytest.raises(OSError, match=r"Connection reset|Broken pipe"):
                r.upstream.sendall(b"response")


@modes
def test_i4_a_response_then_a_fin_then_a_reset_is_no_proper_end(mode: str) -> None:
    with rig("v4", "v4", mode) as r:
        reader = Reader(r.client)
        r.upstream.sendall(b"response")
        acknowledged(r.upstream)
        r.client.sendall(b"request that is not read")
        r.bench.settle()
        r.upstream.close()  # with unread bytes: a reset
        assert reader.read_to_end(r.bench) == "reset"
        assert bytes(reader.data) == b"response"
        assert r.fate is r.near_upstream


@modes
def test_i4_a_write_that_used_up_the_error_leaves_no_clean_end(mode: str) -> None:
    # The reset is delivered once: after send() told it, recv() tells 0, like a FIN.
    with rig("v4", "v4", mode) as r:
        r.client.sendall(b"request")
        r.bench.settle()
        reset(r.upstream)
        r.client.sendall(b"more")
        acknowledged(r.client)
        r.relay.up.on_event(relay_rig.EPOLLIN)  # the client's event comes first
        assert r.up.end == BROKEN_DESTINATION
        assert Reader(r.client).read_to_end(r.bench) == "reset"


@modes
def test_i4_bytes_behind_an_urgent_byte_are_delivered_before_the_reset(mode: str) -> None:
    # splice does not pass an urgent byte: it tells the reset, although recv would bring "def".
    with rig("v4", "v4", mode) as r:
        r.client.sendall(b"abc")
        r.client.send(b"!", socket.MSG_OOB)
        r.client.sendall(b"def")
        acknowledged(r.client)
        reset(r.client)
        reader = Reader(r.upstream)
        assert reader.read_to_end(r.bench) == "reset"
        assert bytes(reader.data) == b"abcdef"
        assert r.fate is r.near_client


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
        r.bench.settle()
        assert (r.up.held, r.up.moved) == (held, moved)
        assert bytes_in(r.near_client.fileno()) >= unread > 0
        reader = Reader(r.upstream)
        r.bench.drive(lambda: (reader.read(), len(reader.data) >= sent)[1], "all of it")
        assert bytes(reader.data[:sent]) == pattern(0, sent)


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
