"""The present beside the past: what `/traffic` tells. No clock, and nothing is remembered here."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from spliceproxy.admin.figures import (
    NO_QUANTILES,
    NOTHING,
    Figures,
    Scope,
    Tally,
    listener_scope,
    pool_scope,
    quantiles,
    rate,
    rates,
    spread,
    traffic,
    upstream_scope,
)
from spliceproxy.admin.present import Mark, Present
from spliceproxy.telemetry.counters import ACTIVE, WORKER_SLOTS, CellKey
from spliceproxy.telemetry.counts import Counts
from spliceproxy.telemetry.record import NORMAL_ENDS


@dataclass(frozen=True, slots=True)
class Comparison:
    """One answer in the making."""

    now: Present
    before: Mark
    seconds: float
    """How long ago that was."""
    minute: Mapping[Scope, int]
    """The spreads of a minute ago."""
    tracked: Collection[Scope]
    """Who has quantiles."""

    def everything(self) -> Figures:
        """Of total, listeners, pools and upstreams."""
        listeners: Figures = {}
        pools: Figures = {}
        upstreams: Figures = {pool.name: {} for pool in self.now.snapshot.pools}
        answer = {"listeners": listeners, "pools": pools, "upstreams": upstreams}
        for scope, counts in self.now.scopes():
            told = self.of(scope, counts)
            match scope:
                case ("listener", name):
                    listeners[name] = told
                case ("pool", name):
                    pools[name] = told
                case ("upstream", pool, name):
                    upstreams[pool][name] = told
                case _:
                    answer["total"] = told
        return answer

    def of(self, scope: Scope, counts: Counts) -> Figures:
        """Of one scope."""
        tally = Tally.of(counts)
        recent = rates(tally, self.before.tallies.get(scope, NOTHING), self.seconds)
        minute = NO_QUANTILES
        if scope in self.tracked:
            minute = quantiles(spread(counts), self.minute.get(scope, 0))
        return traffic(self.now.sessions[scope], counts, tally, recent, minute)

    def edges(self) -> list[Figures]:
        """Who sends to whom: what is configured, and what has sessions still."""
        sessions = self.now.sessions
        found = []
        for key, counts in self.now.ledger.edges.items():
            active = counts[ACTIVE]
            if active or all(scope in sessions for scope in _ends_of(key)):
                tally = Tally.of(counts)
                before = self.before.tallies.get(key, NOTHING)
                recent = rates(tally, before, self.seconds)
                found.append(
                    {
                        "listener": key.listener,
                        "route": key.route or None,
                        "pool": key.pool or None,
                        "upstream": key.upstream or None,
                        "sessions": active,
                        "ended": tally.ended,
                        "bytes_up": tally.bytes_up,
                        "bytes_down": tally.bytes_down,
                        "rates": {name: recent[name] for name in _EDGE_RATES},
                    }
                )
        return found

    def ends(self) -> list[Figures]:
        """How sessions ended, the most frequent first."""
        found = [
            {
                **end._asdict(),
                "error": end.why not in NORMAL_ENDS,
                "count": number,
                "rate": rate(number, self.before.ends.get(end, 0), self.seconds),
            }
            for end, number in self.now.ledger.total.ends.items()
        ]
        return sorted(found, key=lambda one: -one["count"])

    def workers(self, memory: Sequence[int | None]) -> list[Figures]:
        """What each worker does. `memory` is what each has, in bytes; None: it is not there."""
        nothing = dict.fromkeys(WORKER_SLOTS, 0)
        found = []
        for index, numbers in enumerate(self.now.ledger.workers):
            before = self.before.workers[index] if self.before.workers else nothing
            wakes, events = (max(0, numbers[name] - before[name]) for name in ("wakes", "events"))
            found.append(
                {
                    "worker": index,
                    "cpu": round(rate(numbers["cpu_us"], before["cpu_us"], self.seconds) / 1e6, 3),
                    "busy": round(
                        rate(numbers["busy_us"], before["busy_us"], self.seconds) / 1e6, 3
                    ),
                    "lag_ms": numbers["lag_us"] / 1000,
                    "events_per_wake": round(events / wakes, 2) if wakes else None,
                    **{name: numbers[name] for name in _AS_COUNTED},
                    "memory_bytes": memory[index],
                }
            )
        return found


_EDGE_RATES = ("bytes_up", "bytes_down", "ended")
_AS_COUNTED = (
    "pipes_lent",
    "pipes_pooled",
    "pipes_made",
    "pipes_refused",
    "accept_pauses",
    "records",
    "records_dropped",
    "deaths",
)


def _ends_of(key: CellKey) -> Iterator[Scope]:
    """The listener, pool and upstream that an edge joins, as far as it has them."""
    yield listener_scope(key.listener)
    if key.pool:
        yield pool_scope(key.pool)
    if key.upstream:
        yield upstream_scope(key.pool, key.upstream)
