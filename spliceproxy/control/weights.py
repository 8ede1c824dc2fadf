"""Weights of upstreams that somebody set at run time. They hold over reloads and upgrades, and for
an upstream that leaves and comes back, until they are undone.

The pools' plans are made anew with them, so that workers hear of a weight as of any change of
upstreams: sessions stay where they are, and the shares of new ones are others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import structlog

from spliceproxy.config.scalars import MOST_WEIGHT
from spliceproxy.control.draining import TargetError, find_upstreams
from spliceproxy.control.parts import InForce
from spliceproxy.control.plan_weights import SetWeights, configured_weight
from spliceproxy.control.slots import UpstreamKey

_log = structlog.get_logger()

_TARGETS = "pool/NAME or pool/NAME/UPSTREAM"


@dataclass(frozen=True, slots=True)
class WeightSet:
    """What came of one order."""

    target: str
    weight: int | None
    """The one in force now; None: those of the pool's upstreams differ."""
    configured_weight: int | None
    """The same of the configuration."""
    changed: bool
    """Whether something else was set before."""


class Weights:
    """Takes orders for weights. A Lasting Part."""

    def __init__(
        self,
        weights: SetWeights,
        alone: Callable[[], AbstractAsyncContextManager[InForce]],
        refresh: Callable[[], Awaitable[InForce]],
    ) -> None:
        """`weights` is what plans are made with. `alone()` keeps other changes away, and raises
        SpliceproxyError where there can be none any more; `refresh` makes the plans anew."""
        self._weights = weights
        self._alone = alone
        self._refresh = refresh
        self._configured: dict[UpstreamKey, int] = {}
        """Of all upstreams in force."""

    async def set(self, target: str, weight: int | None) -> WeightSet:
        """Give an upstream, or all of a pool, this weight: 0 to MOST_WEIGHT, 0 for no new sessions;
        None: the configured one.

        `target` is `pool/NAME` or `pool/NAME/UPSTREAM`. Raises TargetError, UnknownTargetError, and
        SpliceproxyError where nothing can be changed; then nothing was.
        """
        if weight is not None and not 0 <= weight <= MOST_WEIGHT:
            raise TargetError(f"{target}: a weight is from 0 to {MOST_WEIGHT}")
        async with self._alone() as in_force:
            pool, upstreams = find_upstreams(target, in_force, _TARGETS)
            wanted = {(pool.name, one.name) for one in upstreams}
            one = upstreams[0].name if target.count("/") > 1 else None
            before = self._weights.names()
            changed = self._weights.put(pool.name, one, weight)
            try:
                in_force = await self._refresh()
            except BaseException:
                self._weights.recall(before)
                raise
            plans = [one for pool, one in in_force.upstreams() if (pool.name, one.name) in wanted]
            answer = WeightSet(
                target,
                _common([one.weight for one in plans]),
                _common([configured_weight(one) for one in plans]),
                changed,
            )
        if changed:
            _log.info(
                "weight as configured again" if weight is None else "weight set",
                target=target,
                weight=answer.weight if weight is None else weight,
                configured=answer.configured_weight,
            )
        return answer

    def configured(self, pool: str, upstream: str) -> int:
        """The weight that the configuration in force gives an upstream of it, whatever is set."""
        return self._configured[pool, upstream]

    def apply(self, in_force: InForce) -> None:
        """Know the weights of this configuration."""
        self._configured = {
            (pool.name, one.name): configured_weight(one) for pool, one in in_force.upstreams()
        }

    def knowledge(self) -> list[tuple[str, str, int | None]]:
        """What is set, by names."""
        return self._weights.names()

    def learn(self, knowledge: Sequence[tuple[str, str, int | None]]) -> None:
        """Have set what another process had, from the next plans on."""
        self._weights.recall(knowledge)

    async def close(self) -> None:
        """There is nothing to end."""


def _common(weights: Sequence[int]) -> int | None:
    """The weight that all have; None: there is none."""
    return weights[0] if len(set(weights)) == 1 else None
