"""A relay between real sockets, driven step by step in the test's own thread.

`Bench` is a loop with its pipes; `Rig` is one relay on it, with the far ends in the test's hands.
A step handles what epoll has to say at that moment and never waits, so a test decides what
happens before what. The parts that a rig is built of can be replaced by broken ones: `parts`.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from select import EPOLLET as EPOLLET
from select import EPOLLIN as EPOLLIN
from types import SimpleNamespace
from typing import Any

from harness.wait import wait_until

import spliceproxy.relay.flow
import spliceproxy.relay.paced
import spliceproxy.relay.pipes
import spliceproxy.relay.relay
import spliceproxy.relay.tls_end
import spliceproxy.relay.tls_flow
import spliceproxy.relay.trial
import spliceproxy.worker.loop
from spliceproxy.relay.means import Means
from spliceproxy.relay.relay import arm_reset, unsent
from spliceproxy.worker.announcement import send_first

KINDS = ("v4", "v6", "unix")
MODES = ("adaptive", "splice", "copy")
MIXES = (("v4", "v4"), ("v4", "unix"), ("unix", "v6"), ("unix", "unix"))
"""Pairs of client's and upstream's kind in which every kind stands on either side."""

parts = SimpleNamespace(
    flow=spliceproxy.relay.flow,
    paced=spliceproxy.relay.paced,
    tls_end=spliceproxy.relay.tls_end,
    tls_flow=spliceproxy.relay.tls_flow,
    pipes=spliceproxy.relay.pipes,
    relay=spliceproxy.relay.relay,
    trial=spliceproxy.relay.trial,
    loop=spliceproxy.worker.loop,
    patience=10.0,
)
"""The modules that a bench is built of, and the seconds that it waits for anything."""

LINGER_0 = struct.pack("ii", 1, 0)
PATTERN = os.urandom(1 << 20)


def pattern(start: int, size: int) -> bytes:
    """Bytes `start` to `start + size` of an endless stream without short periods."""
    begin = start % len(PATTERN)
    times = (begin + size) // len(PATTERN) + 1
    return (PATTERN * times)[begin : begin + size]


def connected(kind: str, buffers: int | None = None, mss: int | None = None) -> Any:
    """Two connected non-blocking sockets. `buffers`: bytes of each of the four socket buffers."""
    if kind == "unix":
        ends = socket.socketpair()
        for end in ends:
            _limit(end, buffers)
            end.setblocking(False)
        return ends
    family, host = (socket.AF_INET, "127.0.0.1") if kind == "v4" else (socket.AF_INET6, "::1")
    with socket.socket(family) as listening:
        far = socket.socket(family)
        for end in (listening, far):
            _limit(end, buffers)
            if mss is not None:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, mss)
        listening.bind((host, 0))
        listening.listen()
        far.connect(listening.getsockname())
        near, _ = listening.accept()
    for end in (far, near):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end.setblocking(False)
    return far, near


def _limit(sock: socket.socket, buffers: int | None) -> None:
    if buffers is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)


def reset(sock: socket.socket) -> None:
    """Close with a reset (TCP); a UNIX socket is closed."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
    sock.close()


def bytes_in(fd: int) -> int:
    """Bytes that wait in a pipe or in a socket's receive queue (FIONREAD)."""
    answer = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, answer)
    return answer[0]


def segments_in(sock: socket.socket) -> int:
    """Segments that a TCP socket received (tcpi_segs_in, linux/tcp.h)."""
    return int.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144)[140:], "little")


def fail(owner: object, error: Exception) -> None:
    """A handler must not fail."""
    raise AssertionError(f"{owner!r} failed: {error!r}") from error


class _Counted:
    def __init__(self, bench: Bench, handler: Callable[[int], None]) -> None:
        self.bench = bench
        self.handler = handler

    def __call__(self, events: int) -> None:
        self.bench.activity += 1
        self.handler(events)


class Bench:
    """A loop and what its flows share. `activity` counts handled events and turns queued again."""

    def __init__(
        self,
        mode: str = "adaptive",
        *,
        pipe_size: int = 1 << 20,
        max_pipes: int = 16,
        pages: int | None = None,
    ) -> None:
        self.activity = 0
        self.pumps: list[Callable[[], object]] = []
        """What far ends have to do at each step: TLS sends what it could not send before."""
        self.pipes = parts.pipes.PipePool(pipe_size, max_pipes, pages)
        self.means = Means(mode, self.pipes)
        self.loop = parts.loop.Loop(fail)
        self.rigs: list[Rig] = []
        self.now = self.loop.now

    # What a relay asks of its reactor, counted.

    def set_handler(self, fd: int, handler: Callable[[int], None]) -> None:
        self.loop.set_handler(fd, _Counted(self, handler))

    def modify(self, fd: int, mask: int) -> None:
        self.loop.modify(fd, mask)

    def run_again(self, call: Callable[[], None]) -> None:
        self.activity += 1
        self.loop.run_again(call)

    # Driving.

    def step(self) -> int:
        """Handle what is there now, without waiting; how much there was."""
        before = self.activity
        for pump in self.pumps:
            pump()
        self._turn()
        over = [rig for rig in self.rigs if rig.attend()]
        if over:
            self._turn()  # closes their sockets
        return self.activity - before

    def _turn(self) -> None:
        self.loop.run_again(self.loop.stop)  # a queued call keeps the loop from waiting
        self.loop.run()
        self.now = self.loop.now

    def settle(self, limit: int = 3000) -> None:
        """Step until nothing is left to do. Fails where there is always something (I9)."""
        quiet = 0
        for _ in range(limit):
            quiet = 0 if self.step() else quiet + 1
            if quiet == 3:
                return
        raise AssertionError(f"the loop spins: {self.activity} events and turns")

    def drive(self, until: Callable[[], object], what: str) -> None:
        """Step until something is true."""
        deadline = time.monotonic() + parts.patience
        while not until():
            self.step()
            assert time.monotonic() < deadline, f"not within {parts.patience} s: {what}"

    def wakes(self, seconds: float = 0.15) -> int:
        """Settle, run the loop as a worker does, and tell how often it woke before the alarm."""
        self.settle()
        alarm = _Alarm(self.loop)
        self.loop.now = time.monotonic()
        self.loop.arm(alarm, self.loop.now + seconds)
        before = self.loop.batches
        self.loop.run()
        assert alarm.rang
        return int(self.loop.batches - before) - 1

    def close(self) -> None:
        """Close everything, and see that nothing is lent or left."""
        for rig in self.rigs:
            rig.close()
        self.loop.close()
        count = self.pipes.statistics()
        pooled = [self.pipes.lend() for _ in range(count.pooled)]
        left = [bytes_in(pipe.read_fd) for pipe in pooled]
        for pipe in pooled:
            self.pipes.take_back(pipe)
        self.pipes.close()
        assert not any(left), "a pipe that holds bytes was pooled (I5)"
        assert count.lent == self.pipes.owned == 0, "a pipe is still lent"


class _Alarm:
    def __init__(self, loop: Any) -> None:
        self.slot = 0
        self.rang = False
        self.loop = loop

    def on_deadline(self, _now: float) -> None:
        self.rang = True
        self.loop.stop()


class Rig:
    """One relay. `client` and `upstream` are the far ends; `near_*` belong to the relay."""

    def __init__(
        self,
        bench: Bench,
        client: str = "v4",
        upstream: str = "v4",
        *,
        buffers: int | None = None,
        upstream_buffers: int | None = None,
        mss: int | None = None,
        ends: Any = None,
        replay: int | None = None,
        spares: int = 0,
        first: bytes = b"",
        prepare: Callable[[Rig], int] | None = None,
    ) -> None:
        """`ends`: (client, near_client, upstream, near_upstream) in place of new ones. `replay`:
        begin with a trial that keeps so many bytes and has so many `spares` for its upstream.
        `first`: what each upstream gets before the client's bytes. `prepare` is called with each
        relay before it begins, and returns the client's events to begin with."""
        if ends is None:
            to_client = connected(client, buffers, mss)
            ends = (*to_client, *connected(upstream, upstream_buffers or buffers, mss))
        self.client, self.near_client, self.upstream, self.near_upstream = ends
        self.bench = bench
        self.changes = 0
        self.parted = False
        for near in (self.near_client, self.near_upstream):
            bench.loop.add(near.fileno(), parts.relay.interest(near.family), _nobody)
        self._prepare = prepare
        events = self._make_relay()
        self.fate: socket.socket | None = None
        """The side that failed, once the relay is over."""
        self.survivor: socket.socket | None = None
        bench.rigs.append(self)
        self.by_fin: list[bool] = []
        """How the upstreams ended that the trial wanted to replace."""
        self.left: list[socket.socket] = []
        """The far ends of upstreams that were replaced."""
        self._kind, self._spares, self._first = upstream, spares, first
        self._limits = upstream_buffers or buffers, mss
        if replay is None:
            self.relay.start(self._announce(events), 0)
        else:
            self.trial = _trial(self, replay)
            self.trial.start(self.relay, self._announce(events), 0)

    def _make_relay(self) -> int:
        self.relay = parts.relay.Relay(
            self.near_client, self.near_upstream, self.bench.means, self.bench, self._on_change
        )
        events = self._prepare(self) if self._prepare else 0
        self.up, self.down = self.relay.up, self.relay.down
        return events

    def _announce(self, events: int) -> int:
        """Send `first`, as a session does with a PROXY header; the events to begin with."""
        left = self._first and send_first(self.up, self._first, socket.MSG_DONTWAIT)
        return events | EPOLLIN if left else events

    def replace(self, relay: Any) -> bool:
        """Have a spare take the upstream's place, after the events of this batch."""
        if not self._spares:
            return False
        self._spares -= 1
        loop = self.bench.loop
        relay.abandon()
        loop.close_socket_later(self.near_upstream)
        loop.close_later(relay)
        self.left.append(self.upstream)
        self.upstream, self.near_upstream = connected(self._kind, *self._limits)
        loop.add(
            self.near_upstream.fileno(), parts.relay.interest(self.near_upstream.family), _nobody
        )
        events = self._make_relay()

        def gather(new: int) -> None:
            nonlocal events
            events |= new

        loop.set_handler(self.near_client.fileno(), gather)
        self.bench.run_again(lambda: self.trial.start(self.relay, self._announce(events), 0))
        return True

    def _on_change(self, relay: Any) -> None:
        self.changes += 1
        if relay.over:
            for near in (self.near_client, self.near_upstream):
                self.bench.loop.set_handler(near.fileno(), _nobody)

    def attend(self) -> bool:
        """Do what a session does at the end of its relay: part, then have both sockets closed."""
        if self.parted or not self.relay.over:
            return False
        survivor = self.relay.survivor
        self.fate, self.survivor = self.relay.broken, survivor
        if survivor is not None and survivor.family != socket.AF_UNIX:
            try:
                if unsent(survivor):
                    return False
            except OSError:
                pass
            arm_reset(survivor)
        self._close_near()
        return True

    def _close_near(self) -> None:
        self.parted = True
        loop = self.bench.loop
        for near in (self.near_client, self.near_upstream):
            loop.close_socket_later(near)
        loop.close_later(self.relay)

    def close(self) -> None:
        for far in (self.client, self.upstream, *self.left):
            far.close()
        if not self.parted:
            self.relay.abandon()
            self._close_near()


def _trial(rig: Rig, replay: int) -> Any:
    class Spares(parts.trial.Trial):  # type: ignore[misc, name-defined]
        def replace(self, relay: Any, by_fin: bool) -> bool:
            rig.by_fin.append(by_fin)
            return rig.replace(relay)

    return Spares(replay, rig.bench)


def _nobody(_events: int) -> None:
    """Until the relay sets its own."""


@contextmanager
def bench(mode: str = "adaptive", **options: Any) -> Iterator[Bench]:
    """A bench that is closed afterwards, with all its rigs."""
    made = Bench(mode, **options)
    try:
        yield made
    except BaseException:
        with suppress(Exception):  # what went wrong before is the news
            made.close()
        raise
    made.close()


@contextmanager
def rig(
    client: str = "v4",
    upstream: str = "v4",
    mode: str = "adaptive",
    *,
    pipe_size: int = 1 << 20,
    **options: Any,
) -> Iterator[Rig]:
    """One relay on a bench of its own."""
    with bench(mode, pipe_size=pipe_size) as made:
        yield Rig(made, client, upstream, **options)


class Reader:
    """What a far end received, and how its stream ended: "", "fin" or "reset"."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.data = bytearray()
        self.end = ""

    def read(self, size: int = 1 << 20) -> int:
        """Take what is there, `size` bytes at most; how much it was."""
        before = len(self.data)
        while not self.end and len(self.data) - before < size:
            try:
                more = self.sock.recv(size - (len(self.data) - before))
            except BlockingIOError:
                break
            except OSError:
                self.end = "reset"
                break
            if not more:
                self.end = "fin"
            self.data += more
        return len(self.data) - before

    def read_to_end(self, bench: Bench) -> str:
        """Step and read until the stream has ended; how it did."""
        bench.drive(lambda: (self.read(), self.end)[1], "the end of the stream")
        return self.end


def write(sock: socket.socket, data: bytes) -> int:
    """Send what the socket takes now; how much it was."""
    sent = 0
    view = memoryview(data)
    while sent < len(view):
        try:
            sent += sock.send(view[sent:])
        except BlockingIOError:
            break
    return sent


def write_all(bench: Bench, sock: socket.socket, data: bytes) -> None:
    """Send everything, stepping meanwhile."""
    rest = memoryview(data)

    def more() -> bool:
        nonlocal rest
        rest = rest[write(sock, rest) :]
        return not rest

    bench.drive(more, "all bytes sent")


def carry(bench: Bench, source: socket.socket, reader: Reader, data: bytes) -> None:
    """Send `data` into one end while the other one is read, until it has all of it."""
    rest = memoryview(data)
    goal = len(reader.data) + len(data)

    def more() -> bool:
        nonlocal rest
        if rest:
            rest = rest[write(source, rest[: 256 * 1024]) :]
        reader.read()
        return len(reader.data) >= goal

    bench.drive(more, f"{len(data)} bytes to arrive")
    assert bytes(reader.data[goal - len(data) :]) == data


def acknowledged(source: socket.socket) -> None:
    """Wait until what a far end sent is in our kernel: a reset now would not take it back."""
    if source.family != socket.AF_UNIX:
        wait_until(lambda: unsent(source) == 0, parts.patience, "an acknowledgement")
