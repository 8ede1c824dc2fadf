"""What the log says of upstreams that come and go."""

from __future__ import annotations

from collections.abc import Iterator

import structlog

from spliceproxy.control.discovery.discovery import Discovery
from spliceproxy.control.parts import InForce
from spliceproxy.control.plan_weights import configured_weight
from spliceproxy.ipc import PoolPlan, UpstreamPlan

_log = structlog.get_logger()

_KEYS = ("weight", "tier", "max_sessions")
_SHOWN = 20
"""Upstreams that one line names, at most."""


def tell_changes(event: str, before: InForce, after: InForce, discovery: Discovery) -> None:
    """One line for each pool whose upstreams are others now; `event` is what it begins with."""
    old = {pool.name: pool for pool in before.snapshot.pools}
    for pool in after.snapshot.pools:
        changes = list(_changes(old[pool.name], pool)) if pool.name in old else []
        if not changes:
            continue
        if len(changes) > _SHOWN:
            changes[_SHOWN:] = [f"and {len(changes) - _SHOWN} more"]
        addresses = [one.address for one in after.config.pools[pool.name].upstreams]
        tell = _log.info if pool.upstreams else _log.warning
        tell(
            event,
            pool=pool.name,
            changes=changes,
            upstreams=len(pool.upstreams),
            ttl=discovery.ttl(addresses),
        )


def tell_empty(in_force: InForce) -> None:
    """One line for each pool that has no upstream yet."""
    for pool in in_force.snapshot.pools:
        if not pool.upstreams:
            entries = in_force.config.pools[pool.name].upstreams
            _log.warning(
                "a pool has no upstream yet: its clients are refused until one is found",
                pool=pool.name,
                wanted=[str(one.address) for one in entries[:_SHOWN]],
            )


def _changes(before: PoolPlan, after: PoolPlan) -> Iterator[str]:
    old = {one.name: one for one in before.upstreams}
    new = {one.name: one for one in after.upstreams}
    for name, one in new.items():
        if name not in old:
            yield f"+ {name}"
            continue
        for key, was, now in zip(_KEYS, _values(old[name]), _values(one), strict=True):
            if was != now:
                yield f"~ {name}: {key} {_text(was)} → {_text(now)}"
    for name in old:
        if name not in new:
            yield f"- {name}"


def _values(upstream: UpstreamPlan) -> tuple[int | None, ...]:
    """What was found, of _KEYS: a weight that somebody set comes from nowhere here."""
    return configured_weight(upstream), upstream.tier, upstream.max_sessions


def _text(value: int | None) -> str:
    return "off" if value is None else str(value)
