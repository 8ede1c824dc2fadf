"""The workers: started, watched, replaced when they die, and ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import structlog

from spliceproxy.control.plan_limits import planes_wanted
from spliceproxy.control.service import Service
from spliceproxy.control.worker_process import WorkerProcess, describe_exit
from spliceproxy.errors import SpliceproxyError
from spliceproxy.ipc import (
    Configure,
    Failing,
    Found,
    Message,
    Ready,
    Retired,
    Snapshot,
    Stop,
    Warned,
    WasReset,
)
from spliceproxy.telemetry.board import HEARTBEAT, SESSIONS, Board, listener_sessions
from spliceproxy.telemetry.counters import Region

_log = structlog.get_logger()

_TICK = 1.0
"""Seconds between two looks at the heartbeats."""
_FIRST_TRIES = 3
"""Starts of each worker before the supervisor gives up, if none of them was ever ready."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the fleet waits for what. All of them seconds."""

    heartbeat: float = 5.0
    """Silence after which a worker is dead."""
    ready: float = 10.0
    """From the start of a worker to its Ready."""
    first_pause: float = 0.1
    """Before the second restart in a row; the first one is immediate, and each further pause is
    twice the last."""
    longest_pause: float = 30.0
    long_life: float = 10.0
    """A worker that lived so long is not dying at once: its next restart is the first again."""
    upgrade: float = 30.0
    """For a new process to be ready to take over."""


DEFAULT_PATIENCE = Patience()


@dataclass(slots=True)
class _Seat:
    """The place of one worker, whoever sits there."""

    index: int
    worker: WorkerProcess | None = None
    pause: float = 0.0
    """Seconds before the next restart."""
    failures: int = 0
    """Starts that did not come to Ready."""
    restart: asyncio.TimerHandle | None = None


@dataclass(frozen=True, slots=True)
class FleetStatistics:
    """The fleet at one moment."""

    workers: int
    ready: int
    sessions: int


class Fleet:
    """All workers, each with its seat, its region of the board and its own sockets.

    Everything happens in the event loop's thread.
    """

    def __init__(
        self,
        command: Sequence[str],
        service: Service,
        board: int,
        workers: int,
        snapshot: int,
        on_death: Callable[[WorkerProcess, int, int], None],
        patience: Patience = DEFAULT_PATIENCE,
        *,
        on_failing: Callable[[int, str], None],
        listener_slots: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        """`board` and `snapshot` are fds, which stay the caller's and stay open.

        `command` starts a worker (see WorkerProcess); `on_death(worker, lost, lost_records)` hears
        of each that died, and of the sessions and the records lost with it; `on_failing(slot,
        why)` of each upstream that a worker says fails. `listener_slots` tells the slot of each
        listener that may have sessions.
        """
        self._command = command
        self._service = service
        self._board_fd = board
        self._board = Board(board, workers)
        self._snapshot = snapshot
        self._generation = 0
        self._on_death = on_death
        self._on_failing = on_failing
        self._listener_slots = listener_slots
        self.on_ready: list[Callable[[WorkerProcess], None]] = []
        """Called with each worker that has become ready to serve."""
        self.on_warned: Callable[[WorkerProcess, str], None] | None = None
        """Called with each warning that a worker logs; see Warned."""
        self.on_answer: Callable[[WorkerProcess, Found | WasReset, list[int]], None] | None = None
        """Called with what a worker answers to a question about its sessions."""
        self.on_gone: Callable[[WorkerProcess], None] | None = None
        """Called with each worker that has ended, well or not."""
        self._patience = patience
        self._seats = [_Seat(index) for index in range(workers)]
        self._stopping = False
        self._was_ready = False
        self._ticker: asyncio.Task[None] | None = None
        self._trusted_since = time.monotonic()
        """Silence counts from here: before, the supervisor itself was not looking."""
        self.ready = asyncio.Event()
        """Set when all workers are ready for the first time."""
        self.configured = asyncio.Event()
        """Set when all workers that live obey the newest snapshot."""
        self.failed = asyncio.Event()
        """Set when no worker came up."""
        self.gone = asyncio.Event()
        """Set when the fleet is stopping and its last worker has ended."""

    def start(self) -> None:
        """Start all workers, and begin to watch them."""
        for seat in self._seats:
            self._start(seat)
        self._ticker = asyncio.create_task(self._watch())

    def workers(self) -> Iterator[WorkerProcess]:
        """The workers that have not ended, ready or not."""
        return (seat.worker for seat in self._seats if seat.worker is not None)

    def statistics(self) -> FleetStatistics:
        return FleetStatistics(
            workers=len(self._seats),
            ready=sum(worker.ready for worker in self.workers()),
            sessions=self._board.total(SESSIONS),
        )

    @property
    def well(self) -> bool:
        """Whether somebody serves, and no worker is silent for longer than it may be."""
        now = time.monotonic()
        return any(worker.ready for worker in self.workers()) and not any(
            self._overdue(worker, now) for worker in self.workers()
        )

    def tell(self, message: Message) -> None:
        """Send a message without fds to every worker."""
        for worker in self.workers():
            worker.send(message)

    def configure(self, snapshot: int) -> None:
        """Give every worker this snapshot, an fd that stays the caller's and open; also those that
        start later. `configured` tells when all obey it, or are gone."""
        self._snapshot = snapshot
        self._generation += 1
        self.configured.clear()
        for worker in self.workers():
            worker.send(Configure(self._generation), snapshot)
        self._tell_configured()

    def make_room(self, snapshot: Snapshot) -> None:
        """Have on the board what this snapshot needs, before workers are told of it.

        Raises SpliceproxyError.
        """
        planes = planes_wanted(snapshot.listeners)
        try:
            self._board.planes.make_room(planes)
        except OSError as error:
            raise SpliceproxyError(
                "limits.per_client: no room for the counts of clients on the board: "
                f"{error.strerror}; LimitFSIZE=infinity in the systemd unit, or ulimit -f unlimited"
            ) from None

    def _tell_configured(self) -> None:
        if all(worker.generation == self._generation for worker in self.workers()):
            self.configured.set()

    def retire(self) -> None:
        """Let no new client in and replace no worker any more; see Service.retire."""
        self._stopping = True
        for seat in self._seats:
            if seat.restart is not None:
                seat.restart.cancel()
                seat.restart = None
        self._service.retire(self.workers())
        self._tell_gone()

    def stop(self, drain: float | None) -> None:
        """Have all workers end their sessions within `drain` seconds, or without limit, and exit.

        `gone` tells the end. To be called after `retire`.
        """
        self.tell(Stop(drain))

    def kill(self, reason: str) -> None:
        """End every worker that is left; `gone` follows."""
        for worker in self.workers():
            worker.kill(reason)

    def reap(self) -> None:
        """Look which workers have ended, without waiting to be told."""
        for worker in list(self.workers()):
            worker.reap()

    def close(self) -> None:
        """Leave no process behind, whatever happened before."""
        if self._ticker is not None:
            self._ticker.cancel()
        for seat in self._seats:
            if seat.restart is not None:
                seat.restart.cancel()
            if seat.worker is not None:
                seat.worker.destroy()
                seat.worker = None

    def _start(self, seat: _Seat) -> None:
        seat.restart = None
        self._board.regions[seat.index][HEARTBEAT] = time.monotonic_ns()
        try:
            worker = WorkerProcess(
                seat.index, self._command, self._board_fd, self._on_message, self._on_exit
            )
        except OSError as error:
            _log.error("worker not started", worker=seat.index, error=str(error))
            self._on_failure(seat)
            self._restart_later(seat)
            return
        seat.worker = worker
        _log.info("worker started", worker=seat.index, pid=worker.pid)
        worker.send(Configure(self._generation), self._snapshot)
        self._service.begin(worker)

    def _on_message(self, worker: WorkerProcess, message: Message, fds: list[int]) -> None:
        match message:
            case Ready(generation=generation):
                begins, worker.ready = not worker.ready, True
                if begins and self.ready.is_set():
                    _log.info("worker ready", worker=worker.index, pid=worker.pid)
                for call in self.on_ready if begins else ():
                    call(worker)
                worker.generation = generation
                self._was_ready = True
                self._seats[worker.index].failures = 0
                self._service.settle(self.workers())
                if self.statistics().ready == len(self._seats):
                    self.ready.set()
                self._tell_configured()
            case Retired(socket=number):
                self._service.on_retired(worker, number, self.workers())
            case Failing(slot=slot, why=why):
                self._on_failing(slot, why)
            case Warned(line):
                if self.on_warned is not None:
                    self.on_warned(worker, line)
            case Found() | WasReset():
                if self.on_answer is not None:
                    self.on_answer(worker, message, fds)
            case _:
                _log.error("unexpected message", worker=worker.index, message=str(message))

    def _on_exit(self, worker: WorkerProcess, code: int) -> None:
        seat = self._seats[worker.index]
        seat.worker = None
        if self.on_gone is not None:
            self.on_gone(worker)
        lost, lost_records = self._bury(worker.index)
        # The clients in its queues come first, the telling afterwards.
        self._service.settle(self.workers())
        self._tell_configured()
        if self._stopping and code == 0:
            self._tell_gone()
            return
        if not worker.ready:
            self._on_failure(seat)
        if not self._stopping:
            if worker.age >= self._patience.long_life:
                seat.pause = 0.0
            self._restart_later(seat)
        _log.error(
            "worker died",
            worker=worker.index,
            pid=worker.pid,
            reason=worker.killed_for or describe_exit(code),
            sessions_lost=lost,
            records_lost=lost_records,
            lived_seconds=round(worker.age, 3),
        )
        self._on_death(worker, lost, lost_records)
        self._tell_gone()

    def _bury(self, index: int) -> tuple[int, int]:
        """Have nothing open on the board any more of a worker that is dead: how many sessions died
        with it, and how many session records that were not written yet."""
        region = self._board.regions[index]
        lost = region[SESSIONS]
        by_listener = {
            name: region[listener_sessions(slot)] for name, slot in self._listener_slots().items()
        }
        lost_records = Region(self._board.counters[index]).bury(by_listener)
        self._board.clear_gauges(index)
        return lost, lost_records

    def _on_failure(self, seat: _Seat) -> None:
        seat.failures += 1
        if not self._was_ready and all(seat.failures >= _FIRST_TRIES for seat in self._seats):
            self.failed.set()

    def _restart_later(self, seat: _Seat) -> None:
        """At once the first time, then after pauses that grow."""
        loop = asyncio.get_running_loop()
        seat.restart = loop.call_later(seat.pause, self._start, seat)
        longer = max(self._patience.first_pause, 2 * seat.pause)
        seat.pause = min(longer, self._patience.longest_pause)

    def _tell_gone(self) -> None:
        if self._stopping and not any(self.workers()):
            self.gone.set()

    async def _watch(self) -> None:
        """Kill who is silent, or does not become ready in time.

        When this look itself comes late (the machine slept, or the whole container was frozen),
        the workers' silence proves nothing: they get their time anew.
        """
        while True:
            before = time.monotonic()
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            if now - before > 2 * _TICK:
                self._trusted_since = now
            for worker in list(self.workers()):
                reason = self._overdue(worker, now)
                if reason:
                    worker.kill(reason)

    def _overdue(self, worker: WorkerProcess, now: float) -> str:
        """Why a worker is given up; empty: it is not."""
        if not worker.ready:
            since = max(worker.started, self._trusted_since)
            late = now - since > self._patience.ready
            return f"not ready after {self._patience.ready:g} s" if late else ""
        beat = self._board.regions[worker.index][HEARTBEAT] / 1e9
        late = now - max(beat, self._trusted_since) > self._patience.heartbeat
        return f"no heartbeat for {self._patience.heartbeat:g} s" if late else ""
