"""The relay's rules I1 to I4 of ARCHITECTURE.md, what becomes of the bytes, on real sockets.

Every test here is also run against relays that break its rule: see test_mutants.py.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest
import relay_rig
from relay_rig import (
    KINDS,
    MIXES,
    MODES,
    Reader,
    acknowledged,
    bytes_in,
    carry,
    parts,
    pattern,
    reset,
    rig,
    segments_in,
    write,
    write_all,
)

from spliceproxy.relay.verdicts import (
    ABANDONED,
    BROKEN_DESTINATION,
    BROKEN_SOURCE,
    FINISHED,
    RUNNING,
)

TCP_MIXES = (("v4", "v6"), ("v6", "unix"))
SMALL_BUFFERS = 8192

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


@pytest.mark.parametrize("mode", ["adaptive", "copy"])
@pytest.mark.parametrize(("client", "upstream"), [("v4", "v6"), ("v6", "v4"), ("v4", "unix")])
def test_i3_the_last_bytes_and_the_fin_are_one_segment(
    client: str, upstream: str, mode: str
) -> None:
    with rig(client, upstream, mode) as r:
        carry(r.bench, r.client, Reader(r.upstream), b"request")
        before = segments_in(r.client)
        r.upstream.sendall(b"response")
        r.upstream.shutdown(socket.SHUT_WR)
        if upstream != "unix":
            acknowledged(r.upstream)
        reader = Reader(r.client)
        assert reader.read_to_end(r.bench) == "fin"
        assert bytes(reader.data) == b"response"
        assert segments_in(r.client) - before == 1


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


@modes
def test_i4_nothing_is_waited_for_once_both_sides_were_reset(mode: str) -> None:
    # A socket that was reset counts for ever what it could not send.
    with rig("v4", "v6", mode) as r:
        sent = write(r.client, pattern(0, 1 << 20))
        r.bench.drive(lambda: r.up.moved + r.up.held > sent // 2, "a full send queue")
        reset(r.client)
        reset(r.upstream)
        r.bench.drive(lambda: r.parted, "the end of the relay")
        assert r.fate is not None
