"""What moves: sampled every five seconds, remembered for ten minutes, told to whoever asks.

Pages poll every two seconds and scrapers every second, several of them at once, so whoever asks
within half a second after somebody else gets the same look at the counters.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, TypeVar

from spliceproxy.admin.comparison import Comparison
from spliceproxy.admin.figures import (
    NOTHING,
    TOTAL,
    Figures,
    Scope,
    Tally,
    listener_scope,
    pool_scope,
    rates,
    spread,
    upstream_scope,
)
from spliceproxy.admin.gauges import Shown, metrics_moment, workers_now
from spliceproxy.admin.history import INTERVAL, MOST, History
from spliceproxy.admin.labels import UpstreamLabels
from spliceproxy.admin.past import Past
from spliceproxy.admin.present import Mark, Present, configured, counts_of, live_sessions
from spliceproxy.control.house import House
from spliceproxy.control.parts import InForce
from spliceproxy.ipc import Snapshot
from spliceproxy.telemetry.board import listener_sessions
from spliceproxy.telemetry.counters import TLS_FAILED
from spliceproxy.telemetry.ledger import Ledger

T = TypeVar("T")

_FRESH: Final = 0.5
"""Seconds for which a look at the counters is shared."""
_RECENTLY: Final = 10.0
"""Seconds over which rates are told."""
_MINUTE: Final = 60.0
"""Seconds over which quantiles are told."""
_MANY: Final = 100
"""Listeners, pools and upstreams beyond which an answer takes more than the 20 ms for which the
event loop may be kept busy."""


class Traffic:
    """The numbers of `/traffic`, `/history` and `/metrics`. A Part.

    Everything but `apply` and `close` may be called in any thread; where there are many upstreams
    it should be, by `aside`.
    """

    def __init__(
        self,
        house: House,
        *,
        upstream_labels: bool = True,
        interval: float = INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`upstream_labels`: whether `/metrics` tells upstreams apart; `interval`: seconds from one
        sample to the next; `clock` tells monotonic seconds."""
        self._house = house
        self._interval = interval
        self._clock = clock
        self._began = clock()
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "traffic")
        """Of its own: all questions have to wait for each other, and however many they are, a
        reload does not wait for a thread."""
        self._in_force: InForce | None = None
        self._sampler: asyncio.Task[None] | None = None
        self._shown = Shown()
        self._ledger = Ledger(house.board.counters, [house.board.history, *house.older_counters])
        self._labels = UpstreamLabels(upstream_labels)
        self._present: Present | None = None
        self._failed_handshakes: dict[str, int] = {}
        """By listener."""
        self._marks: Past[Mark] = Past(_RECENTLY + interval)
        self._spreads: Past[dict[Scope, int]] = Past(_MINUTE + interval)
        self._history = History(interval)
        self._tracked: set[Scope] = set()
        """Who has a history, and quantiles."""
        self._slots: dict[str, int] = {}
        """The places on the board of listeners, also of some that left: they may have sessions."""

    def apply(self, in_force: InForce) -> None:
        """Tell of this configuration from now on. The first time, begin with the samples."""
        self._in_force = in_force
        self._shown = Shown.of(self._house, in_force.snapshot)
        if self._sampler is None:
            self.sample()
            self._sampler = asyncio.create_task(self._sample_on())

    async def close(self) -> None:
        """Take no more samples."""
        if self._sampler is not None:
            self._sampler.cancel()
            with suppress(asyncio.CancelledError):
                await self._sampler
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def aside(self, question: Callable[[], T]) -> T:
        """Ask one of the questions below without keeping the event loop busy: in a thread, where
        the answer takes long."""
        if self._quick:
            return question()
        return await asyncio.get_running_loop().run_in_executor(self._thread, question)

    @property
    def _quick(self) -> bool:
        """Whether an answer comes at once."""
        many = self._present is not None and len(self._present.sessions) > _MANY
        return not (many or self._lock.locked())

    def traffic(self) -> Figures:
        """The answer to `/traffic`."""
        with self._lock:
            compared = self._compare()
            now = compared.now
            return {
                "time": round(now.time, 3),
                "uptime_seconds": round(now.clock - self._began, 3),
                **compared.everything(),
                "edges": compared.edges(),
                "ends": compared.ends(),
                "workers": compared.workers([one.memory for one in workers_now(self._house)]),
            }

    def history(self) -> Figures:
        """The answer to `/history`."""
        with self._lock:
            return self._history.answer()

    def failed_handshakes(self, listener: str) -> int:
        """TLS handshakes of its clients that did not come to their end, since the start: now, or
        at the last look, where another one would keep the event loop busy."""
        if self._quick:
            with self._lock:
                self._look(_FRESH)
        return self._failed_handshakes.get(listener, 0)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The answer to `/metrics` for this Accept header, and its content type."""
        # A tenth of a second and some megabytes, which a proxy that nobody scrapes does not need.
        from spliceproxy.telemetry.prometheus import exposition

        with self._lock:
            now = self._look(_FRESH)
            return exposition(metrics_moment(self._house, now, self._shown, self._labels), accept)

    def _compare(self) -> Comparison:
        now = self._look(_FRESH)
        at, before = self._marks.at(now.clock - _RECENTLY)
        _, minute = self._spreads.at(now.clock - _MINUTE)
        return Comparison(now, before, now.clock - at, minute, self._tracked)

    def _look(self, fresh: float) -> Present:
        """What is so now, or was less than `fresh` seconds ago."""
        assert self._in_force is not None, "asked before the first apply"
        snapshot, board = self._in_force.snapshot, self._house.board
        clock, known = self._clock(), self._present
        if known is None or known.snapshot is not snapshot:
            self._follow(snapshot, () if known is None else known.sessions)
        elif clock - known.clock < fresh:
            return known
        self._ledger.update()
        by_listener = {
            name: board.total(listener_sessions(slot)) for name, slot in self._slots.items()
        }
        sessions = live_sessions(board, snapshot, by_listener)
        self._failed_handshakes = {
            name: counts[TLS_FAILED] for name, counts in self._ledger.listeners.items()
        }
        now = Present(time.time(), clock, snapshot, sessions, by_listener, self._ledger)
        self._present = now
        return now

    def _follow(self, snapshot: Snapshot, before: Collection[Scope]) -> None:
        """Another configuration is in force; `before` is what was configured."""
        pools = snapshot.pools
        upstreams = [(pool.name, one.name) for pool in pools for one in pool.upstreams]
        self._labels.follow(dict.fromkeys(upstreams), self._ledger.upstreams)
        slots = {one.name: one.slot for one in snapshot.listeners}
        taken = set(slots.values())
        left = {name: slot for name, slot in self._slots.items() if slot not in taken}
        self._slots = left | slots
        self._tracked = {
            TOTAL,
            *map(listener_scope, slots),
            *(pool_scope(pool.name) for pool in pools[:MOST]),
            *(upstream_scope(*key) for key in upstreams[:MOST]),
        }
        self._go_on(scope for scope in configured(snapshot) if scope not in before)

    def _go_on(self, new: Iterable[Scope]) -> None:
        """These names may have been here before: what they counted then did not come just now."""
        for scope in new:
            counts = counts_of(scope, self._ledger)
            for mark in self._marks.values():
                mark.tallies.setdefault(scope, Tally.of(counts))
            if scope in self._tracked:
                for spreads in self._spreads.values():
                    spreads.setdefault(scope, spread(counts))

    def sample(self) -> None:
        """Remember what is so now."""
        with self._lock:
            known = self._present is not None
            now = self._look(0)
            mark = Mark.of(now)
            at, before = self._marks.at(now.clock) if known else (now.clock, mark)
            self._marks.add(now.clock, mark)
            tracked = [scope for scope in now.sessions if scope in self._tracked]
            self._spreads.add(
                now.clock, {one: spread(counts_of(one, self._ledger)) for one in tracked}
            )
            rows = {}
            for scope in tracked:
                came = rates(
                    mark.tallies[scope], before.tallies.get(scope, NOTHING), now.clock - at
                )
                rows[scope] = (now.sessions[scope], *came.values())
            self._history.add(round(now.time, 3), rows)

    async def _sample_on(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            # A machine that slept has nothing to make up for.
            due = max(due + self._interval, loop.time())
            await asyncio.sleep(due - loop.time())
            if self._in_force is not None:  # a certificate may be another one without a reload
                self._shown = Shown.of(self._house, self._in_force.snapshot)
            await self.aside(self.sample)
