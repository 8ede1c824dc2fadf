"""The supervisor's life: start the workers, listen to signals, end in good order."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence

import structlog

from spliceproxy.control.aftermath import Aftermath
from spliceproxy.control.changes import Changes
from spliceproxy.control.closed import ClosedListeners
from spliceproxy.control.doors import Doors
from spliceproxy.control.draining import Draining
from spliceproxy.control.early_signals import EarlySignals
from spliceproxy.control.ejection import Ejection
from spliceproxy.control.events import Events
from spliceproxy.control.file_watch import FileWatch
from spliceproxy.control.fleet import DEFAULT_PATIENCE, Fleet, Patience
from spliceproxy.control.fullness import Fullness
from spliceproxy.control.health import Monitor
from spliceproxy.control.heritage import Heritage
from spliceproxy.control.house import AdminPart, House
from spliceproxy.control.inherited import Predecessor
from spliceproxy.control.obituary import Obituary
from spliceproxy.control.parts import InForce, Part, UpstreamStates
from spliceproxy.control.pool_states import PoolStates
from spliceproxy.control.reaper import reap_strangers
from spliceproxy.control.record_streams import RecordStreams
from spliceproxy.control.reload import Reloader, Setup
from spliceproxy.control.service import Service
from spliceproxy.control.sessions import LiveSessions
from spliceproxy.control.slow_start import SlowStart
from spliceproxy.control.sockets import ListeningSocket
from spliceproxy.control.succession import Succession, Wing
from spliceproxy.control.systemd import Notifier
from spliceproxy.control.waiting import first_of
from spliceproxy.control.weights import Weights
from spliceproxy.errors import EXIT_FAILED, EXIT_OK
from spliceproxy.ipc import Reopen
from spliceproxy.ipc.sealed import seal
from spliceproxy.telemetry.board import Board

_log = structlog.get_logger()

WORKER_COMMAND = (sys.executable, "-m", "spliceproxy.worker")

_RETIRE_TIME = 5.0
"""Seconds for the workers to empty the accept queues, within the drain time."""
_DRAIN_GRACE = 2.0
"""Seconds after the drain time until a worker that is still there is killed."""
_HURRY_GRACE = 1.0
"""The same after an end at once."""


class Supervisor:
    """One run of the proxy, from the bound sockets to the exit code."""

    def __init__(
        self,
        in_force: InForce,
        sockets: Sequence[ListeningSocket],
        *,
        setup: Setup,
        notifier: Notifier,
        signals: EarlySignals,
        events: Events,
        doors: Doors,
        admin: AdminPart | None = None,
        predecessor: Predecessor | None = None,
        command: Sequence[str] = WORKER_COMMAND,
        patience: Patience = DEFAULT_PATIENCE,
    ) -> None:
        """Takes over `sockets`, `notifier` and what `signals` remembers, while it runs; `events`
        hears the log already. With a `predecessor`, it serves the sockets when that one lets go."""
        self._began_with = in_force
        self._sockets = sockets
        self._setup = setup
        self._workers = setup.workers
        self._notifier = notifier
        self._signals = signals
        self._events = events
        self._doors = doors
        self._admin = admin
        self._predecessor = predecessor
        self._command = command
        self._patience = patience

    async def run(self) -> int:
        """Serve until a signal ends it; returns the exit code."""
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        snapshot = self._began_with.snapshot
        self._service = Service(self._sockets if self._predecessor is None else ())
        self._obituary = Obituary(snapshot.sessions_to, snapshot.log_format)
        try:
            board, sealed = Board.create(self._workers), seal(snapshot)
            self._build(board, sealed)
            try:
                self._fleet.make_room(snapshot)
                return await self._live()
            finally:
                self._fleet.close()
                self._succession.close()
                self._heritage.close()
                os.close(board)
                self._reloader.close()
        finally:
            self._service.close()
            self._obituary.close()
            self._notifier.close()
            # The event loop is about to give all signals their default actions back.
            self._signals.mute()

    def _build(self, board: int, sealed: int) -> None:
        """Put the wing together; nothing runs yet. `board` and `sealed` are fds."""
        view = Board(board, self._workers)
        self._heritage = Heritage(self._predecessor.boards() if self._predecessor else (), view)
        states = UpstreamStates(view.upstreams)
        ejection = Ejection(states)
        self._fleet = Fleet(
            self._command,
            self._service,
            board,
            self._workers,
            sealed,
            self._obituary.write,
            self._patience,
            on_failing=ejection.on_failing,
            listener_slots=self._setup.slots.listeners,
        )
        self._fleet.on_warned = self._events.take_warning
        self._sessions = LiveSessions(self._fleet)
        self._streams = RecordStreams(self._fleet, self._sessions.older)
        self._parts: list[Part] = [
            # First: it sees the configuration change before the others clear flags.
            Aftermath(states, self._fleet.tell),
            self._setup.discovery,
            self._setup.access,
            self._setup.certificates,
            self._setup.log_level,
            Monitor(states),
            ejection,
            SlowStart(states),
            PoolStates(states),
            Fullness(view),
        ]
        closed = ClosedListeners(
            self._service, self._fleet, self._workers, lambda: self._changes.alone()
        )
        self._reloader = Reloader(self._setup, self._service, self._fleet, sealed, closed.names)
        self._changes = changes = Changes(
            self._began_with,
            self._reloader,
            self._setup,
            self._parts,
            view.upstreams,
            self._notifier,
            self._refuses_changes,
        )
        if self._setup.watch and self._setup.sources is not None:
            config, changed = self._began_with.config, changes.reload_soon
            self._parts.append(FileWatch(self._setup.sources, config, changed))
        self._draining = Draining(states, view, self._fleet.tell, closed)
        self._weights = Weights(self._setup.weights, changes.alone, changes.refresh)
        self._parts += [self._draining, self._weights]
        if self._admin is not None:
            self._admin.move_in(self._make_house(view, states, closed))
            self._parts.append(self._admin)
        self._succession = self._make_succession(board)

    def _make_house(self, board: Board, states: UpstreamStates, closed: ClosedListeners) -> House:
        """What whoever serves the doors can see and do."""
        setup, changes = self._setup, self._changes
        return House(
            fleet=self._fleet,
            service=self._service,
            board=board,
            states=states,
            slots=setup.slots,
            closed=closed,
            draining=self._draining,
            sessions=self._sessions,
            streams=self._streams,
            events=self._events,
            weights=self._weights,
            log_level=setup.log_level,
            in_force=lambda: changes.in_force,
            reload=changes.reload,
            upgrade=self.upgrade,
            not_serving=self._why_not_serving,
            older_sessions=lambda: self._succession.older_sessions,
            older_counters=self._heritage.regions,
            certificates=setup.certificates.report,
            broken_files=setup.certificates.broken,
            reloaded=lambda: changes.reloaded,
            files=lambda: setup.files(changes.in_force.config),
        )

    def _make_succession(self, board: int) -> Succession:
        """This process's place in a row of them."""
        return Succession(
            Wing(
                self._service,
                self._fleet,
                self._notifier,
                self._parts,
                (self._draining, self._weights),
                self._doors,
                self._admin,
                lambda over: self._heritage.leave(board, self._workers, over=over),
                self._on_reopen,
                self._changes.lock,
                lambda: self._changes.in_force,
                self._patience.upgrade,
                self._sessions,
                self._streams,
                self._draining,
            ),
            self._predecessor,
            self._sockets,
            self._stop,
            self._hurry,
        )

    async def _live(self) -> int:
        self._listen_to_signals()
        tasks = [
            asyncio.create_task(work)
            for work in (
                self._tell_ready(),
                self._ping(),
                self._reload_when_wanted(),
                self._succession.take_over(),
            )
        ]
        try:
            self._succession.learn()
            await self._changes.find_upstreams(self._stop)
            self._fleet.start()
            for part in self._parts:
                part.apply(self._changes.in_force)
            setup = self._setup
            for part in (setup.discovery, setup.access, setup.certificates, setup.log_level):
                tasks.append(asyncio.create_task(self._changes.follow(part.changed)))
            await first_of(self._stop, self._fleet.failed, self._succession.succeeded)
            if self._succession.succeeded.is_set():
                return await self._end_behind()
            return await self._end()
        finally:
            for task in tasks:
                task.cancel()
            for part in self._parts:
                await part.close()

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        handlers = {
            signal.SIGTERM: self._on_terminate,
            signal.SIGINT: self._on_interrupt,
            signal.SIGUSR1: self._on_reopen,
            signal.SIGUSR2: self._on_upgrade,
            signal.SIGHUP: self._changes.reload_soon,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        if os.getpid() == 1:
            # The kernel gives every orphan of a container to its PID 1.
            loop.add_signal_handler(signal.SIGCHLD, self._on_child)
        for early in self._signals.take():
            handlers[signal.Signals(early)]()

    def _on_terminate(self) -> None:
        (self._hurry if self._stop.is_set() else self._stop).set()

    def _on_interrupt(self) -> None:
        self._hurry.set()
        self._stop.set()

    def _on_reopen(self) -> None:
        self._fleet.tell(Reopen())
        self._obituary.reopen()
        _log.info("files of session records are opened anew")
        self._succession.reopen()

    def _on_upgrade(self) -> None:
        task = asyncio.create_task(self.upgrade())
        task.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _reload_when_wanted(self) -> None:
        await self._fleet.ready.wait()
        # Before, the sockets are a predecessor's: a reload would want to bind them all anew.
        await self._succession.serving.wait()
        await self._changes.reload_when_wanted()

    def _why_not_serving(self) -> str:
        """Why this process takes no new sessions now; empty: it does."""
        if refusal := self._refuses_changes():
            return refusal
        ready = self._fleet.ready.is_set() and self._succession.serving.is_set()
        return "" if ready else "the proxy is starting"

    def _refuses_changes(self) -> str:
        """Why nothing else can be put in force any more; empty: it can."""
        if self._stop.is_set():
            return "the proxy is stopping"
        if self._succession.succeeded.is_set():
            return "another process serves since an upgrade"
        return ""

    async def upgrade(self) -> dict[str, int]:
        """Have a new process of the program serve; its `pid`, and the `sessions` left to this one.

        Raises SpliceproxyError with a line for each problem; then nothing has changed.
        """
        return await self._succession.upgrade()

    def _on_child(self) -> None:
        self._fleet.reap()
        reap_strangers({worker.pid for worker in self._fleet.workers()})

    async def _tell_ready(self) -> None:
        await self._fleet.ready.wait()
        await self._succession.serving.wait()
        if self._stop.is_set():
            return
        _log.info("ready", workers=self._workers, pid=os.getpid())
        self._notifier.notify(READY=1, MAINPID=os.getpid(), STATUS=f"{self._workers} workers ready")

    async def _ping(self) -> None:
        await self._succession.serving.wait()
        await self._notifier.feed_watchdog(lambda: self._fleet.well)

    async def _end(self) -> int:
        if self._fleet.failed.is_set() and not self._stop.is_set():
            _log.error(
                "giving up: no worker came up; its last words stand above",
                command=" ".join(self._command),
            )
            self._succession.refuse("no worker came up; its last words stand in the log")
            return EXIT_FAILED
        # A reload under way is finished: half of it would leave sockets that nobody serves.
        async with self._changes.lock:
            self._drain = self._changes.in_force.config.timeouts.drain
        sessions = self._fleet.statistics().sessions
        _log.info("stopping", sessions=sessions, drain_seconds=self._drain)
        self._notifier.notify(STOPPING=1, STATUS=f"stopping: {sessions} sessions to end")
        await self._retire_and_drain()
        _log.info("stopped")
        return EXIT_OK

    async def _end_behind(self) -> int:
        """A successor serves: sessions end when they like, unless it stops, or this process is
        told to."""
        await self._succession.upgraded.wait()
        for part in self._parts:
            if part is self._admin or isinstance(part, FileWatch):
                await part.close()
        self._service.close()
        self._fleet.stop(None)
        await first_of(self._fleet.gone, self._stop)
        await first_of(self._succession.older_gone, self._stop)
        if self._stop.is_set():
            told = self._succession.drain
            self._drain = self._changes.in_force.config.timeouts.drain if told is None else told
            await self._retire_and_drain()
        _log.info("stopped: all sessions from before the upgrade have ended")
        return EXIT_OK

    async def _retire_and_drain(self) -> None:
        """Empty the queues, let sessions end, and leave no worker, at the latest by SIGKILL."""
        began = time.monotonic()
        self._succession.stop_older(self._drain)
        self._fleet.retire()
        limit = _RETIRE_TIME if self._drain is None else min(_RETIRE_TIME, self._drain)
        await first_of(self._service.closed, self._fleet.gone, self._hurry, timeout=limit)
        self._service.close()
        if not self._hurry.is_set():
            left = self._drain
            if left is not None:
                left = max(0.0, left - (time.monotonic() - began))
            self._fleet.stop(left)
            until = None if left is None else time.monotonic() + left + _DRAIN_GRACE
            for gone in (self._fleet.gone, self._succession.older_gone):
                wait = None if until is None else max(0.0, until - time.monotonic())
                await first_of(gone, self._hurry, timeout=wait)
        if self._hurry.is_set():
            self._succession.hurry_older()
        if self._hurry.is_set() and not self._fleet.gone.is_set():
            self._fleet.stop(0)
            await first_of(self._fleet.gone, timeout=_HURRY_GRACE)
        if not self._fleet.gone.is_set():
            self._fleet.kill("did not stop in time")
            await self._fleet.gone.wait()
        if self._hurry.is_set():
            await first_of(self._succession.older_gone, timeout=_HURRY_GRACE)
