"""One worker: what it was told, what it serves, and how it ends."""

from __future__ import annotations

import gc
import os
import random
import signal
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from select import EPOLLIN, EPOLLOUT
from typing import Final

import orjson
import structlog

from spliceproxy.errors import IpcError
from spliceproxy.ipc import (
    Channel,
    Configure,
    End,
    Failing,
    Find,
    HasFileno,
    Message,
    Ready,
    Release,
    Reopen,
    Reset,
    Retire,
    Retired,
    Serve,
    Snapshot,
    Spare,
    Stop,
    Warned,
    Watch,
)
from spliceproxy.ipc.queries import SessionQuery
from spliceproxy.ipc.sealed import unseal_in_steps
from spliceproxy.relay.means import Means
from spliceproxy.relay.pipes import PipePool
from spliceproxy.telemetry import log
from spliceproxy.telemetry.board import SESSIONS, Board
from spliceproxy.telemetry.counters import Region
from spliceproxy.telemetry.record import session_ids
from spliceproxy.telemetry.tap import Line
from spliceproxy.worker.census import Census
from spliceproxy.worker.ending import Endings
from spliceproxy.worker.limits import LimitsOfAll
from spliceproxy.worker.listener import Listener, ListeningSocket, make_listeners
from spliceproxy.worker.loop import Loop
from spliceproxy.worker.pool import Pool, Upstream, ephemeral_ports, make_upstreams
from spliceproxy.worker.pulse import Pulse
from spliceproxy.worker.queue import queue_of
from spliceproxy.worker.records import Records
from spliceproxy.worker.session import Session
from spliceproxy.worker.streams import Streams
from spliceproxy.worker.tally import Tally
from spliceproxy.worker.timers import Alarm
from spliceproxy.worker.turns import Turns

FAILING_PAUSE: Final = 0.1
"""Seconds between two messages about one upstream that fails, at the least."""


class LastWord:
    """Something to say once all that was closed before it is closed."""

    __slots__ = ("close",)

    def __init__(self, say: Callable[[], None]) -> None:
        self.close = say


class Worker:
    """The worker's process in one object. `run` is its whole life."""

    def __init__(self, channel: Channel, board: Board, index: int) -> None:
        """`channel` leads to the supervisor; the region `index` of `board` is this worker's."""
        self.index = index
        self.loop = Loop(self.on_failure)
        self.sessions: set[Session] = set()
        self.paused: set[ListeningSocket] = set()
        """Listening sockets that wait for room."""
        self.session_ids = session_ids(index)
        self.means: Means
        self._channel = channel
        self._board = board
        self.region = board.regions[index]
        self._limits = LimitsOfAll(board, index)
        self.upstream_sessions = board.upstreams.sessions[index]
        """This worker's live sessions with each upstream, by slot."""
        self.tally = Tally(Region(board.counters[index]), self.loop)
        self._streams = Streams(self.loop)
        self.records = Records(self.loop, self.tally.slots, self._streams, index)
        self.pulse = Pulse(self.loop, self.region, self.tally.slots, self._on_beat)
        self._census = Census(self, self._tell)
        self._snapshot: Snapshot
        self.pools: dict[str, Pool] = {}
        self._listeners: dict[str, Listener] = {}
        self._sockets: dict[int, ListeningSocket] = {}
        self._steps: Generator[None, None, None] | None = None
        """What is left to do of a configuration that was received."""
        self._stopping = False
        self._drained = Alarm(self._end_all)
        self._endings = Endings(self)
        self.handshakes = Turns(self.loop)
        self._shortage_said = 0.0
        # Not bind(): that would choose, for ever, the destination from before log.set_up().
        self._log = structlog.get_logger(worker=index)

    def run(self) -> int:
        """Work until the supervisor says stop, or is gone. Returns the exit code."""
        self.loop.add(self._channel.fileno(), EPOLLIN, self._on_channel)
        self.loop.on_signal(signal.SIGUSR1, self._reopen)
        log.tap(self._pass_on)
        self.pulse.beat()
        self.loop.run()
        if self.pulse.pipes is not None:
            self.pulse.pipes.close()
        self._streams.close()
        self.records.close()
        self._channel.close()
        self.loop.close()
        return 0

    def _on_channel(self, events: int) -> None:
        if events & EPOLLOUT:
            self._channel.flush()
            if not self._channel.waiting:
                self.loop.modify(self._channel.fileno(), EPOLLIN)
        while self._steps is None:  # what comes after a configuration may need it
            try:
                received = self._channel.receive()
            except BlockingIOError:
                return
            if received is None:
                self._on_orphaned()
                return
            self._obey(*received)

    def _obey(self, message: Message, fds: list[int]) -> None:
        match message:
            case Configure(generation):
                self._steps = self._configure(fds[0], generation)
                self._take_step()
            case Serve(number, name, shared):
                self._serve(number, name, fds[0], shared)
            case Release(number):
                self._close_socket(number)
            case Retire(number):
                if number in self._sockets:
                    self._sockets[number].retire()
                else:
                    self._tell_retired(number)
            case Stop(drain):
                self._stop(drain)
            case End():
                self._endings.begin(message)
            case Spare():
                self._endings.spare(message)
            case Find(request, query):
                self._census.find(request, query)
            case Reset(request, query):
                self._census.reset(request, query)
            case Watch(keep, where):
                self._streams.add(fds[0], keep, SessionQuery.decode(where).where)
            case Reopen():
                self._reopen()

    def _configure(self, fd: int, generation: int) -> Generator[None, None, None]:
        """Obey the snapshot behind `fd` from the last step on: each takes a millisecond or few."""
        try:
            snapshot = yield from unseal_in_steps(fd)
        finally:
            os.close(fd)
        if self.pulse.pipes is None:
            self._begin(snapshot)
        yield
        yield from self._follow(snapshot)
        self._tell(Ready(os.getpid(), generation))

    def _take_step(self) -> None:
        """Do a piece of what takes long, and the next one after the events that came meanwhile."""
        assert self._steps is not None
        try:
            next(self._steps)
        except StopIteration:
            self._steps = None
        else:
            self.loop.run_again(self._take_step)

    def _tell(self, message: Message, *files: HasFileno) -> None:
        try:
            self._send(message, *files)
        except OSError:
            self._on_orphaned()

    def _send(self, message: Message, *files: HasFileno) -> None:
        self._channel.send(message, *files)
        if self._channel.waiting:
            self.loop.modify(self._channel.fileno(), EPOLLIN | EPOLLOUT)

    def _pass_on(self, line: Line) -> None:
        """A warning in the log is for the supervisor too, unless it does not read, or is gone."""
        if line["level"] != "info" and not self._channel.waiting:
            with suppress(OSError, IpcError):  # also one that is too long
                self._send(Warned(orjson.dumps(line).decode()))

    def _serve(self, number: int, name: str, fd: int, shared: bool) -> None:
        listener = self._listeners.get(name)
        known = self._sockets.get(number)
        if listener is None:  # it left the configuration while a sibling that served it died
            os.close(fd)
            self._tell(Retired(number))
        elif known is not None:
            os.close(fd)
            known.listener = listener
        else:
            self._sockets[number] = ListeningSocket(self, listener, number, fd, shared=shared)

    def _begin(self, snapshot: Snapshot) -> None:
        """Make what lasts as long as the worker."""
        self.records.open(snapshot)
        relay = snapshot.relay
        pipes = PipePool(relay.pipe_size, relay.max_pipes, relay.pipe_pages)
        self.pulse.pipes = pipes
        self.means = Means(relay.mode, pipes)
        # Sessions die by reference count, so what the collector finds is little and can wait; what
        # lives since the start need not be looked at again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)

    def _follow(self, snapshot: Snapshot) -> Generator[None, None, None]:
        """Obey this snapshot from now on. Sessions go on with what they began with, but for those
        that need another upstream, which they find among the new ones.

        A pool whose plan is the same stays, and so does its place in the round.
        """
        log.set_up(snapshot.log_level, snapshot.log_format)
        ephemeral = ephemeral_ports()
        upstreams = self._board.upstreams
        pools = {}
        for plan in snapshot.pools:
            pool = self.pools.get(plan.name)
            if pool is None or pool.plan != plan:
                yield
                members = yield from make_upstreams(plan, ephemeral)
                pool = Pool(plan, random.random(), members, upstreams, self.index, pool)
                yield
            pools[plan.name] = pool
        for name, pool in pools.items():
            old = self.pools.get(name)
            if pool is not old:
                waiting = upstreams.waiting[self.index]
                pool.queue = queue_of(pool, old, self.loop, waiting)
                if old is not None:
                    old.successor = pool
        self._snapshot = snapshot
        self.pools = pools
        listeners = make_listeners(snapshot.listeners, pools, self._limits, self._listeners)
        self._listeners = listeners
        for entry in self._sockets.values():
            # One whose listener left the configuration is about to be retired.
            entry.listener = self._listeners.get(entry.listener.name, entry.listener)
        self.tally.keep(snapshot)

    def has_room(self, listener: Listener) -> bool:
        """Whether one more session may begin: of this process, of all, of the listener."""
        snapshot = self._snapshot
        if len(self.sessions) >= snapshot.worker_sessions:
            return False
        limit = snapshot.max_sessions
        if limit is not None and self._board.total(SESSIONS) >= limit:
            return False
        limit = listener.plan.max_sessions
        return limit is None or self._board.total(listener.counter) < limit

    def fds_come_back(self) -> bool:
        """Whether one more session may need fds that are only closed at the end of this batch."""
        return len(self.sessions) + self.loop.closing >= self._snapshot.worker_sessions

    def on_session_start(self, session: Session) -> None:
        """Count it."""
        sessions = self.sessions
        sessions.add(session)
        region = self.region
        region[SESSIONS] = len(sessions)
        region[session.listener.counter] += 1

    def on_session_end(self, session: Session) -> None:
        """Count it, and let somebody else in."""
        sessions = self.sessions
        sessions.discard(session)
        region = self.region
        region[SESSIONS] = len(sessions)
        region[session.listener.counter] -= 1
        if self.paused:
            for entry in tuple(self.paused):
                entry.on_room()
        if self._stopping and not sessions:
            self.loop.stop()

    def on_shortage(self, error: OSError) -> None:
        """accept() found no fd or no memory. Say so, at most once a second."""
        if self.loop.now - self._shortage_said >= 1.0:
            self._shortage_said = self.loop.now
            self._log.warning(
                "accepting paused: clients wait in the kernel's queue",
                error=error.strerror,
                sessions=len(self.sessions),
            )

    def on_failing(self, upstream: Upstream, why: str) -> None:
        """Sessions failed on an upstream again and again: tell the supervisor, and count anew.

        Not too often, and not while it does not read: then the next failure tells.
        """
        now = self.loop.now
        if now - upstream.told >= FAILING_PAUSE and not self._channel.waiting:
            upstream.told = now
            upstream.failures = upstream.early_closes = 0
            self._tell(Failing(upstream.slot, why))

    def on_retired(self, entry: ListeningSocket) -> None:
        """A retired socket's queue stayed empty."""
        self._close_socket(entry.number)
        self._tell_retired(entry.number)

    def _tell_retired(self, number: int) -> None:
        """Say so when this process's copy is closed: sockets are at the end of the batch, in order.

        Somebody may bind the address at once, and would find it in use.
        """
        self.loop.close_later(LastWord(partial(self._tell, Retired(number))))

    def _close_socket(self, number: int) -> None:
        entry = self._sockets.pop(number, None)
        if entry is not None:
            entry.close()

    def _reopen(self) -> None:
        self.records.reopen()

    def _on_beat(self) -> None:
        """Once a second."""
        self.tally.begin_round(self.sessions)
        self._streams.look()
        self.records.report()

    def _stop(self, drain: float | None) -> None:
        """No new clients; sessions have `drain` seconds, None for as long as they like."""
        self._stopping = True
        for number in tuple(self._sockets):
            self._close_socket(number)
        if not self.sessions:
            self.loop.stop()
        elif drain is not None:
            self.loop.wheel.disarm(self._drained)
            self.loop.arm(self._drained, self.loop.now + drain)
            if not drain:
                self._end_all()

    def _end_all(self) -> None:
        for session in tuple(self.sessions):
            session.abort("stopped")
        self.loop.stop()

    def _on_orphaned(self) -> None:
        """The supervisor is gone, and nobody could find or stop this worker any more."""
        self._stopping = True
        self._log.error("worker ends: the supervisor is gone", sessions=len(self.sessions))
        self._end_all()

    def on_failure(self, owner: object, error: Exception) -> None:
        """A mistake of ours in one session's handler costs that session, not the others."""
        for session in self.sessions:
            if session.owns(owner):
                self._log.error("session ended by a mistake of the proxy", exc_info=error)
                session.abort("internal_error")
                return
        raise error
