"""Whose turn it is in a pool, and why not the others'."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spliceproxy.balance.maglev import SourceHash
from spliceproxy.ipc import PoolPlan
from spliceproxy.telemetry.board import DOWN, DRAINING, EJECTED, held_back
from spliceproxy.worker.pool import Upstream
from spliceproxy.worker.tier import EJECTED_ONES, EVERYONE, HEALTHY, Tier, groups_of, turns

if TYPE_CHECKING:
    from spliceproxy.admin.scene import Sight

_STATES = {DRAINING: "draining", DOWN: "down", EJECTED: "ejected"}

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Turn:
    """Those of whom one is chosen."""

    tier: int
    group: int
    weights: list[int]
    """By index; 0 for all that cannot be chosen."""


def explain_pool(
    plan: PoolPlan, sight: Sight, key: str | None, share: float, unknown: Sequence[str]
) -> Json:
    """Who may be chosen for a client that came to a pool, whose `share` of such clients it is.

    `key` is what a pool that hashes knows the client by; `unknown` what stands for upstreams that
    are not known.
    """
    upstreams = [_upstream(n, plan, sight) for n in range(len(plan.upstreams))]
    turn = _whose_turn(plan, upstreams)
    live, most = sight.live(plan.slot), plan.max_sessions
    full = most is not None and live >= most
    if full:
        turn = None
    weights = [0] * len(upstreams) if turn is None else turn.weights
    choice = _choice(plan, upstreams, turn, key, full=full, unknown=bool(unknown))
    return {
        "pool": plan.name,
        "share": share,
        "balance": plan.balance,
        "tls": plan.tls is not None,
        "sessions": live,
        "max_sessions": most,
        "key": key,
        "upstream": None if choice.index is None else plan.upstreams[choice.index].name,
        "text": choice.text,
        "unknown": list(unknown),
        "upstreams": [
            {**one, "share": None} if unknown else one
            for one in _tell_upstreams(plan, upstreams, sight, weights, turn)
        ],
    }


def _upstream(index: int, plan: PoolPlan, sight: Sight) -> Upstream:
    """As a worker that looks at everybody has it."""
    upstream = Upstream(index, plan.upstreams[index], range(0))
    upstream.state = sight.state(upstream.slot)
    most = upstream.max_sessions
    upstream.full = most is not None and sight.live(upstream.slot) >= most
    return upstream


def _whose_turn(plan: PoolPlan, upstreams: Sequence[Upstream]) -> _Turn | None:
    """Those of whom the first try of a session takes one; None: there is nobody."""

    def make(_weights: Sequence[int]) -> Any:
        raise AssertionError("nobody is chosen here")

    numbers = sorted({one.tier for one in upstreams})
    tiers = {
        Tier(
            [one for one in upstreams if one.tier == number],
            len(upstreams),
            make,
            slow_start=plan.slow_start,
        ): number
        for number in numbers
    }
    for tier, group in turns(tiers, plan.panic)[0]:
        weights = tier.weights(group)
        if any(weights):
            return _Turn(tiers[tier], group, weights)
    return None


@dataclass(frozen=True, slots=True)
class _Choice:
    """Who is chosen, where that is certain, and how that comes about, in one sentence."""

    text: str
    index: int | None = None


def _choice(
    plan: PoolPlan,
    upstreams: Sequence[Upstream],
    turn: _Turn | None,
    key: str | None,
    *,
    full: bool,
    unknown: bool,
) -> _Choice:
    if turn is None:
        return _Choice(_nobody(plan, upstreams, full=full))
    candidates = [index for index, weight in enumerate(turn.weights) if weight]
    if key is not None:
        return _hashed(plan, turn, key, unknown=unknown)
    if len(candidates) == 1 and not unknown:
        return _Choice("the only one that can be used", candidates[0])
    return _Choice(_POLICIES[plan.balance])


def _hashed(plan: PoolPlan, turn: _Turn, key: str, *, unknown: bool) -> _Choice:
    """Who is chosen by the table, and whose client it is when all are well."""
    if unknown:
        return _Choice("which one depends on all of them, and some are not known here")
    table = plan.tables.get(turn.tier, array("H"))
    members = [int(one.tier == turn.tier and one.weight > 0) for one in plan.upstreams]
    chosen = SourceHash(table, turn.weights).choose((), key.encode())
    owner = SourceHash(table, members).choose((), key.encode())
    assert chosen is not None
    assert owner is not None
    text = f"the place of {key or 'a client without an address'} in the table is "
    text += f"{plan.upstreams[owner].name}'s"
    if chosen != owner:
        text += ", which cannot be used: the next one on its path"
    return _Choice(text, chosen)


_POLICIES = {
    "round_robin": "each in its turn, by weight",
    "random": "one that is drawn by weight",
    "power_of_two": "of two that are drawn by weight the one with fewer sessions for its weight",
    "least_sessions": "the one with the fewest sessions for its weight; of equals each in its turn",
}


def _nobody(plan: PoolPlan, upstreams: Sequence[Upstream], *, full: bool) -> str:
    """What becomes of a client for whom there is no upstream."""
    usable = [one for one in upstreams if groups_of(one)]
    full = full or any(one.full and HEALTHY in groups_of(one) for one in upstreams)
    reason = "all that can be used are full" if full else "none can be used"
    if full and plan.max_sessions is not None and not any(one.full for one in usable):
        reason = "the pool is full"
    queue = plan.queue
    if queue is None or not (full or queue.when_down):
        return f"{reason}: it is refused (no_upstream)"
    patience = "" if queue.timeout is None else f", for {queue.timeout:g} s at the most"
    return f"{reason}: it waits in the pool's queue{patience}"


def _tell_upstreams(
    plan: PoolPlan,
    upstreams: Sequence[Upstream],
    sight: Sight,
    weights: Sequence[int],
    turn: _Turn | None,
) -> list[Json]:
    total = sum(weights)
    loads = {
        one.index: sight.live(one.slot) / weights[one.index]
        for one in upstreams
        if weights[one.index]
    }
    least = min(loads.values(), default=0.0)
    told = []
    for one in upstreams:
        weight = weights[one.index]
        states = [word for flag, word in _STATES.items() if one.state & flag]
        told.append(
            {
                "name": one.name,
                "states": states or ["up"],
                "tier": one.tier,
                "weight": one.weight,
                "held_back": held_back(one.state),
                "sessions": sight.live(one.slot),
                "max_sessions": one.max_sessions,
                "candidate": weight > 0,
                "share": weight / total if weight else 0.0,
                "next": weight > 0
                and plan.balance == "least_sessions"
                and loads[one.index] == least,
                "why": "" if weight else _why_not(one, turn),
            }
        )
    return told


def _why_not(upstream: Upstream, turn: _Turn | None) -> str:
    """Why an upstream is not among those of whom one is chosen."""
    groups = groups_of(upstream)
    if not upstream.weight:
        return "its weight is 0"
    if not groups:
        return "draining"
    if upstream.full:
        return "full"
    if turn is None:
        return "the pool takes nobody" if HEALTHY in groups else "cannot be used"
    if turn.group in groups:
        return f"tier {upstream.tier}: tier {turn.tier} comes first"
    if turn.group == HEALTHY:
        return "ejected" if EJECTED_ONES in groups else "down"
    return "down" if EVERYONE in groups and turn.group == EJECTED_ONES else "other ones come first"
