"""Which upstreams somebody told to take no new sessions. It holds over a reload."""

from __future__ import annotations

from dataclasses import dataclass

from spliceproxy.config.suggest import nearest
from spliceproxy.control.parts import InForce, UpstreamStates
from spliceproxy.control.slots import UpstreamKey
from spliceproxy.errors import SpliceproxyError
from spliceproxy.ipc import PoolPlan, UpstreamPlan
from spliceproxy.telemetry.board import DRAINING

_SHOWN = 10
"""Names that an error lists, at most."""


class TargetError(SpliceproxyError):
    """What was named is neither `pool/NAME` nor `pool/NAME/UPSTREAM`."""


class UnknownTargetError(TargetError):
    """There is no such pool, or no such upstream in it."""


@dataclass(frozen=True, slots=True)
class Drained:
    """What came of one order."""

    target: str
    upstreams: tuple[str, ...]
    """The names of those that the target means."""
    changed: int
    """How many of them were not so before."""
    sessions: int
    """Their live sessions."""
    left: int
    """Upstreams of the pool that somebody did not drain."""


class Draining:
    """Keeps the names that are drained, and has the workers know. Sessions are left alone."""

    def __init__(self, states: UpstreamStates) -> None:
        self._states = states
        self._drained: set[UpstreamKey] = set()
        self._pools: tuple[PoolPlan, ...] = ()

    def apply(self, in_force: InForce) -> None:
        """Mark what is drained among the upstreams of this configuration.

        A name that is not there any more is kept: should it come back, it is still drained.
        """
        self._pools = in_force.snapshot.pools
        for pool, upstream in in_force.upstreams():
            self._states.mark(upstream.slot, DRAINING, (pool.name, upstream.name) in self._drained)

    def names(self) -> list[UpstreamKey]:
        """All that is drained."""
        return sorted(self._drained)

    def recall(self, names: list[UpstreamKey]) -> None:
        """Have these drained, and no others, from the next `apply` on."""
        self._drained = {(pool, upstream) for pool, upstream in names}

    def drain(self, target: str, on: bool) -> Drained:
        """Drain (`on`) or undrain a pool's upstreams or one of them; once more changes nothing.

        Raises TargetError, UnknownTargetError; then nothing was changed.
        """
        pool, upstreams = self._find(target)
        changed = 0
        for upstream in upstreams:
            key = pool.name, upstream.name
            if on:
                self._drained.add(key)
            else:
                self._drained.discard(key)
            changed += self._states.mark(upstream.slot, DRAINING, on)
        return Drained(
            target=target,
            upstreams=tuple(upstream.name for upstream in upstreams),
            changed=changed,
            sessions=sum(self._states.live(upstream.slot) for upstream in upstreams),
            left=sum(not self._states.has(one.slot, DRAINING) for one in pool.upstreams),
        )

    def _find(self, target: str) -> tuple[PoolPlan, tuple[UpstreamPlan, ...]]:
        kind, _, rest = target.partition("/")
        name, slash, wanted = rest.partition("/")
        pools = {pool.name: pool for pool in self._pools}
        if kind != "pool" or not name or (slash and not wanted):
            meant = f"; did you mean pool/{target}?" if kind in pools else ""
            raise TargetError(f"{target}: write pool/NAME or pool/NAME/UPSTREAM{meant}")
        if name not in pools:
            raise UnknownTargetError(f"{target}: there is no pool {name}; {_known(name, pools)}")
        pool = pools[name]
        if not slash:
            return pool, pool.upstreams
        upstreams = {upstream.name: upstream for upstream in pool.upstreams}
        if wanted not in upstreams:
            known = _known(wanted, upstreams)
            raise UnknownTargetError(f"{target}: pool {name} has no upstream {wanted}; {known}")
        return pool, (upstreams[wanted],)


def _known(word: str, names: dict[str, PoolPlan] | dict[str, UpstreamPlan]) -> str:
    if near := nearest(word, names):
        return f"did you mean {near}?"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"there are {', '.join(list(names)[:_SHOWN])}{more}"
