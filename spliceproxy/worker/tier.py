"""The upstreams of one tier, in groups: who may be chosen when.

Each group has a policy of its own, which follows the states of the upstreams one by one: nothing is
built anew because a health check failed, and round robin goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Final

from spliceproxy.balance.policy import Policy
from spliceproxy.telemetry.board import DOWN, DRAINING, EJECTED, FLAGS, held_back

if TYPE_CHECKING:
    from spliceproxy.worker.pool import Upstream

HEALTHY: Final = 0
"""The group of those with which all is well."""
EJECTED_ONES: Final = 1
"""The group of those that pass their checks, but live traffic failed on them."""
EVERYONE: Final = 2
"""The group of all that are not draining."""


def _groups(state: int) -> tuple[int, ...]:
    if state & DRAINING:
        return ()
    if state & DOWN:
        return (EVERYONE,)
    return (EJECTED_ONES if state & EJECTED else HEALTHY, EVERYONE)


_GROUPS: Final = tuple(_groups(state) for state in range(FLAGS + 1))
"""The groups to which an upstream with these flags belongs."""


def groups_of(upstream: Upstream) -> tuple[int, ...]:
    """The groups to which it belongs now, full or not."""
    return _GROUPS[upstream.state & FLAGS] if upstream.weight else ()


class Tier:
    """One tier of a pool. An upstream of weight 0 belongs to no group."""

    __slots__ = ("_counts", "_make", "_members", "_policies", "_size", "_whole")

    def __init__(
        self,
        members: Sequence[Upstream],
        size: int,
        make: Callable[[Sequence[int]], Policy],
        *,
        slow_start: bool = False,
    ) -> None:
        """`make` makes a policy for weights by index, of `size` upstreams; others have none.

        With `slow_start` a part of a weight may be held back: policies count in percents of it.
        """
        self._members = [member for member in members if member.weight]
        self._size = size
        self._make = make
        self._whole = 100 if slow_start else 1
        self._policies: list[Policy | None] = [None, None, None]
        self._counts = [0, 0, 0]
        for member in self._members:
            for group in _GROUPS[member.state & FLAGS]:
                self._counts[group] += 1

    def count(self, group: int) -> int:
        """How many belong to a group, full ones included."""
        return self._counts[group]

    @property
    def healthy_share(self) -> float:
        """The share of healthy ones among all that are not draining; 1 where there is none."""
        counts = self._counts
        return counts[HEALTHY] / counts[EVERYONE] if counts[EVERYONE] else 1.0

    def panics(self, panic: float | None) -> bool:
        """Whether all of it is used, because less than the share `panic` of it is healthy."""
        return panic is not None and self.healthy_share < panic

    def policy(self, group: int) -> Policy:
        """Chooses among a group. It is made when it is first asked for."""
        policy = self._policies[group]
        if policy is None:
            self._policies[group] = policy = self._make(self.weights(group))
        return policy

    def weights(self, group: int) -> list[int]:
        """What a group's policy goes by, by index: 0 for all that cannot be chosen."""
        weights = [0] * self._size
        for member in self._members:
            if group in _GROUPS[member.state & FLAGS] and not member.full:
                weights[member.index] = self._weight(member)
        return weights

    def set_state(self, upstream: Upstream, state: int) -> None:
        """The upstream is in this state now."""
        before, after = _GROUPS[upstream.state & FLAGS], _GROUPS[state & FLAGS]
        weight = self._weight(upstream)
        upstream.state = state
        if not upstream.weight:
            return
        other = self._weight(upstream) != weight
        for group in before:
            if group not in after:
                self._counts[group] -= 1
                self._set_weight(group, upstream, 0)
        for group in after:
            fresh = group not in before
            self._counts[group] += fresh
            if (fresh or other) and not upstream.full:
                self._set_weight(group, upstream, self._weight(upstream))

    def set_full(self, upstream: Upstream) -> None:
        """The upstream became full, or is full no more."""
        weight = 0 if upstream.full else self._weight(upstream)
        for group in _GROUPS[upstream.state & FLAGS]:
            self._set_weight(group, upstream, weight)

    def changed(self, upstream: Upstream) -> None:
        """The upstream's live sessions are fewer than before."""
        for group in _GROUPS[upstream.state & FLAGS]:
            policy = self._policies[group]
            if policy is not None:
                policy.changed(upstream.index)

    def _weight(self, upstream: Upstream) -> int:
        """Its weight for the policies: never 0 but where it is 0 in the configuration."""
        whole = self._whole
        return upstream.weight * (whole if whole == 1 else whole - held_back(upstream.state))

    def _set_weight(self, group: int, upstream: Upstream, weight: int) -> None:
        policy = self._policies[group]
        if policy is not None:
            policy.set_weight(upstream.index, weight)


Turn = tuple[Tier, int]
"""A tier, and the group of it that is asked."""


def turns(tiers: Collection[Tier], panic: float | None) -> tuple[list[Turn], list[Turn]]:
    """Who is asked, one after the other, for a session: at its first try, and at further ones.

    `tiers` in their order; `panic` is the pool's. See Pool for the order.
    """
    panicking = [tier for tier in tiers if tier.panics(panic)]
    further = [
        (tier, group) for group in (HEALTHY, EJECTED_ONES) for tier in tiers if tier.count(group)
    ]
    further += [(tier, EVERYONE) for tier in panicking]
    in_use = next((tier for tier in tiers if tier.count(HEALTHY)), None)
    if in_use is not None and in_use in panicking:
        return [(in_use, EVERYONE), *further], further
    return further, further
