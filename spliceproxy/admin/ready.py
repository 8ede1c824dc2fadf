"""Whether the proxy lives, and whether clients should come to it: for probes and load balancers."""

from __future__ import annotations

from spliceproxy.control.house import House
from spliceproxy.ipc import PoolPlan
from spliceproxy.telemetry.board import DOWN, DRAINING


def not_well(house: House) -> str:
    """Why the proxy does not work; empty: it does."""
    if house.fleet.well:
        return ""
    ready = house.fleet.statistics().ready
    return "a worker does not answer" if ready else "no worker is ready"


def not_ready(house: House) -> list[str]:
    """Why clients should go elsewhere; nothing: they are welcome."""
    reasons = []
    if reason := house.not_serving():
        reasons.append(reason)
    elif not house.fleet.statistics().ready:
        reasons.append("no worker is ready")
    in_force = house.in_force()
    listeners = in_force.snapshot.listeners
    if all(one.name in house.closed.names for one in listeners):
        reasons.append("every listener is draining")
    for pool in in_force.snapshot.pools:
        if in_force.config.pools[pool.name].required and not usable(house, pool):
            reasons.append(f"pool {pool.name}: no upstream can be used")
    return reasons


def usable(house: House, pool: PoolPlan) -> int:
    """How many upstreams of a pool could be chosen; ejected ones are, where no other can."""
    return sum(
        upstream.weight > 0 and not house.states.flags(upstream.slot) & (DOWN | DRAINING)
        for upstream in pool.upstreams
    )
