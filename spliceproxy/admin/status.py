"""What the proxy looks like at one moment, as `GET /api/v1/status` tells it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from spliceproxy import __version__
from spliceproxy.admin.ready import not_ready, usable
from spliceproxy.config import Route
from spliceproxy.control.house import House
from spliceproxy.control.parts import InForce
from spliceproxy.control.plan_weights import configured_weight
from spliceproxy.ipc import ListenerPlan, PoolPlan, UpstreamPlan
from spliceproxy.telemetry.board import (
    DOWN,
    DRAINING,
    EJECTED,
    SESSIONS,
    held_back,
    listener_sessions,
)

Report = dict[str, Any]
"""A JSON object. A key never changes its meaning; new ones may come."""

_STATES = {DRAINING: "draining", DOWN: "down", EJECTED: "ejected"}


class Statuses:
    """Reads the answers from the house: all but `pools` in the event loop's thread."""

    def __init__(self, house: House, failed_handshakes: Callable[[str], int]) -> None:
        """`failed_handshakes` of the listener with this name, since the start."""
        self._house = house
        self._failed_handshakes = failed_handshakes
        self._began = time.monotonic()
        self._started = datetime.now(UTC).isoformat(timespec="milliseconds")

    def status(self, *, writable: bool) -> Report:
        """Process, workers and listeners, without the pools. `writable`: whether who asks may give
        orders."""
        house = self._house
        in_force = house.in_force()
        reasons = not_ready(house)
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_seconds": round(time.monotonic() - self._began, 3),
            "started": self._started.replace("+00:00", "Z"),
            "ready": not reasons,
            "not_ready": reasons,
            "sessions": house.board.total(SESSIONS),
            "older_sessions": house.older_sessions(),
            "config_files": [str(path) for path in house.files()],
            "log_level": house.log_level.level,
            "max_sessions": in_force.snapshot.max_sessions,
            "writable": writable,
            "workers": self._workers(),
            "listeners": self.listeners(),
        }

    def listeners(self) -> list[Report]:
        """Those that are configured, in their order."""
        in_force = self._house.in_force()
        addresses = self._house.service.addresses()
        return [
            self._listener(in_force, one, addresses.get(one.name, []))
            for one in in_force.snapshot.listeners
        ]

    def pools(self, in_force: InForce) -> list[Report]:
        """The same of pools, with their upstreams. May be called in any thread; where there are
        many upstreams it should be."""
        return [self._pool(in_force, pool) for pool in in_force.snapshot.pools]

    def _workers(self) -> list[Report]:
        """One for each seat; `pid` and `age_seconds` are null while nobody sits there."""
        house = self._house
        living = {worker.index: worker for worker in house.fleet.workers()}
        found = []
        for index, region in enumerate(house.board.regions):
            worker = living.get(index)
            found.append(
                {
                    "worker": index,
                    "pid": worker.pid if worker else None,
                    "ready": worker is not None and worker.ready,
                    "sessions": region[SESSIONS],
                    "age_seconds": round(worker.age, 3) if worker else None,
                }
            )
        return found

    def _listener(self, in_force: InForce, plan: ListenerPlan, addresses: list[str]) -> Report:
        """`certificates` are those that it may show: file, names, `state` (valid, soon, expired,
        not_yet), `not_after` and `days_left`; `broken_files` those that cannot be used now, of
        which the last good ones are: file, `problem`; `failed_handshakes` of its clients since the
        start."""
        house = self._house
        routes = in_force.config.listeners[plan.name].routes
        return {
            "name": plan.name,
            "addresses": addresses,
            "pool": plan.pool,
            "pools": sorted(plan.pools),
            "routes": [_route(number, route) for number, route in enumerate(routes)],
            "sessions": house.board.total(listener_sessions(plan.slot)),
            "max_sessions": plan.max_sessions,
            "draining": plan.name in house.closed.names,
            "tls": plan.tls is not None,
            "certificates": house.certificates(plan.name) if plan.tls is not None else [],
            "broken_files": house.broken_files(plan.name) if plan.tls is not None else [],
            "failed_handshakes": self._failed_handshakes(plan.name),
        }

    def _pool(self, in_force: InForce, plan: PoolPlan) -> Report:
        """`usable` is how many of its upstreams could be chosen; `waiting` are the clients in its
        queue."""
        upstreams = self._house.board.upstreams
        return {
            "name": plan.name,
            "balance": plan.balance,
            "required": in_force.config.pools[plan.name].required,
            "usable": usable(self._house, plan),
            "waiting": upstreams.queued(plan.slot),
            "sessions": upstreams.live(plan.slot),
            "max_sessions": plan.max_sessions,
            "upstreams": [self._upstream(upstream) for upstream in plan.upstreams],
        }

    def _upstream(self, plan: UpstreamPlan) -> Report:
        """`states` has `up` alone, or all that keeps new sessions away; `weight` is the one in
        force, whoever said so; `held_back` the percent of its share that a slow start keeps from
        it."""
        house = self._house
        state = house.board.upstreams.state(plan.slot)
        return {
            "name": plan.name,
            "states": state_words(state),
            "weight": plan.weight,
            "configured_weight": configured_weight(plan),
            "held_back": held_back(state),
            "tier": plan.tier,
            "sessions": house.states.live(plan.slot),
            "max_sessions": plan.max_sessions,
        }


def state_words(state: int) -> list[str]:
    """The state of an upstream, as the board has it, in words: `up` alone, or all that keeps new
    sessions away."""
    return [word for flag, word in _STATES.items() if state & flag] or ["up"]


def _route(number: int, route: Route) -> Report:
    """`match` is what a client must look like, `pools` where it is sent, each with its share."""
    total = sum(share for _, share in route.pool)
    return {
        "name": f"routes[{number}]",
        "match": route.match,
        "pools": [{"pool": name, "share": share / total} for name, share in route.pool],
    }
