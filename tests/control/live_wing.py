"""What the supervisor holds in force, in the test's own event loop, with real workers: for what is
changed at run time and is in no file."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import structlog
from harness.health import MACHINE
from harness.proxy import connect, connect_name
from harness.wait import wait_until

from spliceproxy import config
from spliceproxy.config import Config
from spliceproxy.control.access import AccessTables
from spliceproxy.control.changes import Changes
from spliceproxy.control.discovery import Discovery
from spliceproxy.control.events import Events
from spliceproxy.control.fleet import Fleet
from spliceproxy.control.log_level import LogLevel
from spliceproxy.control.names import resolve_binds
from spliceproxy.control.opening import bind_sockets, let_in
from spliceproxy.control.parts import InForce, Part
from spliceproxy.control.plan import make_snapshot
from spliceproxy.control.plan_weights import SetWeights
from spliceproxy.control.reload import Reloader, Setup
from spliceproxy.control.service import Service
from spliceproxy.control.slots import UpstreamSlots
from spliceproxy.control.supervisor import WORKER_COMMAND
from spliceproxy.control.systemd import Notifier
from spliceproxy.control.tls import Certificates
from spliceproxy.control.weights import Weights
from spliceproxy.ipc.sealed import seal
from spliceproxy.telemetry import log
from spliceproxy.telemetry.board import Board

Names = Sequence[tuple[str, str, int | None]]
"""What is known of weights."""
_READY = 15.0
"""Seconds for the workers to be ready."""


@contextmanager
def tapped_log(level: str = "error") -> Iterator[Events]:
    """This process's log, of which only `level` and above is written, and what it said lately."""
    before, library = structlog.get_config(), logging.getLogger()
    handlers, library_level = library.handlers[:], library.level
    events = Events()
    log.set_up(level, "json")
    log.tap(events.take)
    try:
        yield events
    finally:
        log.tap(None)
        structlog.configure(**before)
        library.handlers[:] = handlers
        library.setLevel(library_level)


class LiveWing:
    """Fleet, changes, and the parts that take orders."""

    def __init__(self, text: str, board: int, workers: int, learned: Names, events: Events) -> None:
        """`learned` is what is known of weights from before; `events` hear the log."""
        self.events = events
        self.board = Board(board, workers)
        self.text = text
        """Of the configuration that the next reload reads."""
        loaded = self._load()
        self.setup = setup = Setup(
            self._load,
            MACHINE,
            workers,
            UpstreamSlots(),
            Discovery(),
            AccessTables(),
            Certificates(),
            LogLevel(loaded.log.level),
            SetWeights(),
        )
        sockets = bind_sockets(tuple(loaded.listeners.values()), resolve_binds(loaded), workers)
        let_in(sockets)
        self.service = Service(sockets)
        self.weights = Weights(
            setup.weights, lambda: self.changes.alone(), lambda: self.changes.refresh()
        )
        self.weights.learn(learned)
        found = setup.discovery.found(loaded)
        snapshot = make_snapshot(
            loaded, found, MACHINE, workers, len(sockets), setup.slots, weights=setup.weights
        )
        sealed = seal(snapshot)
        self.fleet = Fleet(
            WORKER_COMMAND,
            self.service,
            board,
            workers,
            sealed,
            lambda *_: None,
            on_failing=lambda *_: None,
        )
        self.fleet.on_warned = events.take_warning
        self.parts: list[Part] = [setup.discovery, setup.log_level, self.weights]
        self.reloader = Reloader(setup, self.service, self.fleet, sealed)
        self.changes = Changes(
            InForce(loaded, snapshot),
            self.reloader,
            setup,
            self.parts,
            self.board.upstreams,
            Notifier(None),
            lambda: "",
        )

    def _load(self) -> Config:
        return config.loads(self.text, "test.yaml", {})

    async def reload(self, text: str) -> list[str]:
        """Put another configuration in force."""
        self.text = text
        return await self.changes.reload()

    @property
    def told_level(self) -> str:
        """The level of the log, as the workers were told."""
        return self.changes.in_force.snapshot.log_level

    async def obeyed(self) -> None:
        """Wait until the workers obey the level that is set."""
        level = self.setup.log_level.level
        await asyncio.to_thread(wait_until, lambda: self.told_level == level, 10, level)

    def weights_in_force(self) -> dict[str, int]:
        """Of each upstream, as the workers were told."""
        return {one.name: one.weight for _pool, one in self.changes.in_force.upstreams()}

    async def shares(self, sessions: int) -> Counter[bytes]:
        """Who answers so many sessions, one after the other."""
        [addresses] = self.service.addresses().values()
        return await asyncio.to_thread(_visit, addresses[0], sessions)


def _visit(address: str, sessions: int) -> Counter[bytes]:
    seen: Counter[bytes] = Counter()
    for _ in range(sessions):
        with connect(connect_name(address)) as client:
            seen[client.makefile("rb").read()] += 1
    return seen


@asynccontextmanager
async def live_wing(text: str, workers: int = 1, learned: Names = ()) -> AsyncIterator[LiveWing]:
    """Run workers on the configuration in `text`; nothing is left of them afterwards."""
    with tapped_log() as events:
        board = Board.create(workers)
        try:
            async with _live(LiveWing(text, board, workers, learned, events)) as wing:
                yield wing
        finally:
            os.close(board)


@asynccontextmanager
async def _live(wing: LiveWing) -> AsyncIterator[LiveWing]:
    follow = [
        asyncio.create_task(wing.changes.follow(part.changed))
        for part in (wing.setup.discovery, wing.setup.log_level)
    ]
    try:
        wing.fleet.start()
        await asyncio.wait_for(wing.fleet.ready.wait(), _READY)
        await wing.setup.discovery.prepare(wing.changes.in_force.config)
        for part in wing.parts:
            part.apply(wing.changes.in_force)
        yield wing
    finally:
        for task in follow:
            task.cancel()
        for part in wing.parts:
            await part.close()
        wing.fleet.close()
        wing.service.close()
        wing.reloader.close()
