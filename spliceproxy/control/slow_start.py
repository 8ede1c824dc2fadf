"""Slow start: an upstream that came back is given its share of sessions little by little.

1.  It begins with a tenth and has all of it after `slow_start`; in between it grows in a line, in
    about `_STEPS` steps.
2.  That holds for one that was DOWN or EJECTED and is neither any more, and for one that a later
    configuration brought. Those of the start have their whole share at once: all are as new.
3.  One that fails meanwhile begins anew when it is back. A drained one goes on: its time passes.

What is held back stands on the board, where workers see it at their next choice. There are timers
only while somebody is starting.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

import structlog

from spliceproxy.control.parts import InForce, UpstreamStates
from spliceproxy.control.slots import UpstreamKey
from spliceproxy.telemetry.board import DOWN, EJECTED

if TYPE_CHECKING:
    from collections.abc import Callable

_log = structlog.get_logger()

_STEPS = 20
_SHORTEST_STEP = 0.01
"""Seconds between two looks, at the least."""
_FIRST = 10
"""Percent of its share that an upstream begins with."""


def held_after(seconds: float, slow_start: float) -> int:
    """The percent that are held back so long after the start; 0 from its end on."""
    if seconds >= slow_start:
        return 0
    rest = 100 - _FIRST
    return rest - int(rest * max(0.0, seconds) / slow_start)


@dataclass(frozen=True, slots=True)
class _Known:
    """One upstream of a pool that has slow start."""

    key: UpstreamKey
    time: float
    """Seconds until it has its full share."""


class SlowStart:
    """The part of the supervisor that holds shares back: the only one that does."""

    def __init__(self, states: UpstreamStates, clock: Callable[[], float] | None = None) -> None:
        """`clock` returns seconds; without it, the event loop's time."""
        self._states = states
        self._clock = clock
        self._known: dict[int, _Known] = {}
        """By slot: those of pools with slow start."""
        self._seen: set[UpstreamKey] | None = None
        """Every upstream of the configuration in force; None: there was none yet."""
        self._starting: dict[int, float] = {}
        """Slot → when it began."""
        self._timer: asyncio.TimerHandle | None = None
        states.watchers.append(self._on_flag)

    def apply(self, in_force: InForce) -> None:
        """Begin with those that are new, forget those that left, and go on with the others."""
        seen, before = self._seen, self._known
        self._seen, self._known = set(), {}
        times = {
            plan.name: in_force.config.pools[plan.name].slow_start
            for plan in in_force.snapshot.pools
            if plan.slow_start
        }
        fresh = []
        for pool, upstream in in_force.upstreams():
            key, slot = (pool.name, upstream.name), upstream.slot
            self._seen.add(key)
            if time := times.get(pool.name):
                self._known[slot] = _Known(key, time)
                if seen is not None and key not in seen:
                    fresh.append(slot)
        for slot in list(self._starting):
            now = self._known.get(slot)
            if now is None or now.key != before[slot].key:
                self._end(slot)
        for slot in fresh:
            if not self._states.has(slot, DOWN | EJECTED):
                self._begin(slot)
        self.step()

    async def close(self) -> None:
        """Give nobody more any longer: what is held back stays."""
        self._states.watchers.remove(self._on_flag)
        if self._timer is not None:
            self._timer.cancel()

    def _on_flag(self, slot: int, before: int, after: int) -> None:
        bad = DOWN | EJECTED
        if before & bad and not after & bad:
            if slot in self._known:
                self._begin(slot)
        elif after & bad and slot in self._starting:
            self._end(slot)

    def _begin(self, slot: int) -> None:
        self._starting[slot] = self._now()
        self._states.hold_back(slot, 100 - _FIRST)
        (pool, upstream), time = self._known[slot].key, self._known[slot].time
        _log.info("slow start", pool=pool, upstream=upstream, seconds=time)
        self._arm(time)

    def _end(self, slot: int) -> None:
        del self._starting[slot]
        self._states.hold_back(slot, 0)

    def step(self) -> None:
        """Give everybody what is due by now."""
        now = self._now()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        shortest = inf
        for slot, began in list(self._starting.items()):
            time = self._known[slot].time
            held = held_after(now - began, time)
            self._states.hold_back(slot, held)
            if held:
                shortest = min(shortest, time)
            else:
                del self._starting[slot]
                pool, upstream = self._known[slot].key
                _log.info("slow start over", pool=pool, upstream=upstream)
        if self._starting:
            self._arm(shortest)

    def _arm(self, slow_start: float) -> None:
        """Look again after one step of that time, if not earlier."""
        loop = asyncio.get_running_loop()
        due = loop.time() + max(_SHORTEST_STEP, slow_start / _STEPS)
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = loop.call_at(due, self.step)

    def _now(self) -> float:
        return asyncio.get_running_loop().time() if self._clock is None else self._clock()
