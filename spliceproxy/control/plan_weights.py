"""Weights that somebody set, as the plans of pools take them up."""

from __future__ import annotations

from collections.abc import Sequence

from spliceproxy.ipc import UpstreamPlan

_ALL = ""
"""In place of an upstream's name: all of the pool, also those that come later."""


class SetWeights:
    """Weights by names. What is set for one upstream holds before what is set for its pool; None
    there: as configured, whatever the others have."""

    def __init__(self) -> None:
        self._pools: dict[str, dict[str, int | None]] = {}

    def put(self, pool: str, upstream: str | None, weight: int | None) -> bool:
        """Have an upstream, or all of a pool, have this weight; None: as configured. Whether that
        was otherwise before.

        An order for a pool undoes those for its upstreams.
        """
        before = self._pools.get(pool, {})
        now = {} if upstream is None else dict(before)
        now[_ALL if upstream is None else upstream] = weight
        if now.get(_ALL) is None:
            now = {name: one for name, one in now.items() if one is not None}
        if now:
            self._pools[pool] = now
        else:
            self._pools.pop(pool, None)
        return now != before

    def obeyed(self, pool: str, plans: Sequence[UpstreamPlan]) -> tuple[UpstreamPlan, ...]:
        """The upstreams of a pool, as configured, with the weights that hold."""
        weights = self._pools.get(pool)
        return tuple(plans) if weights is None else tuple(_with(one, weights) for one in plans)

    def names(self) -> list[tuple[str, str, int | None]]:
        """Pool, upstream (empty: all of them) and weight of all that is set."""
        return [
            (pool, upstream, weight)
            for pool, weights in self._pools.items()
            for upstream, weight in weights.items()
        ]

    def recall(self, names: Sequence[tuple[str, str, int | None]]) -> None:
        """Have these set, and no others."""
        self._pools = {}
        for pool, upstream, weight in names:
            self._pools.setdefault(pool, {})[upstream] = weight


def configured_weight(plan: UpstreamPlan) -> int:
    """The weight of an upstream before somebody set another one."""
    return plan.weight if plan.configured_weight is None else plan.configured_weight


def _with(plan: UpstreamPlan, weights: dict[str, int | None]) -> UpstreamPlan:
    weight = weights.get(plan.name, weights.get(_ALL))
    if weight is None:
        return plan
    return plan._replace(weight=weight, configured_weight=plan.weight)


NO_WEIGHTS = SetWeights()
"""Nothing is set; never changed."""
