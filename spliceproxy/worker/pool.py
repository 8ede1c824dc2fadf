"""Pools as a worker has them: the upstreams, which of them may be chosen, and whose turn it is."""

from __future__ import annotations

import random
import socket
from array import array
from collections import OrderedDict
from collections.abc import Callable, Collection, Generator, Sequence
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Final

from spliceproxy.balance.at_random import PowerOfTwo, Random
from spliceproxy.balance.least_sessions import LeastSessions
from spliceproxy.balance.maglev import SourceHash
from spliceproxy.balance.policy import Policy
from spliceproxy.balance.round_robin import RoundRobin
from spliceproxy.ipc import PoolPlan, Sockaddr, UpstreamPlan
from spliceproxy.ipc.sealed import PIECE
from spliceproxy.telemetry.board import Upstreams
from spliceproxy.worker.origination import Origination
from spliceproxy.worker.tier import EJECTED_ONES, EVERYONE, HEALTHY, Tier, groups_of, turns

if TYPE_CHECKING:
    from spliceproxy.telemetry.counters import Cell
    from spliceproxy.worker.queue import Queue

LOOKS: Final = 16
"""Full upstreams that a choice looks at again: other workers' sessions end without an event."""
LOOKS_OF_A_QUEUE: Final = 1000
"""Full upstreams that a queue looks at again in each tick, in about a millisecond."""


class Upstream:
    """One address that serves. `index` is its place in the pool, `slot` the one on the board.

    `failures` and `early_closes` are this worker's, in a row.
    """

    __slots__ = (
        "address",
        "cell",
        "counted_for",
        "early_closes",
        "failures",
        "family",
        "full",
        "index",
        "max_sessions",
        "may_self_connect",
        "name",
        "server_name",
        "slot",
        "state",
        "tier",
        "told",
        "weight",
    )

    def __init__(self, index: int, plan: UpstreamPlan, ephemeral: range) -> None:
        self.index = index
        self.slot = plan.slot
        self.failures = 0
        self.early_closes = 0
        self.told = -inf
        """The loop's time at which the supervisor was told that it fails."""
        self.name = plan.name
        self.family = plan.family
        self.address: Sockaddr = plan.address
        self.server_name = plan.server_name
        self.weight = plan.weight
        self.tier = plan.tier
        self.max_sessions = plan.max_sessions
        self.counted_for = ""
        self.cell: Cell | None = None
        """Where its sessions are counted that came by the listener of this name and took no
        route. No reference to the listener: it leads back to here."""
        self.state = 0
        """Its state on the board, when last looked at."""
        self.full = False
        """It had `max_sessions` when last looked at, and no policy has it now."""
        # A dead upstream on a local ephemeral port can connect to itself: the kernel picks the
        # destination's own port as the source, and a simultaneous open succeeds.
        self.may_self_connect = plan.family != socket.AF_UNIX and plan.address[1] in ephemeral


class Pool:
    """A pool's upstreams and its balancing.

    Which upstreams may be chosen, in this order: healthy ones of the lowest tier, then of the next
    tiers, then ejected ones that pass their checks, tier by tier; then all that are not draining
    of the tiers whose healthy share is below `panic`. Where that is true of the tier in use, its
    first tries go to all of them, so that a few are not made to carry everything; a further try of
    the same session prefers the healthy ones.
    """

    __slots__ = (
        "_counts",
        "_first",
        "_full",
        "_least",
        "_order",
        "_sources",
        "_states",
        "_tiers",
        "_usable",
        "_version",
        "_weighted",
        "keyed",
        "name",
        "plan",
        "queue",
        "shortest_silence",
        "successor",
        "tls",
        "upstreams",
    )

    def __init__(
        self,
        plan: PoolPlan,
        start: float,
        upstreams: Sequence[Upstream],
        states: Upstreams,
        worker: int,
        before: Pool | None = None,
    ) -> None:
        """`start`: where in its cycle the balancing begins, 0 to 1. `upstreams` are made of the
        plan's. The sessions are counted in `states`, among those of `worker`. `before` is what has
        this name now."""
        self.plan = plan
        self.name = plan.name
        silences = (plan.idle_timeout, plan.half_close_timeout)
        self.shortest_silence = min(inf if silence is None else silence for silence in silences)
        """Seconds of silence that may end a session of this pool, at the least."""
        self.upstreams = upstreams
        self.queue: Queue | None = None
        """Where its clients wait."""
        self.successor: Pool | None = None
        """The pool of the same name that took its place."""
        self.tls: Origination | None = None
        if plan.tls is not None:
            self.tls = Origination(plan.tls, None if before is None else before.tls)
        self._weighted = sum(upstream.weight > 0 for upstream in upstreams)
        self._sources: dict[int, list[tuple[str, int]]] = {
            socket.AF_INET: [(ip, 0) for ip in plan.tcp.sources if ":" not in ip],
            socket.AF_INET6: [(ip, 0) for ip in plan.tcp.sources if ":" in ip],
        }
        self.keyed = plan.balance in ("source_hash", "sni_hash")
        """The choice depends on the client's key."""
        self._least = plan.balance == "least_sessions"
        self._states = states
        self._counts = states.sessions[worker]
        self._full: OrderedDict[int, Upstream] = OrderedDict()
        self._tiers: dict[int, Tier] = {}
        live = partial(_live, states, [upstream.slot for upstream in upstreams])
        for number in sorted({upstream.tier for upstream in self.upstreams}):
            members = [upstream for upstream in self.upstreams if upstream.tier == number]
            # Nothing in it leads back to this pool: a circle would have to wait for the collector.
            table = plan.tables.get(number, array("H"))
            make = partial(_make_policy, plan.balance, start, live, table)
            self._tiers[number] = Tier(
                members, len(self.upstreams), make, slow_start=plan.slow_start
            )
        self._follow()

    def take(self, tried: Collection[int] = (), key: bytes = b"") -> Upstream | None:
        """The upstream whose turn it is, none of the indices in `tried`; None: none is left.

        It has one session more from now on, until `give_back`. `key` is the client's, where the
        pool is `keyed`.
        """
        states = self._states
        if states.version != self._version:
            self._follow()
        if self._full:
            self._look_at_full_ones()
        plan = self.plan
        limit = plan.max_sessions
        if limit is not None and not tried and states.live(plan.slot) >= limit:
            return None
        for policy in self._order if tried else self._first:
            while (index := policy.choose(tried, key)) is not None:
                upstream = self.upstreams[index]
                limit = upstream.max_sessions
                if limit is None or states.live(upstream.slot) < limit:
                    counts = self._counts
                    counts[upstream.slot] += 1
                    counts[plan.slot] += 1
                    return upstream
                self._set_full(upstream, full=True)
        return None

    @property
    def latest(self) -> Pool:
        """The pool of this name that is in force, or was the last one."""
        pool = self
        while pool.successor is not None:
            pool = pool.successor
        return pool

    def indices_of(self, before: Pool, indices: Collection[int]) -> tuple[int, ...]:
        """Where the upstreams are that `before`, a pool of the same name, had at `indices`."""
        slots = {before.upstreams[index].slot for index in indices}
        return tuple(each.index for each in self.upstreams if each.slot in slots)

    def take_turn(self, tried: Collection[int], key: bytes) -> Upstream | None:
        """As `take`, for a session that waited: the pool's own limit holds for a further try of
        it too, because it gave its place back before."""
        limit = self.plan.max_sessions
        if limit is not None and self._states.live(self.plan.slot) >= limit:
            return None
        return self.take(tried, key)

    def is_full(self, tried: Collection[int]) -> bool:
        """Whether one who tried these was refused for want of room alone. Asked after a take."""
        if self._states.version != self._version:
            self._follow()
        return self._usable > sum(self._is_usable(self.upstreams[index]) for index in tried)

    def has_others(self, tried: Collection[int]) -> bool:
        """Whether there are upstreams beside these, in whatever state."""
        return self._weighted > sum(self.upstreams[index].weight > 0 for index in tried)

    def _is_usable(self, upstream: Upstream) -> bool:
        groups = groups_of(upstream)
        return any(group in groups for group in (HEALTHY, EJECTED_ONES)) or (
            EVERYONE in groups and self._tiers[upstream.tier].panics(self.plan.panic)
        )

    def give_back(self, upstream: Upstream) -> None:
        """The session with `upstream` is over, or goes elsewhere."""
        counts = self._counts
        counts[upstream.slot] -= 1
        counts[self.plan.slot] -= 1
        if upstream.full:
            self._set_full(upstream, full=False)
        elif self._least:
            self._tiers[upstream.tier].changed(upstream)
        queue = self.queue
        if queue is not None and queue.waiting:
            queue.wake()

    def _set_full(self, upstream: Upstream, *, full: bool) -> None:
        """Keep it away from the policies, or let them have it again."""
        upstream.full = full
        self._tiers[upstream.tier].set_full(upstream)
        if full:
            self._full[upstream.index] = upstream
        else:
            del self._full[upstream.index]

    def look_around(self) -> None:
        """Look at more full upstreams than a choice does: somebody waits for one of them."""
        self._look_at_full_ones(LOOKS_OF_A_QUEUE)

    def _look_at_full_ones(self, looks: int = LOOKS) -> None:
        full = self._full
        for _ in range(min(looks, len(full))):
            index, upstream = next(iter(full.items()))
            limit = upstream.max_sessions
            if limit is None or self._states.live(upstream.slot) < limit:
                self._set_full(upstream, full=False)
            else:
                full.move_to_end(index)

    def _follow(self) -> None:
        """Do what the states on the board say. Policies keep their place."""
        states = self._states
        self._version = states.version
        for upstream in self.upstreams:
            state = states.state(upstream.slot)
            if state != upstream.state:
                self._tiers[upstream.tier].set_state(upstream, state)
        tiers, panic = self._tiers.values(), self.plan.panic
        self._usable = sum(
            tier.count(EVERYONE)
            if tier.panics(panic)
            else tier.count(HEALTHY) + tier.count(EJECTED_ONES)
            for tier in tiers
        )
        first, further = turns(tiers, panic)
        self._order = [tier.policy(group) for tier, group in further]
        self._first = [tier.policy(group) for tier, group in first]

    def sources(self, family: int) -> list[tuple[str, int]]:
        """Addresses to connect from, the one whose turn it is first; empty: the kernel picks."""
        sources = self._sources.get(family)
        if not sources:
            return []
        sources.append(sources.pop(0))
        return list(sources)


def make_upstreams(plan: PoolPlan, ephemeral: range) -> Generator[None, None, list[Upstream]]:
    """The upstreams of a pool, with a pause after each piece. `ephemeral`: see there."""
    made: list[Upstream] = []
    plans = plan.upstreams
    for at in range(0, len(plans), PIECE):
        piece = plans[at : at + PIECE]
        made += [Upstream(at + index, one, ephemeral) for index, one in enumerate(piece)]
        yield
    return made


def _make_policy(
    balance: str,
    start: float,
    live: Callable[[int], int],
    table: array[int],
    weights: Sequence[int],
) -> Policy:
    match balance:
        case "random":
            return Random(weights, random.random)
        case "power_of_two":
            return PowerOfTwo(weights, live, random.random)
        case "least_sessions":
            return LeastSessions(weights, live, start)
        case "source_hash" | "sni_hash":
            return SourceHash(table, weights)
    return RoundRobin(weights, start)


def _live(states: Upstreams, slots: Sequence[int], index: int) -> int:
    """The live sessions of an upstream."""
    return states.live(slots[index])


def client_key(address: object) -> bytes:
    """What `source_hash` knows a client by: its IP address. Clients of UNIX sockets have none."""
    ip = str(address[0]) if isinstance(address, tuple) else ""
    return ip.removeprefix("::ffff:").encode() if "." in ip else ip.encode()


def ephemeral_ports() -> range:
    """The ports that the kernel picks for connections (ip(7), ip_local_port_range)."""
    text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    first, last = map(int, text.split())
    return range(first, last + 1)
