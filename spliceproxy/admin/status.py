"""What the proxy looks like at one moment, as `GET /v1/status` tells it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from spliceproxy import __version__
from spliceproxy.control.fleet import Fleet
from spliceproxy.control.parts import InForce, UpstreamStates
from spliceproxy.control.service import Service
from spliceproxy.ipc import ListenerPlan, PoolPlan, UpstreamPlan
from spliceproxy.telemetry.board import (
    DOWN,
    DRAINING,
    EJECTED,
    SESSIONS,
    Board,
    listener_failed_handshakes,
    listener_sessions,
)

Report = dict[str, Any]
"""A JSON object. A key never changes its meaning; new ones may come."""

_STATES = {DRAINING: "draining", DOWN: "down", EJECTED: "ejected"}


@dataclass(frozen=True, slots=True)
class House:
    """Where the answer is read from."""

    fleet: Fleet
    service: Service
    board: Board
    states: UpstreamStates
    older_sessions: Callable[[], int] = lambda: 0
    """Sessions of processes that this one replaced."""
    certificates: Callable[[str], list[Report]] = lambda _listener: []
    """The certificates of the listener with this name."""
    broken_files: Callable[[str], list[Report]] = lambda _listener: []
    """Those of its files that cannot be used, and why."""


def report(
    house: House, in_force: InForce, closed: Collection[str], *, pid: int, uptime: float
) -> Report:
    """Process, workers, listeners and pools. `closed` ones are drained; `uptime` is seconds."""
    addresses = house.service.addresses()
    snapshot = in_force.snapshot
    return {
        "version": __version__,
        "pid": pid,
        "uptime_seconds": round(uptime, 3),
        "sessions": house.board.total(SESSIONS),
        "older_sessions": house.older_sessions(),
        "workers": _workers(house),
        "listeners": [
            {
                **_listener(house, listener, addresses.get(listener.name, [])),
                "draining": listener.name in closed,
            }
            for listener in snapshot.listeners
        ],
        "pools": [_pool(house, pool) for pool in snapshot.pools],
    }


def _workers(house: House) -> list[Report]:
    """One for each seat; `pid` is null while nobody sits there."""
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
            }
        )
    return found


def _listener(house: House, listener: ListenerPlan, addresses: list[str]) -> Report:
    """`certificates` are those that it may show: file, names, `state` (valid, soon,
    expired, not_yet), `not_after` and `days_left`;
    `broken_files` those that cannot be used now, of which the last good ones are: file, `problem`;
    `failed_handshakes` of its clients since the start."""
    return {
        "name": listener.name,
        "addresses": addresses,
        "pool": listener.pool,
        "pools": sorted(listener.pools),
        "sessions": house.board.total(listener_sessions(listener.slot)),
        "max_sessions": listener.max_sessions,
        "certificates": house.certificates(listener.name) if listener.tls is not None else [],
        "broken_files": house.broken_files(listener.name) if listener.tls is not None else [],
        "failed_handshakes": house.board.total(listener_failed_handshakes(listener.slot)),
    }


def _pool(house: House, pool: PoolPlan) -> Report:
    """`waiting` are the clients in its queue."""
    return {
        "name": pool.name,
        "balance": pool.balance,
        "waiting": house.board.upstreams.queued(pool.slot),
        "upstreams": [_upstream(house, upstream) for upstream in pool.upstreams],
    }


def _upstream(house: House, upstream: UpstreamPlan) -> Report:
    """`states` has `up` alone, or all that keeps new sessions away."""
    states = [word for flag, word in _STATES.items() if house.states.has(upstream.slot, flag)]
    return {
        "name": upstream.name,
        "states": states or ["up"],
        "weight": upstream.weight,
        "tier": upstream.tier,
        "sessions": house.states.live(upstream.slot),
    }
