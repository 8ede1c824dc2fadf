"""Pools as a worker has them: the upstreams, and whose turn it is."""

from __future__ import annotations

import socket
from collections.abc import Container
from math import inf
from pathlib import Path

from spliceproxy.balance.round_robin import RoundRobin
from spliceproxy.ipc import PoolPlan, Sockaddr, UpstreamPlan


class Upstream:
    """One address that serves. `index` is its place in the pool, `slot` the one on the board.

    `failures` and `early_closes` are this worker's, in a row.
    """

    __slots__ = (
        "address",
        "early_closes",
        "failures",
        "family",
        "index",
        "may_self_connect",
        "name",
        "slot",
        "told",
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
        # A dead upstream on a local ephemeral port can connect to itself: the kernel picks the
        # destination's own port as the source, and a simultaneous open succeeds.
        self.may_self_connect = plan.family != socket.AF_UNIX and plan.address[1] in ephemeral


class Pool:
    """A pool's upstreams and its balancing."""

    __slots__ = ("_picker", "_sources", "name", "plan", "shortest_silence", "upstreams")

    def __init__(self, plan: PoolPlan, start: float, ephemeral: range) -> None:
        """`start`: where in its cycle the balancing begins, 0 to 1."""
        self.plan = plan
        self.name = plan.name
        silences = (plan.idle_timeout, plan.half_close_timeout)
        self.shortest_silence = min(inf if silence is None else silence for silence in silences)
        """Seconds of silence that may end a session of this pool, at the least."""
        self.upstreams = [
            Upstream(index, upstream, ephemeral) for index, upstream in enumerate(plan.upstreams)
        ]
        self._sources: dict[int, list[tuple[str, int]]] = {
            socket.AF_INET: [(ip, 0) for ip in plan.tcp.sources if ":" not in ip],
            socket.AF_INET6: [(ip, 0) for ip in plan.tcp.sources if ":" in ip],
        }
        self._picker = RoundRobin([upstream.weight for upstream in plan.upstreams], start)

    def choose(self, tried: Container[int]) -> Upstream | None:
        """The upstream whose turn it is, none of the indices in `tried`; None: none is left."""
        index = self._picker.choose(tried)
        return None if index is None else self.upstreams[index]

    def sources(self, family: int) -> list[tuple[str, int]]:
        """Addresses to connect from, the one whose turn it is first; empty: the kernel picks."""
        sources = self._sources.get(family)
        if not sources:
            return []
        sources.append(sources.pop(0))
        return list(sources)


def ephemeral_ports() -> range:
    """The ports that the kernel picks for connections (ip(7), ip_local_port_range)."""
    text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    first, last = map(int, text.split())
    return range(first, last + 1)
