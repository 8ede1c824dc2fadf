"""What is so at one moment, and what is remembered of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from spliceproxy.admin.figures import (
    TOTAL,
    Scope,
    Tally,
    listener_scope,
    pool_scope,
    upstream_scope,
)
from spliceproxy.ipc import Snapshot
from spliceproxy.telemetry.board import SESSIONS, Board
from spliceproxy.telemetry.counters import End
from spliceproxy.telemetry.counts import Counts
from spliceproxy.telemetry.ledger import Ledger

_EMPTY: Final = Counts()


@dataclass(frozen=True, slots=True)
class Present:
    """One look at the board."""

    time: float
    """Seconds since the epoch."""
    clock: float
    """Monotonic seconds."""
    snapshot: Snapshot
    sessions: Mapping[Scope, int]
    """Live ones, connected or not, of all that is configured."""
    by_listener: Mapping[str, int]
    """The same of listeners; also of those that left the configuration, while they have some."""
    ledger: Ledger

    def scopes(self) -> Iterator[tuple[Scope, Counts]]:
        """All that is configured, and what was counted of it."""
        return ((scope, counts_of(scope, self.ledger)) for scope in self.sessions)


def counts_of(scope: Scope, ledger: Ledger) -> Counts:
    """What was counted of a listener, a pool, an upstream or all."""
    match scope:
        case ("listener", name):
            return ledger.listeners.get(name, _EMPTY)
        case ("pool", name):
            return ledger.pools.get(name, _EMPTY)
        case ("upstream", pool, name):
            return ledger.upstreams.get((pool, name), _EMPTY)
        case _:
            return ledger.total


def configured(snapshot: Snapshot) -> Iterator[Scope]:
    """All that is configured."""
    yield TOTAL
    for listener in snapshot.listeners:
        yield listener_scope(listener.name)
    for pool in snapshot.pools:
        yield pool_scope(pool.name)
        for one in pool.upstreams:
            yield upstream_scope(pool.name, one.name)


def live_sessions(
    board: Board, snapshot: Snapshot, listeners: Mapping[str, int]
) -> dict[Scope, int]:
    """How many sessions there are now. `listeners` has those of listeners."""
    found = {TOTAL: board.total(SESSIONS)}
    for listener in snapshot.listeners:
        found[listener_scope(listener.name)] = listeners[listener.name]
    live = board.upstreams.live
    for pool in snapshot.pools:
        found[pool_scope(pool.name)] = live(pool.slot)
        for one in pool.upstreams:
            found[upstream_scope(pool.name, one.name)] = live(one.slot)
    return found


@dataclass(frozen=True, slots=True)
class Mark:
    """What had been counted at one moment."""

    tallies: dict[Scope, Tally] = field(default_factory=dict)
    """Also of edges."""
    ends: Mapping[End, int] = field(default_factory=dict)
    workers: list[dict[str, int]] = field(default_factory=list)

    @classmethod
    def of(cls, now: Present) -> Mark:
        tallies = {scope: Tally.of(counts) for scope, counts in now.scopes()}
        tallies.update((key, Tally.of(counts)) for key, counts in now.ledger.edges.items())
        return cls(tallies, dict(now.ledger.total.ends), now.ledger.workers)
