"""The supervisor's part that checks upstreams and tells the workers which of them are down."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from spliceproxy.control.addresses import Place
from spliceproxy.control.health.checks import Check, make_check
from spliceproxy.control.health.connection import Dial, Farewell
from spliceproxy.control.health.schedule import MOST_AT_ONCE, Schedule
from spliceproxy.control.health.state import HealthState
from spliceproxy.control.health.verdict import LOCAL_ERRNOS, CheckFailedError, explain
from spliceproxy.control.parts import InForce, UpstreamStates
from spliceproxy.control.slots import UpstreamKey
from spliceproxy.ipc import UpstreamPlan
from spliceproxy.telemetry.board import DOWN

if TYPE_CHECKING:
    from spliceproxy.config import PoolHealth

_log = structlog.get_logger()

_JITTER = 0.1
"""The share by which a pause is made longer or shorter, so that checks do not march in step."""
_WARN_DAYS = (14, 3, 0)
"""Days before the end of a certificate at which a warning is logged, each once."""


@dataclass(frozen=True, slots=True)
class _Pool:
    """How the upstreams of one pool are checked."""

    health: PoolHealth
    dial: Dial
    check: Check


@dataclass(slots=True, eq=False)
class _Watched:
    """One upstream that is checked."""

    key: UpstreamKey
    slot: int
    place: Place
    name: str | None
    """What it has to prove where the pool has `tls`."""
    pool: _Pool
    state: HealthState
    since: float = field(default_factory=time.monotonic)
    """When it came to its state, in seconds of the monotonic clock."""
    warned: int | None = None
    """The last of _WARN_DAYS that was told."""


class Monitor:
    """Checks every upstream of every pool that has `health`. A `Part`; needs a running loop."""

    def __init__(
        self,
        states: UpstreamStates,
        *,
        most: int = MOST_AT_ONCE,
        jitter: random.Random | None = None,
    ) -> None:
        self._states = states
        self._random = jitter or random.Random()
        self._farewell = Farewell()
        self._schedule: Schedule[_Watched] = Schedule(self._run, most=most)
        self._watched: dict[UpstreamKey, _Watched] = {}
        self._pools: dict[str, _Pool] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._known: set[UpstreamKey] | None = None
        """Every upstream of the configuration in force; None: there was none yet."""
        self._learned: dict[UpstreamKey, bool] = {}
        """What the process before this one knew of those that are not watched so far."""
        self._told_late = False
        self._told_local = False

    def apply(self, in_force: InForce) -> None:
        """Check these upstreams from now on.

        At the start an upstream counts as up, one that comes later as down until it passed. What
        stays keeps its state, also where its check is another one now.
        """
        self._told_late = self._told_local = False
        pools = self._make_pools(in_force)
        wanted = {
            (pool.name, upstream.name): (pools[pool.name], upstream)
            for pool, upstream in in_force.upstreams()
            if pool.name in pools
        }
        for key in self._watched.keys() - wanted.keys():
            gone = self._watched.pop(key)
            self._schedule.remove(gone)
            self._states.mark(gone.slot, DOWN, False)
        for key, (pool, upstream) in wanted.items():
            self._watch(key, pool, upstream)
        self._pools = pools
        self._known = {(pool.name, upstream.name) for pool, upstream in in_force.upstreams()}

    def knowledge(self) -> list[tuple[str, str, bool | None]]:
        """Pool, upstream, and whether it is up (null: not checked) of every upstream."""
        found = []
        for key in self._known or ():
            watched = self._watched.get(key)
            found.append((*key, None if watched is None else watched.state.up))
        return found

    def learn(self, knowledge: list[tuple[str, str, bool | None]]) -> None:
        """Go on where another process ended, as over a reload."""
        self._known = {(pool, upstream) for pool, upstream, _up in knowledge}
        self._learned = {(pool, name): up for pool, name, up in knowledge if up is not None}

    async def close(self) -> None:
        """End all checks at once. What the workers were told stays."""
        await self._schedule.close()
        self._farewell.close()
        for pool in self._pools.values():
            await pool.check.close()
        await asyncio.gather(*self._closing)

    def _make_pools(self, in_force: InForce) -> dict[str, _Pool]:
        """The pools that are checked; those whose check stays the same keep it."""
        pools = {}
        for plan in in_force.snapshot.pools:
            health = in_force.config.pools[plan.name].health
            if health is None:
                continue
            dial = Dial(plan.tcp)
            if health.port is None:  # another port is another service
                dial = Dial(plan.tcp, plan.send_proxy, plan.tls)
            old = self._pools.get(plan.name)
            if old is not None and (old.health, old.dial) == (health, dial):
                pools[plan.name] = old
                continue
            check = make_check(health, dial, self._farewell)
            pools[plan.name] = _Pool(health, dial, check)
        for name, pool in self._pools.items():
            if pools.get(name) is not pool:
                task = asyncio.get_running_loop().create_task(pool.check.close())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
        return pools

    def _watch(self, key: UpstreamKey, pool: _Pool, upstream: UpstreamPlan) -> None:
        old = self._watched.get(key)
        name = (pool.dial.tls and pool.dial.tls.name) or upstream.server_name or None
        if old is not None and (old.pool, old.slot, old.name) == (pool, upstream.slot, name):
            return
        place = Place(upstream.family, upstream.address)
        if pool.health.port is not None and isinstance(upstream.address, tuple):
            place = place.with_port(pool.health.port)
        if old is None:
            new = self._known is not None and key not in self._known
            up = self._learned.pop(key, not new)
            watched = _Watched(key, upstream.slot, place, name, pool, HealthState(up=up))
        else:
            self._schedule.remove(old)
            watched = _Watched(
                key, upstream.slot, place, name, pool, old.state, old.since, old.warned
            )
        self._watched[key] = watched
        self._states.mark(upstream.slot, DOWN, not watched.state.up)
        self._schedule.add(watched, asyncio.get_running_loop().time())

    async def _run(self, watched: _Watched, late: float) -> float:
        """Check one upstream once; when it is due again."""
        health = watched.pool.health
        began = asyncio.get_running_loop().time()
        if late > health.interval / 2 and watched.state.known:
            self._tell_late(watched, late)
        try:
            async with asyncio.timeout(health.timeout):
                passed = await watched.pool.check.check(watched.place, watched.name)
            self._observe(watched, True, passed.how)
            if passed.expires is not None:
                self._see_expiry(watched, passed.expires)
        except TimeoutError:
            # The kernel's own ETIMEDOUT is one as well.
            self._observe(watched, False, f"timeout after {health.timeout:g} s")
        except CheckFailedError as error:
            self._observe(watched, False, str(error))
        except OSError as error:
            if error.errno in LOCAL_ERRNOS:
                self._tell_local(watched, error)
            else:
                self._observe(watched, False, explain(error))
        except Exception:
            pool, upstream = watched.key
            _log.exception("a health check broke", pool=pool, upstream=upstream)
        pause = watched.state.pause(health.interval)
        return began + pause * self._random.uniform(1 - _JITTER, 1 + _JITTER)

    def _observe(self, watched: _Watched, passed: bool, reason: str) -> None:
        health, state = watched.pool.health, watched.state
        pool, upstream = watched.key
        _log.debug("health check", pool=pool, upstream=upstream, passed=passed, reason=reason)
        if not state.observe(passed, health.rise, health.fall):
            return
        self._states.mark(watched.slot, DOWN, not state.up)
        now = time.monotonic()
        lasted, watched.since = round(now - watched.since, 3), now
        said = {"pool": pool, "upstream": upstream, "check": health.check, "reason": reason}
        if state.up:
            _log.info("upstream up", **said, down_seconds=lasted)
        else:
            _log.warning("upstream down", **said, up_seconds=lasted)

    def _see_expiry(self, watched: _Watched, end: datetime) -> None:
        """Warn, once for each of _WARN_DAYS, of a certificate that ends soon."""
        days = (end - datetime.now(UTC)).total_seconds() / 86400
        limit = min((limit for limit in _WARN_DAYS if days <= limit), default=None)
        if watched.warned == limit:
            return
        watched.warned = limit
        if limit is not None:
            what = "has expired" if days <= 0 else "expires soon"
            _log.warning(
                f"the certificate of an upstream {what}",
                pool=watched.key[0],
                upstream=watched.key[1],
                expires=end.isoformat(),
                days=round(days, 1),
            )

    def _tell_late(self, watched: _Watched, late: float) -> None:
        if self._told_late:
            return
        self._told_late = True
        _log.warning(
            "health checks cannot keep their intervals and come later",
            pool=watched.key[0],
            late_seconds=round(late, 3),
            upstreams=len(self._watched),
            remedy="a longer health.interval, or a shorter health.timeout",
        )

    def _tell_local(self, watched: _Watched, error: OSError) -> None:
        if self._told_local:
            return
        self._told_local = True
        _log.warning(
            "a health check could not be made; it counts for nothing",
            pool=watched.key[0],
            upstream=watched.key[1],
            reason=explain(error),
        )
