"""A proxy that the test makes up: a real board and real regions, in which the test counts what
sessions would, and a Traffic that reads them by a clock of the test's."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast

from harness.found import find_upstreams
from harness.health import MACHINE
from spliceproxy import config
from spliceproxy.admin.traffic import Traffic
from spliceproxy.control.house import House
from spliceproxy.control.parts import InForce, UpstreamStates
from spliceproxy.control.plan import make_snapshot
from spliceproxy.control.slots import UpstreamSlots
from spliceproxy.telemetry.board import SESSIONS, Board, listener_sessions
from spliceproxy.telemetry.counters import (
    COPIED_DOWN,
    COPIED_UP,
    FAILURE_WHYS,
    FAILURES,
    HISTOGRAMS,
    RETRIES,
    SPLICED_DOWN,
    SPLICED_UP,
    Region,
    bucket,
)

DONE = ("client", "fin", "done")
CONFIG = {
    "listeners": {"web": {"bind": "127.0.0.1:0", "pool": "app"}},
    "pools": {"app": {"upstreams": ["127.0.0.1:9001", "127.0.0.1:9002"]}},
}
A, B = CONFIG["pools"]["app"]["upstreams"]  # type: ignore[index]


class CountedProxy:
    """What the workers would have counted, and who reads it."""

    def __init__(self, workers: int = 2, **options: Any) -> None:
        """`options` are Traffic's."""
        fd = Board.create(workers)
        self.board = Board(fd, workers)
        os.close(fd)
        self.regions = [Region(words) for words in self.board.counters]
        self.now = 1000.0
        self.seats = [SimpleNamespace(index=n, pid=os.getpid(), ready=True) for n in range(workers)]
        self.states = UpstreamStates(self.board.upstreams)
        self.certificates: list[dict[str, object]] = []
        self.broken_files: list[dict[str, object]] = []
        self.reloaded = True, 1_790_000_000.0
        # What of a House its numbers are read from.
        house = SimpleNamespace(
            board=self.board,
            states=self.states,
            fleet=SimpleNamespace(workers=lambda: iter(self.seats)),
            older_sessions=lambda: 5,
            older_counters=(),
            reloaded=lambda: self.reloaded,
            certificates=lambda _listener: self.certificates,
            broken_files=lambda _listener: self.broken_files,
        )
        self.traffic = Traffic(cast(House, house), clock=lambda: self.now, **options)
        self._slots = UpstreamSlots()
        self.in_force: InForce

    def apply(self, configuration: Mapping[str, object] = CONFIG) -> None:
        """Put a configuration in force; the caller has a running loop."""
        loaded = config.loads(json.dumps(configuration), "test.yaml", {})
        places = find_upstreams(loaded)
        snapshot = make_snapshot(loaded, places, MACHINE, self.board.workers, 0, self._slots)
        self.in_force = InForce(loaded, snapshot)
        self.traffic.apply(self.in_force)

    def slot(self, pool: str, upstream: str = "") -> int:
        """The place on the board of a pool, or of one of its upstreams."""
        return self._slots.slot(pool, upstream)

    def session(
        self,
        upstream: str = A,
        *,
        worker: int = 0,
        listener: str = "web",
        route: str = "",
        pool: str = "app",
        end: tuple[str, str, str] = DONE,
        up: int = 0,
        down: int = 0,
        spliced: int = 0,
        retries: int = 0,
        times: int = 1,
        **microseconds: int,
    ) -> None:
        """Count sessions that ended; `spliced` of the bytes in each direction went by splice.
        `microseconds` by the names of HISTOGRAMS."""
        region = self.regions[worker]
        slots, cell = region.slots, region.cell(listener, route, pool, upstream).at
        slots[cell + COPIED_UP] += (up - min(spliced, up)) * times
        slots[cell + COPIED_DOWN] += (down - min(spliced, down)) * times
        slots[cell + SPLICED_UP] += min(spliced, up) * times
        slots[cell + SPLICED_DOWN] += min(spliced, down) * times
        slots[cell + RETRIES] += retries * times
        slots[cell + region.end(*end)] += times
        for name, value in microseconds.items():
            at = HISTOGRAMS[name]
            slots[cell + at] += value * times
            slots[cell + at + 1 + bucket(value)] += times

    def connect_failures(self, upstream: str, why: str, times: int, worker: int = 0) -> None:
        """Count tries to connect that failed."""
        region = self.regions[worker]
        at = region.cell("web", "", "app", upstream).at + FAILURES + FAILURE_WHYS.index(why)
        region.slots[at] += times

    def live(self, listener: str, number: int, worker: int = 0) -> None:
        """Have so many sessions live with a listener."""
        slots = {one.name: one.slot for one in self.in_force.snapshot.listeners}
        region = self.board.regions[worker]
        region[SESSIONS] += number - region[listener_sessions(slots[listener])]
        region[listener_sessions(slots[listener])] = number


def run(test: Callable[[CountedProxy], Awaitable[None] | None], **options: Any) -> None:
    """Run `test` with a CountedProxy that has CONFIG in force, in an event loop."""

    async def live() -> None:
        proxy = CountedProxy(**options)
        proxy.apply()
        try:
            outcome = test(proxy)
            if outcome is not None:
                await outcome
        finally:
            await proxy.traffic.close()

    asyncio.run(asyncio.wait_for(live(), 60))
