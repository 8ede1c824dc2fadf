"""Passive ejection: an upstream on which live traffic fails is passed over for a while.

Workers count failures and say who fails (`Failing`); here is decided who waits, and how long:

1.  The first wait is `time`. Each further one is twice the last, up to `_LONGEST` times `time`.
2.  A quiet while after a wait, `_LONGEST` times `time`, takes one doubling back.
3.  Of a pool no more than `at_most` wait at the same time, or one where that share is none; of a
    pool with one upstream nobody. Upstreams of weight 0 take no sessions and are no part of it.
4.  Who waits already is not made to wait longer: what still comes in is of before, or of a pool
    that had nobody better left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from spliceproxy.control.parts import InForce, UpstreamStates
from spliceproxy.control.slots import UpstreamKey
from spliceproxy.telemetry.board import EJECTED

if TYPE_CHECKING:
    from spliceproxy.config import Eject

_log = structlog.get_logger()

_DOUBLINGS = 4
_LONGEST = 1 << _DOUBLINGS


@dataclass(slots=True)
class _Past:
    """What is remembered of one upstream that was ejected."""

    doublings: int
    """Of its next wait."""
    until: float
    """When its last wait ends, or ended."""


@dataclass(slots=True)
class PoolEjection:
    """Who of one pool waits. Times are seconds of one clock, which the caller reads."""

    rules: Eject
    members: Collection[int] = ()
    """The slots of the upstreams that take sessions."""
    waiting: dict[int, float] = field(default_factory=dict)
    """Slots of the ejected ones, and when each may come back."""
    _past: dict[int, _Past] = field(default_factory=dict)

    def allowed(self) -> int:
        """How many may wait at the same time."""
        share = self.rules.at_most
        if len(self.members) < 2 or not share:
            return 0
        return max(1, int(len(self.members) * share + 1e-9))  # 0.29 * 100 is 28.999999999999996

    def follow(self, rules: Eject, members: Collection[int]) -> list[int]:
        """Obey these rules and have these members from now on. Returns who waits no more by that:
        who is no member, and where fewer may wait, who would have been back first."""
        self.rules, self.members = rules, members
        stay = [slot for slot in self.waiting if slot in members]
        stay.sort(key=self.waiting.__getitem__, reverse=True)
        kept = set(stay[: self.allowed()])
        back = [slot for slot in self.waiting if slot not in kept]
        for slot in back:
            del self.waiting[slot]
        return back

    def eject(self, slot: int, now: float) -> float | None:
        """A member fails: for how many seconds it has to wait; None: it is not ejected."""
        if slot not in self.members or slot in self.waiting or len(self.waiting) >= self.allowed():
            return None
        time = self.rules.time
        past = self._past.setdefault(slot, _Past(0, now))
        quiet = int(max(0.0, now - past.until) / (_LONGEST * time))
        doublings = max(0, past.doublings - quiet)
        wait = time * (1 << doublings)
        past.doublings = min(_DOUBLINGS, doublings + 1)
        past.until = self.waiting[slot] = now + wait
        return wait

    def resume(self, slot: int, until: float, doublings: int) -> None:
        """A member waits already, as another process decided; `doublings` are of its next wait."""
        self.waiting[slot] = until
        self._past[slot] = _Past(doublings, until)

    def doublings(self, slot: int) -> int:
        """Of the next wait of one that waits."""
        return self._past[slot].doublings

    def forget(self, slot: int) -> None:
        """Know nothing of a slot any more: it is, or will be, another upstream's."""
        self.waiting.pop(slot, None)
        self._past.pop(slot, None)


class Ejection:
    """The part of the supervisor that ejects: the only one that sets EJECTED."""

    def __init__(self, states: UpstreamStates) -> None:
        self._states = states
        self._pools: dict[str, PoolEjection] = {}
        self._names: dict[int, UpstreamKey] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._learned: dict[UpstreamKey, tuple[float, int]] = {}
        """Seconds that the process before this one still had them wait, and their doublings."""

    def apply(self, in_force: InForce) -> None:
        """Keep who stays, forget who left, and let in whom these rules eject no more."""
        names = {one.slot: (pool.name, one.name) for pool, one in in_force.upstreams()}
        for slot, name in self._names.items():
            if names.get(slot) != name:
                self._leave(slot, name)
        self._names = names
        before, self._pools = self._pools, {}
        for plan in in_force.snapshot.pools:
            rules = in_force.config.pools[plan.name].eject
            pool = before.get(plan.name)
            if rules is not None:
                members = {one.slot for one in plan.upstreams if one.weight}
                pool = self._pools[plan.name] = pool or PoolEjection(rules)
                back = pool.follow(rules, members)
            else:
                back = [] if pool is None else list(pool.waiting)
            for slot in back:
                self._let_in(slot)
        self._resume()

    def knowledge(self) -> list[list[object]]:
        """Pool, upstream, seconds left to wait, and doublings of those that wait."""
        now = asyncio.get_running_loop().time()
        return [
            [*self._names[slot], max(0.0, until - now), pool.doublings(slot)]
            for pool in self._pools.values()
            for slot, until in pool.waiting.items()
        ]

    def learn(self, knowledge: list[tuple[str, str, float, int]]) -> None:
        """Have these wait on, from the next `apply`."""
        self._learned = {(pool, name): (left, more) for pool, name, left, more in knowledge}

    def _resume(self) -> None:
        loop = asyncio.get_running_loop()
        learned, self._learned = self._learned, {}
        for slot, name in self._names.items() if learned else ():
            pool = self._pools.get(name[0])
            if name not in learned or pool is None or slot not in pool.members:
                continue
            left, doublings = learned[name]
            pool.resume(slot, loop.time() + left, doublings)
            self._states.mark(slot, EJECTED, True)
            self._timers[slot] = loop.call_later(left, self._on_waited, slot)

    def on_failing(self, slot: int, why: str) -> None:
        """A worker says that sessions failed on an upstream again and again; `why` the last did."""
        name, upstream = self._names.get(slot, ("", ""))
        pool = self._pools.get(name)
        if pool is None:
            return
        loop = asyncio.get_running_loop()
        wait = pool.eject(slot, loop.time())
        if wait is not None:
            self._states.mark(slot, EJECTED, True)
            self._timers[slot] = loop.call_later(wait, self._on_waited, slot)
            _log.warning("upstream ejected", pool=name, upstream=upstream, reason=why, seconds=wait)

    async def close(self) -> None:
        """Let nobody in any more: the flags stay as they are."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _on_waited(self, slot: int) -> None:
        del self._pools[self._names[slot][0]].waiting[slot]
        self._let_in(slot)

    def _let_in(self, slot: int) -> None:
        name, upstream = self._names[slot]
        self._clear(slot)
        _log.info("upstream back", pool=name, upstream=upstream)

    def _leave(self, slot: int, name: UpstreamKey) -> None:
        """The upstream is configured no more."""
        pool = self._pools.get(name[0])
        if pool is not None:
            pool.forget(slot)
        self._clear(slot)

    def _clear(self, slot: int) -> None:
        timer = self._timers.pop(slot, None)
        if timer is not None:
            timer.cancel()
            self._states.mark(slot, EJECTED, False)
