"""What listeners take at the most, as workers are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spliceproxy.ipc import LimitsPlan, ListenerPlan
from spliceproxy.limits.window import Rate

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from spliceproxy.config import Config, Listener, RateLimit
    from spliceproxy.control.slots import UpstreamSlots


def with_planes(config: Config) -> frozenset[str]:
    """The listeners that limit each client network, whose counts are planes on the board."""
    listeners = config.listeners.values()
    return frozenset(one.name for one in listeners if one.limits and one.limits.per_client)


def planes_wanted(listeners: Iterable[ListenerPlan]) -> int:
    """How many listeners' planes the board must have room for."""
    limits = [one.limits for one in listeners if one.limits is not None]
    return max([one.planes + 1 for one in limits if one.planes is not None], default=0)


def plan_limits(
    listener: Listener, slots: UpstreamSlots, counted: Collection[str]
) -> LimitsPlan | None:
    """None: there are no limits. `counted` are all listeners with planes; `slots` numbers them."""
    limits = listener.limits
    if limits is None:
        return None
    rate, clients = _plan_rate(limits.rate), limits.per_client
    if clients is None:
        return LimitsPlan(rate, limits.handshakes)
    return LimitsPlan(
        rate,
        limits.handshakes,
        client_rate=_plan_rate(clients.rate),
        client_sessions=clients.max_sessions,
        v4=clients.v4,
        v6=clients.v6,
        planes=slots.planes(listener.name, counted),
    )


def _plan_rate(rate: RateLimit | None) -> Rate | None:
    return None if rate is None else Rate(rate.per_second, rate.burst)
