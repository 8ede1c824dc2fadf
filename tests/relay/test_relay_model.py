"""A relay against a plain model: two queues of bytes, each with an end.

A script of writes, reads, shutdowns, urgent bytes, resets and closes on both sides is carried out
on real sockets. Whatever the script was, the model's promises hold: each far end reads a prefix
of what the other one wrote, a FIN only after all of it, and a reset where the session was broken.
A trial without another upstream promises the same.

SPLICEPROXY_EXAMPLES=5000 looks longer.
"""

from __future__ import annotations

import gc
import os
import socket
from dataclasses import dataclass, field
from typing import Any

import pytest
from harness.fds import open_fds
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from relay_rig import KINDS, MODES, Bench, Reader, Rig, pattern, reset

from spliceproxy.relay.relay import unsent

EXAMPLES = int(os.environ.get("SPLICEPROXY_EXAMPLES", "1000"))


@dataclass
class Side:
    """A far end, and what the model knows of the direction that it writes to."""

    sock: socket.socket
    start: int
    """Where in the pattern its stream begins, so that the two directions differ."""
    reader: Reader = field(init=False)
    written: int = 0
    """Bytes that its kernel took."""
    fin: bool = False
    """It shut its sending side down."""
    urgent: bool = False
    told: bool = False
    """A send told it of the reset. What came before can still be read, then 0 in place of it."""
    gone: str = ""
    """`reset` or `closed`, once it is."""
    owed: int | None = None
    """Bytes that the other end has a right to, although this one is gone."""

    def __post_init__(self) -> None:
        self.reader = Reader(self.sock)

    @property
    def tcp(self) -> bool:
        return self.sock.family != socket.AF_UNIX


class Model:
    """The rig and the two sides; each action is a method."""

    def __init__(self, bench: Bench, rig: Rig) -> None:
        self.bench = bench
        self.rig = rig
        self.sides = (Side(rig.client, 0), Side(rig.upstream, 500_009))

    def write(self, side: Side, size: int) -> None:
        if side.gone or side.fin or side.told:
            return
        data = memoryview(pattern(side.start + side.written, size))
        try:
            while data:
                sent = side.sock.send(data)
                side.written += sent
                data = data[sent:]
        except BlockingIOError:
            pass
        except OSError:
            side.told = True

    def flood(self, side: Side, size: int) -> None:
        """Write a lot, while nobody reads."""
        for _ in range(4):
            self.write(side, size + 65536)
            self.bench.step()

    def read(self, side: Side, size: int) -> None:
        if not side.gone:
            side.reader.read(size)
            if side.told and side.reader.end == "fin":
                side.reader.end = "reset"
            self.check(side)

    def shutdown(self, side: Side, _size: int) -> None:
        if not side.gone and not side.fin:
            side.fin = True
            try:
                side.sock.shutdown(socket.SHUT_WR)
            except OSError:  # reset meanwhile
                return

    def urgent(self, side: Side, size: int) -> None:
        """An urgent byte between ordinary ones: it is not passed on, all others are.

        Only one: a second one would turn the first into an ordinary one (tcp(7)).
        """
        self.write(side, size % 7)
        if side.tcp and not (side.gone or side.fin or side.urgent):
            try:
                side.sock.send(b"!", socket.MSG_OOB)
                side.urgent = True
            except BlockingIOError:
                pass
            except OSError:
                side.told = True
        self.write(side, size % 5)

    def reset(self, side: Side, _size: int) -> None:
        if side.gone:
            return
        if self._all_acknowledged(side):
            side.owed = side.written
        side.gone = "reset"
        reset(side.sock)

    def close(self, side: Side, _size: int) -> None:
        if side.gone:
            return
        if self._all_acknowledged(side):
            side.owed = side.written
        side.gone = "closed"
        side.sock.close()

    def step(self, _side: Side, size: int) -> None:
        for _ in range(size % 5):
            self.bench.step()

    def settle(self, _side: Side, _size: int) -> None:
        self.bench.settle()

    def _all_acknowledged(self, side: Side) -> bool:
        """A reset throws away what our kernel has not got; after it, nobody can tell how much."""
        if not side.tcp:
            return True
        return side.reader.end != "reset" and unsent(side.sock) == 0

    def other(self, side: Side) -> Side:
        return self.sides[side is self.sides[0]]

    def check(self, side: Side) -> None:
        """What holds at any moment of what a side has read."""
        writer, data = self.other(side), side.reader.data
        assert len(data) <= writer.written, "invented bytes"
        assert bytes(data) == pattern(writer.start, len(data)), "wrong bytes"
        if side.reader.end == "fin" and (side.tcp or not (writer.gone or side.fin)):
            assert len(data) == writer.written, "a FIN with bytes missing"
            assert writer.fin or writer.gone, "an invented FIN"

    def finish(self) -> None:
        """End what is still open, and look at what became of it."""
        if not any(side.gone or side.told for side in self.sides):
            self.bench.drive(self._all_arrived, "bytes that nothing holds up")
        for side in self.sides:
            self.shutdown(side, 0)

        def done() -> bool:
            for side in self.sides:
                self.read(side, 1 << 20)
            return self.rig.parted and all(side.gone or side.reader.end for side in self.sides)

        before = self.bench.activity
        self.bench.drive(done, "the end of both streams")
        moved = self.rig.up.moved + self.rig.down.moved
        assert self.bench.activity - before < 500 + moved // 256, "spins"
        for side in self.sides:
            self.check_end(side)

    def _all_arrived(self) -> bool:
        for side in self.sides:
            self.read(side, 1 << 20)
        return all(len(side.reader.data) == self.other(side).written for side in self.sides)

    def check_end(self, side: Side) -> None:
        """What a side has a right to in the end, where it stayed to read."""
        writer = self.other(side)
        if side.gone:
            return
        received = len(side.reader.data)
        if not writer.gone:
            assert received == writer.written, "a finished direction lost bytes"
            assert side.reader.end == "fin"
            assert self.rig.fate is None
        elif writer.owed is not None:
            assert received == writer.owed, "bytes from before the reset are lost"
        if writer.gone == "reset" and writer.tcp and side.tcp and not writer.fin:
            assert side.reader.end == "reset", "a broken session looks like a finished one"


sizes = st.one_of(
    st.integers(1, 16),
    st.integers(0, 20).map(lambda power: 1 << power),
    st.integers(1, 1 << 20),
)
ordinary = st.sampled_from(["write", "write", "flood", "read", "read", "step", "step", "settle"])
endings = st.sampled_from(["shutdown", "urgent", "reset", "close"])
actions = st.tuples(st.one_of(ordinary, ordinary, endings), st.integers(0, 1), sizes)
kinds = st.sampled_from(KINDS)
limits = st.sampled_from([None, None, 8192, 65536])
# A segment of the loopback's own size is larger than a small window, and waits 200 ms each time:
# so the segments are small, as they are on a real network.


@pytest.fixture(scope="module", autouse=True)
def _nobody_elses_garbage() -> None:
    """A relay that another test broke on purpose is closed when the collector finds it, not now."""
    gc.collect()


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(
    client=kinds,
    upstream=kinds,
    mode=st.sampled_from(MODES),
    buffers=st.tuples(limits, limits),
    mss=st.sampled_from([536, 1448]),
    pipe=st.sampled_from([(1 << 20, 4), (65536, 4), (16384, 1), (65536, 0)]),
    replay=st.sampled_from([None, None, 1, 16, 4096, 1 << 20]),
    script=st.lists(actions, min_size=1, max_size=30),
)
def test_a_relay_keeps_the_promises_of_the_model_whatever_the_peers_do(
    client: str,
    upstream: str,
    mode: str,
    buffers: tuple[int | None, int | None],
    mss: int,
    pipe: tuple[int, int],
    replay: int | None,
    script: list[tuple[str, int, int]],
) -> None:
    before = open_fds()
    bench = Bench(mode, pipe_size=pipe[0], max_pipes=pipe[1])
    rig: Any = None
    try:
        rig = Rig(
            bench,
            client,
            upstream,
            buffers=buffers[0],
            upstream_buffers=buffers[1],
            mss=mss,
            replay=replay,
        )
        model = Model(bench, rig)
        for name, index, size in script:
            getattr(model, name)(model.sides[index], size)
        model.finish()
        event(f"{client}-{upstream} {'broken' if rig.fate else 'finished'}")
    finally:
        bench.close()
    assert open_fds() == before
