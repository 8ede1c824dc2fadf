"""What somebody told to take no new sessions: upstreams, pools, listeners. It holds over a reload.

The sessions that are there go on, or come to their end one by one over a time that is given: each
worker then ends its own, the idle ones first (`worker/ending.py`), and none is left at the end.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TypedDict

from spliceproxy.config.suggest import nearest
from spliceproxy.control.aftermath import Tell, orders
from spliceproxy.control.closed import ClosedListeners
from spliceproxy.control.parts import InForce, UpstreamStates
from spliceproxy.control.slots import UpstreamKey
from spliceproxy.errors import SpliceproxyError
from spliceproxy.ipc import MOST_NAMED, End, PoolPlan, Spare, UpstreamPlan
from spliceproxy.telemetry.board import DRAINING, MAX_LISTENERS, SESSIONS, Board, listener_sessions

_SHOWN = 10
"""Names that an error lists, at most."""
_TARGETS = "pool/NAME, pool/NAME/UPSTREAM, listener/NAME or all"
_SLACK = 5.0
"""Seconds after its time in which a worker that is late may still obey an order."""


class TargetError(SpliceproxyError):
    """What was named is no target."""


class UnknownTargetError(TargetError):
    """There is no such pool, no such upstream in it, or no such listener."""


@dataclass(frozen=True, slots=True)
class Drained:
    """What came of one order."""

    target: str
    upstreams: tuple[str, ...]
    """The names of those that the target means."""
    listeners: tuple[str, ...]
    """The same of listeners."""
    changed: int
    """How many of them were not so before."""
    sessions: int
    """Their live sessions."""
    left: int
    """Upstreams of the pool, or listeners, that somebody did not drain."""


class Drains(TypedDict):
    """All that is drained, by names, as JSON."""

    upstreams: list[UpstreamKey]
    """An empty name of an upstream stands for the whole pool."""
    listeners: list[str]


class Draining:
    """Keeps the names that are drained, and has the workers know. A Lasting Part."""

    def __init__(
        self, states: UpstreamStates, board: Board, tell: Tell, closed: ClosedListeners | None
    ) -> None:
        """`tell` tells every worker. Without `closed` no listener can be drained."""
        self._states = states
        self._board = board
        self._tell = tell
        self._closed = closed
        self._drained: set[UpstreamKey] = set()
        """An empty name of an upstream stands for all of the pool, also those that come later."""
        self._in_force: InForce
        self._paced_upstreams: dict[int, float] = {}
        """Slots of the upstreams whose sessions are being ended, and until when (monotonic)."""
        self._paced_listeners: dict[int, float] = {}
        """The same of listeners."""

    def apply(self, in_force: InForce) -> None:
        """Mark what is drained among the upstreams of this configuration.

        A name that is not there any more is kept: should it come back, it is still drained. A slot
        that is another's now is none whose sessions end.
        """
        self._in_force = in_force
        serving = []
        for pool, upstream in in_force.upstreams():
            drained = not self._drained.isdisjoint(_keys(pool, upstream))
            self._states.mark(upstream.slot, DRAINING, drained)
            serving += [] if drained else [upstream.slot]
        closed = set() if self._closed is None else self._closed.names
        listeners = in_force.snapshot.listeners
        self._spare(serving, [one.slot for one in listeners if one.name not in closed])

    async def close(self) -> None:
        """There is nothing to end."""

    def knowledge(self) -> Drains:
        """All that is drained."""
        listeners = [] if self._closed is None else sorted(self._closed.names)
        return {"upstreams": sorted(self._drained), "listeners": listeners}

    def learn(self, knowledge: Drains) -> None:
        """Have these drained, and no others, from the next `apply` on."""
        self._drained = {(pool, upstream) for pool, upstream in knowledge["upstreams"]}
        if self._closed is not None:
            self._closed.recall(knowledge["listeners"])

    async def order(self, target: str, on: bool, over: float | None = None) -> Drained:
        """Drain (`on`) or undrain a target; once more changes nothing.

        With `over` its sessions end within so many seconds; 0 is at once. To undrain calls that
        off. Raises TargetError, UnknownTargetError, and SpliceproxyError where an address of a
        listener cannot be given up, or could not be had again; then nothing was changed.
        """
        if _names_listeners(target):
            return await self._order_listeners(target, on, over)
        return self.drain(target, on, over)

    def drain(self, target: str, on: bool, over: float | None = None) -> Drained:
        """The same for a pool's upstreams or one of them."""
        pool, upstreams = find_upstreams(target, self._in_force)
        if on:
            self._drained.update((pool.name, one.name) for one in upstreams)
            self._drained |= {(pool.name, "")} if len(target.split("/")) == 2 else set()
        else:
            self._undrain(pool, upstreams)
        changed = sum(self._states.mark(one.slot, DRAINING, on) for one in upstreams)
        slots = [one.slot for one in upstreams]
        sessions = sum(self._states.live(slot) for slot in slots)  # before the first ones end
        self._pace(slots, (), on, over)
        return Drained(
            target=target,
            upstreams=tuple(one.name for one in upstreams),
            listeners=(),
            changed=changed,
            sessions=sessions,
            left=sum(not self._states.has(one.slot, DRAINING) for one in pool.upstreams),
        )

    def _undrain(self, pool: PoolPlan, upstreams: Sequence[UpstreamPlan]) -> None:
        """Of a pool that was drained as a whole, the others stay drained by their own names."""
        if (pool.name, "") in self._drained:
            self._drained.remove((pool.name, ""))
            self._drained.update((pool.name, one.name) for one in pool.upstreams)
        self._drained.difference_update((pool.name, one.name) for one in upstreams)

    async def _order_listeners(self, target: str, on: bool, over: float | None) -> Drained:
        closed = self._closed
        if closed is None:
            raise TargetError(f"{target}: no listener can be drained here")
        names, slots, sessions = self._listeners(target)
        gone = tuple(closed.names) if target == "all" else ()
        changed = await (closed.close(names) if on else closed.open((*names, *gone)))
        self._pace((), slots, on, over)
        return Drained(
            target=target,
            upstreams=(),
            listeners=names,
            changed=changed,
            sessions=sessions,
            left=sum(one.name not in closed.names for one in self._in_force.snapshot.listeners),
        )

    def _listeners(self, target: str) -> tuple[tuple[str, ...], tuple[int, ...], int]:
        """Names and slots of those that a target means, and their sessions. Raises TargetError,
        UnknownTargetError."""
        plans = {one.name: one for one in self._in_force.snapshot.listeners}
        if target == "all":  # also those that left
            return tuple(plans), tuple(range(MAX_LISTENERS)), self._board.total(SESSIONS)
        name = _listener_name(target, plans)
        slot = plans[name].slot
        return (name,), (slot,), self._board.total(listener_sessions(slot))

    def order_behind(self, target: str, on: bool, over: float | None = None) -> int:
        """As `order`, in a process that was replaced: it has no addresses to give up, but sessions.
        Their number; 0 as well where it never had what the target names. Raises TargetError."""
        try:
            if not _names_listeners(target):
                return self.drain(target, on, over).sessions
            _, slots, sessions = self._listeners(target)
        except UnknownTargetError:
            return 0
        self._pace((), slots, on, over)
        return sessions

    def _pace(
        self, upstreams: Sequence[int], listeners: Sequence[int], on: bool, over: float | None
    ) -> None:
        """Have sessions end within `over` seconds, or call it off; the newest order holds."""
        if on and over is None:
            return
        self._spare(upstreams, listeners)
        if not on or over is None:
            return
        until = time.monotonic() + over + _SLACK
        self._paced_upstreams.update(dict.fromkeys(upstreams, until))
        self._paced_listeners.update(dict.fromkeys(listeners, until))
        for message in orders("drained", upstreams, over):
            self._tell(message)
        if listeners:
            self._tell(End("drained", listeners=listeners, over=over))

    def _spare(self, upstreams: Iterable[int], listeners: Iterable[int]) -> None:
        """Have the workers end no more sessions of these, where they may be at it."""
        spared = _take(self._paced_upstreams, upstreams)
        for at in range(0, len(spared), MOST_NAMED):
            self._tell(Spare(upstreams=spared[at : at + MOST_NAMED]))
        spared = _take(self._paced_listeners, listeners)
        if spared:
            self._tell(Spare(listeners=spared))


def find_upstreams(
    target: str, in_force: InForce, targets: str = _TARGETS
) -> tuple[PoolPlan, tuple[UpstreamPlan, ...]]:
    """The pool that a target names, and the upstreams of it that it means: all or one.

    `targets` says what may be written. Raises TargetError, UnknownTargetError.
    """
    kind, _, rest = target.partition("/")
    name, slash, wanted = rest.partition("/")
    pools = {pool.name: pool for pool in in_force.snapshot.pools}
    if kind != "pool" or not name or (slash and not wanted):
        listeners = {one.name for one in in_force.snapshot.listeners}
        kinds = [k for k, names in (("pool", pools), ("listener", listeners)) if kind in names]
        meant = " or ".join(f"{kind}/{target}" for kind in kinds if f"{kind}/" in targets)
        meant = f"; did you mean {meant}?" if meant else ""
        raise TargetError(f"{target}: write {targets}{meant}")
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


def _names_listeners(target: str) -> bool:
    return target == "all" or target.partition("/")[0] == "listener"


def _listener_name(target: str, plans: Collection[str]) -> str:
    """The listener that a target means. Raises TargetError, UnknownTargetError."""
    name = target.partition("/")[2]
    if not name:
        raise TargetError(f"{target}: write {_TARGETS}")
    if name not in plans:
        known = _known(name, plans)
        raise UnknownTargetError(f"{target}: there is no listener {name}; {known}")
    return name


def _keys(pool: PoolPlan, upstream: UpstreamPlan) -> tuple[UpstreamKey, UpstreamKey]:
    """The names by which an upstream may be drained."""
    return (pool.name, ""), (pool.name, upstream.name)


def _take(paced: dict[int, float], slots: Iterable[int]) -> list[int]:
    """Forget those of `slots` whose sessions are being ended; which ones may be so still."""
    now = time.monotonic()
    return [slot for slot in slots if paced.pop(slot, now) > now]


def _known(word: str, names: Collection[str]) -> str:
    if near := nearest(word, names):
        return f"did you mean {near}?"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"there are {', '.join(list(names)[:_SHOWN])}{more}"
