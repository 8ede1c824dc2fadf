"""The supervisor's life: start the workers, listen to signals, end in good order."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from spliceproxy.control.discovery.changes import tell_empty
from spliceproxy.control.door import Door
from spliceproxy.control.door_socket import DoorSocket
from spliceproxy.control.early_signals import EarlySignals
from spliceproxy.control.ejection import Ejection
from spliceproxy.control.file_watch import FileWatch
from spliceproxy.control.fleet import DEFAULT_PATIENCE, Fleet, Patience
from spliceproxy.control.health import Monitor
from spliceproxy.control.obituary import Obituary
from spliceproxy.control.parts import InForce, Part, UpstreamStates
from spliceproxy.control.reaper import reap_strangers
from spliceproxy.control.reload import Reloader, Setup
from spliceproxy.control.report import House
from spliceproxy.control.service import Service
from spliceproxy.control.sockets import ListeningSocket
from spliceproxy.control.systemd import Notifier
from spliceproxy.errors import EXIT_FAILED, EXIT_OK, SpliceproxyError
from spliceproxy.ipc import Reopen, seal
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
        door: DoorSocket | None = None,
        command: Sequence[str] = WORKER_COMMAND,
        patience: Patience = DEFAULT_PATIENCE,
    ) -> None:
        """Takes over `sockets`, `notifier` and what `signals` remembers, while it runs."""
        self._in_force = in_force
        self._sockets = sockets
        self._setup = setup
        self._workers = setup.workers
        self._notifier = notifier
        self._signals = signals
        self._door = door
        self._command = command
        self._patience = patience

    async def run(self) -> int:
        """Serve until a signal ends it; returns the exit code."""
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._reload_wanted = asyncio.Event()
        self._reloading = asyncio.Lock()
        snapshot = self._in_force.snapshot
        self._service = Service(self._sockets)
        self._obituary = Obituary(snapshot.sessions_to, snapshot.log_format)
        try:
            board, sealed = Board.create(self._workers), seal(snapshot)
            view = Board(board, self._workers)
            self._upstreams = view.upstreams
            self._states = UpstreamStates(self._upstreams)
            ejection = Ejection(self._states)
            setup = self._setup
            self._parts: list[Part] = [setup.discovery, setup.access, Monitor(self._states)]
            self._parts.append(ejection)
            if self._setup.sources is not None:
                config, changed = self._in_force.config, self._reload_wanted.set
                self._parts.append(FileWatch(self._setup.sources, config, changed))
            self._fleet = Fleet(
                self._command,
                self._service,
                board,
                self._workers,
                sealed,
                self._obituary.write,
                self._patience,
                on_failing=ejection.on_failing,
            )
            self._reloader = Reloader(self._setup, self._service, self._fleet, sealed)
            if self._door is not None:
                house = House(self._fleet, self._service, view, self._states)
                self._parts.append(Door(self._door, house, self.reload))
            try:
                return await self._live()
            finally:
                self._fleet.close()
                os.close(board)
                self._reloader.close()
        finally:
            self._service.close()
            self._obituary.close()
            self._notifier.close()
            # The event loop is about to give all signals their default actions back.
            self._signals.mute()

    async def _live(self) -> int:
        self._listen_to_signals()
        tasks = [
            asyncio.create_task(work)
            for work in (self._tell_ready(), self._ping(), self._reload_when_wanted())
        ]
        try:
            await self._find_upstreams()
            self._fleet.start()
            for part in self._parts:
                part.apply(self._in_force)
            for changed in (self._setup.discovery.changed, self._setup.access.changed):
                tasks.append(asyncio.create_task(self._follow(changed)))
            await _first_of(self._stop, self._fleet.failed)
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
            signal.SIGHUP: self._on_hangup,
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

    def _on_hangup(self) -> None:
        self._reload_wanted.set()

    async def _reload_when_wanted(self) -> None:
        """Reload after each SIGHUP; those that come meanwhile are one more."""
        await self._fleet.ready.wait()
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            with suppress(SpliceproxyError):  # it is in the log
                await self.reload()

    async def reload(self) -> list[str]:
        """Put the configuration in force as it is now in its file; what differs, in lines.

        Raises SpliceproxyError with a line for each problem; then nothing has changed.
        """
        async with self._reloading:
            if self._stop.is_set():
                raise SpliceproxyError("not reloaded: the proxy is stopping")
            began = time.monotonic()
            self._notifier.notify(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
            try:
                in_force, lines = await self._reloader.reload(self._in_force)
            except SpliceproxyError as error:
                _log.error("not reloaded: nothing has changed", problems=str(error).splitlines())
                self._setup.discovery.apply(self._in_force)
                self._setup.access.apply(self._in_force)
                raise
            finally:
                self._notifier.notify(READY=1)
            self._obey(in_force)
            tell_empty(in_force)
            milliseconds = round((time.monotonic() - began) * 1000, 1)
            _log.info("reloaded", changes=lines or ["nothing changed"], milliseconds=milliseconds)
            return lines

    def _obey(self, in_force: InForce) -> None:
        """Have all parts follow what the workers obey already."""
        self._in_force = in_force
        for part in self._parts:
            part.apply(in_force)
        self._forget_slots()

    def _forget_slots(self) -> None:
        kept = {(pool.name, upstream.name) for pool, upstream in self._in_force.upstreams()}
        self._setup.slots.forget(kept, self._upstreams)

    async def _find_upstreams(self) -> None:
        """Wait a little for names and lists, so that the workers begin with what they tell."""
        finding = asyncio.create_task(self._setup.discovery.prepare(self._in_force.config))
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((finding, stopping), return_when=asyncio.FIRST_COMPLETED)
            if finding.done():
                await finding
        finally:
            finding.cancel()
            stopping.cancel()
            await asyncio.gather(finding, stopping, return_exceptions=True)
        await self._refresh("upstreams found")
        tell_empty(self._in_force)

    async def _follow(self, changed: asyncio.Event) -> None:
        """Put in force what was found or read, whenever it is something else."""
        while True:
            await changed.wait()
            async with self._reloading:
                if self._stop.is_set():
                    return
                before = self._in_force
                await self._refresh("upstreams changed")
                if self._in_force is not before:
                    self._obey(self._in_force)

    async def _refresh(self, event: str) -> None:
        self._setup.discovery.changed.clear()
        self._setup.access.changed.clear()
        try:
            self._in_force = await self._reloader.refresh(event, self._in_force)
        except SpliceproxyError as error:
            _log.error("upstreams that were found cannot be used", problem=str(error))
            self._forget_slots()

    def _on_child(self) -> None:
        self._fleet.reap()
        reap_strangers({worker.pid for worker in self._fleet.workers()})

    async def _tell_ready(self) -> None:
        await self._fleet.ready.wait()
        if self._stop.is_set():
            return
        _log.info("ready", workers=self._workers, pid=os.getpid())
        self._notifier.notify(READY=1, MAINPID=os.getpid(), STATUS=f"{self._workers} workers ready")

    async def _ping(self) -> None:
        """Tell the watchdog that all is well, twice as often as it asks, while that is true."""
        while self._notifier.watchdog:
            if self._fleet.well:
                self._notifier.notify(WATCHDOG=1)
            await asyncio.sleep(self._notifier.watchdog / 2)

    async def _end(self) -> int:
        if self._fleet.failed.is_set() and not self._stop.is_set():
            _log.error(
                "giving up: no worker came up; its last words stand above",
                command=" ".join(self._command),
            )
            return EXIT_FAILED
        # A reload under way is finished: half of it would leave sockets that nobody serves.
        async with self._reloading:
            self._drain = self._in_force.config.timeouts.drain
        sessions = self._fleet.statistics().sessions
        _log.info("stopping", sessions=sessions, drain_seconds=self._drain)
        self._notifier.notify(STOPPING=1, STATUS=f"stopping: {sessions} sessions to end")
        await self._retire_and_drain()
        _log.info("stopped")
        return EXIT_OK

    async def _retire_and_drain(self) -> None:
        """Empty the queues, let sessions end, and leave no worker, at the latest by SIGKILL."""
        began = time.monotonic()
        self._fleet.retire()
        limit = _RETIRE_TIME if self._drain is None else min(_RETIRE_TIME, self._drain)
        await _first_of(self._service.closed, self._fleet.gone, self._hurry, timeout=limit)
        self._service.close()
        if not self._hurry.is_set():
            left = self._drain
            if left is not None:
                left = max(0.0, left - (time.monotonic() - began))
            self._fleet.stop(left)
            grace = None if left is None else left + _DRAIN_GRACE
            await _first_of(self._fleet.gone, self._hurry, timeout=grace)
        if self._hurry.is_set() and not self._fleet.gone.is_set():
            self._fleet.stop(0)
            await _first_of(self._fleet.gone, timeout=_HURRY_GRACE)
        if not self._fleet.gone.is_set():
            self._fleet.kill("did not stop in time")
            await self._fleet.gone.wait()


async def _first_of(*events: asyncio.Event, timeout: float | None = None) -> None:
    """Return when one of `events` is set, or after `timeout` seconds."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def name_process() -> None:
    """Be `spliceproxy`, not `python3`, in ps and top (proc_pid_comm(5))."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text("spliceproxy")
