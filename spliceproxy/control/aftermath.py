"""What becomes of sessions when their upstream is found down, left, or is needed no more.

The workers are told which upstreams are to have no sessions (`End`); who is connecting to one of
them goes elsewhere. Where a pool keeps its sessions (`keep`, the default), nothing is done.

Changes are gathered and looked at once, after all that happens at the same moment: a reload in
which thousands of upstreams change is one look, and health has had its say about the new ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from math import inf

import structlog

from spliceproxy.control.parts import InForce, UpstreamStates
from spliceproxy.ipc import MOST_NAMED, End, Message, PoolPlan
from spliceproxy.telemetry.board import DOWN

_log = structlog.get_logger()

Tell = Callable[[Message], None]
"""Tells every worker."""


class Aftermath:
    """The part that has sessions end: `on_down`, `on_remove`, `on_failback`."""

    def __init__(self, states: UpstreamStates, tell: Tell) -> None:
        self._states = states
        self._tell = tell
        self._in_force: InForce | None = None
        self._pools: dict[str, PoolPlan] = {}
        """Those that do not keep all their sessions."""
        self._pool_of: dict[int, str] = {}
        """The pool of each of their upstreams, by its slot."""
        self._lowest: dict[str, float] = {}
        """The lowest tier of each pool that has a usable upstream; inf: none has."""
        self._down: set[int] = set()
        """Slots of upstreams that were found down since the last look."""
        self._changed: set[str] = set()
        """Pools in which an upstream changed since the last look."""
        self._look: asyncio.Handle | None = None
        states.watchers.append(self._on_flag)

    def apply(self, in_force: InForce) -> None:
        """Follow this configuration; the sessions of upstreams that left it may end.

        What the pool said of it is what the configuration before said.
        """
        if self._in_force is not None:
            self._end_removed(self._in_force, in_force)
        self._in_force = in_force
        pools = in_force.config.pools
        self._pools = {
            plan.name: plan
            for plan in in_force.snapshot.pools
            if "reset" in (pools[plan.name].on_down, pools[plan.name].on_failback)
        }
        self._pool_of = {
            one.slot: plan.name for plan in self._pools.values() for one in plan.upstreams
        }
        self._lowest = {
            name: tier
            for name, tier in self._lowest.items()
            if name in pools and pools[name].on_failback == "reset"
        }
        self._changed |= self._pools.keys()
        self._look_soon()

    async def close(self) -> None:
        """End nobody any more."""
        if self._look is not None:
            self._look.cancel()
        self._states.watchers.remove(self._on_flag)

    def _on_flag(self, slot: int, before: int, after: int) -> None:
        """The state of an upstream changed."""
        pool = self._pool_of.get(slot)
        if pool is None:
            return
        if after & ~before & DOWN:
            self._down.add(slot)
        self._changed.add(pool)
        self._look_soon()

    def _look_soon(self) -> None:
        if self._look is None:
            self._look = asyncio.get_running_loop().call_soon(self._look_at_changes)

    def _look_at_changes(self) -> None:
        self._look = None
        down, self._down = self._down, set()
        changed, self._changed = self._changed, set()
        assert self._in_force is not None
        pools = self._in_force.config.pools
        found_down: dict[str, list[int]] = {}
        for slot in down & self._pool_of.keys():
            found_down.setdefault(self._pool_of[slot], []).append(slot)
        for name, slots in found_down.items():
            if pools[name].on_down == "reset":
                self._end("upstream_down", name, slots)
        for name in changed & self._pools.keys():
            if pools[name].on_failback == "reset":
                self._look_at_tiers(self._pools[name])

    def _look_at_tiers(self, plan: PoolPlan) -> None:
        """Where a lower tier can be used again, end the sessions of those above it."""
        flags = self._states.flags
        usable = (one.tier for one in plan.upstreams if one.weight and not flags(one.slot))
        lowest = min(usable, default=inf)
        before = self._lowest.get(plan.name, lowest)
        self._lowest[plan.name] = lowest
        if lowest < before:
            above = [one.slot for one in plan.upstreams if one.tier > lowest]
            self._end("failback", plan.name, above)

    def _end_removed(self, before: InForce, after: InForce) -> None:
        stay = {one.slot for _, one in after.upstreams()}
        for plan in before.snapshot.pools:
            if before.config.pools[plan.name].on_remove == "reset":
                gone = [one.slot for one in plan.upstreams if one.slot not in stay]
                self._end("removed", plan.name, gone)

    def _end(self, why: str, pool: str, slots: list[int]) -> None:
        """Have the sessions of these upstreams end at once."""
        sessions = sum(self._states.live(slot) for slot in slots)
        if sessions:
            _log.info("sessions end", pool=pool, why=why, sessions=sessions, upstreams=len(slots))
        # Also where the board shows none: a worker may have chosen before it saw the change.
        for message in orders(why, slots):
            self._tell(message)


def orders(why: str, slots: Iterable[int], over: float = 0.0) -> list[End]:
    """The messages that end the sessions of these upstreams."""
    slots = list(slots)
    return [
        End(why, upstreams=slots[at : at + MOST_NAMED], over=over)
        for at in range(0, len(slots), MOST_NAMED)
    ]
