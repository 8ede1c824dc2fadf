"""Says in the log when a pool as a whole changes: nobody of it can be used, or another tier is.

States of its upstreams change one by one, and a reload changes many; so it looks when all parts
have had their say, as sessions see a pool then. An upstream that passes its checks and is ejected
is one that can be used: it is, where there is no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from spliceproxy.control.parts import InForce, UpstreamStates
from spliceproxy.ipc import PoolPlan, UpstreamPlan
from spliceproxy.telemetry.board import DOWN, DRAINING, EJECTED

_log = structlog.get_logger()


class PoolStates:
    """Follows the upstreams of all pools. A Part, which has no say itself."""

    def __init__(self, states: UpstreamStates) -> None:
        self._states = states
        self._pools: dict[str, PoolPlan] = {}
        self._pool_of: dict[int, str] = {}
        """The pool of each slot."""
        self._tiers: dict[str, int | None] = {}
        """The tier of each pool that is in use; None: no upstream can be used."""
        self._changed: set[str] = set()
        self._look_soon: asyncio.Handle | None = None
        states.watchers.append(self._on_flag)

    def apply(self, in_force: InForce) -> None:
        """Follow these pools from now on."""
        self._pools = {pool.name: pool for pool in in_force.snapshot.pools}
        self._pool_of = {one.slot: pool.name for pool, one in in_force.upstreams()}
        self._tiers = {name: tier for name, tier in self._tiers.items() if name in self._pools}
        self._on_change(self._pools)

    async def close(self) -> None:
        """Say nothing any more."""
        self._states.watchers.remove(self._on_flag)
        if self._look_soon is not None:
            self._look_soon.cancel()

    def _on_flag(self, slot: int, _before: int, _after: int) -> None:
        if slot in self._pool_of:
            self._on_change((self._pool_of[slot],))

    def _on_change(self, pools: Iterable[str]) -> None:
        self._changed.update(pools)
        if self._look_soon is None:
            self._look_soon = asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        self._look_soon = None
        changed, self._changed = self._changed, set()
        for name in self._pools.keys() & changed:
            pool = self._pools[name]
            tier = self._tier_in_use(pool.upstreams)
            self._tell(pool, tier)
            self._tiers[name] = tier

    def _tier_in_use(self, upstreams: Iterable[UpstreamPlan]) -> int | None:
        found = [
            (bool(flags & EJECTED), one.tier)
            for one in upstreams
            if one.weight and not (flags := self._states.flags(one.slot)) & (DOWN | DRAINING)
        ]
        return min(found)[1] if found else None

    def _tell(self, pool: PoolPlan, tier: int | None) -> None:
        if pool.name not in self._tiers:
            # That it has no upstream at all is told by who looks for them.
            if tier is None and pool.upstreams:
                self._tell_down(pool)
            return
        before = self._tiers[pool.name]
        if tier == before:
            return
        if tier is None:
            self._tell_down(pool)
        elif before is None:
            _log.info("pool up", pool=pool.name, tier=tier)
        else:
            tell = _log.warning if tier > before else _log.info
            tell("pool on another tier", pool=pool.name, tier=tier, before=before)

    def _tell_down(self, pool: PoolPlan) -> None:
        _log.error(
            "pool down: none of its upstreams can be used",
            pool=pool.name,
            upstreams=len(pool.upstreams),
        )
