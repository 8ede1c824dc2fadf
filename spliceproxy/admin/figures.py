"""What is told of a listener, a pool or an upstream: the TRAFFIC of docs/api.md. No clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from spliceproxy.telemetry.counters import (
    CONNECT,
    COPIED_UP,
    DURATION,
    FAILURE_WHYS,
    FAILURES,
    FIRST_BYTE,
    HISTOGRAM,
    SPLICED_UP,
)
from spliceproxy.telemetry.counts import SLOT_BITS, Counts, Histogram, slot_bits, unpack

Figures = dict[str, Any]
"""A JSON object."""

Scope = tuple[str, ...]
"""Whose numbers: TOTAL, or one of those below. A CellKey is the scope of an edge."""
TOTAL: Final[Scope] = ()


def listener_scope(name: str) -> Scope:
    return "listener", name


def pool_scope(name: str) -> Scope:
    return "pool", name


def upstream_scope(pool: str, name: str) -> Scope:
    return "upstream", pool, name


class Tally(NamedTuple):
    """What has rates: counts since the start."""

    ended: int = 0
    errors: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    connect_failures: int = 0

    @classmethod
    def of(cls, counts: Counts) -> Tally:
        up, down, spliced_up, spliced_down = counts.slots(COPIED_UP, 4)
        failures = sum(counts.slots(FAILURES, len(FAILURE_WHYS)))
        up, down = up + spliced_up, down + spliced_down
        return cls(counts.ended, counts.errors, up, down, failures)


NOTHING: Final = Tally()


def rate(now: int, before: int, seconds: float) -> float:
    """How much came per second. Nothing, where a cell has gone that was part of the number."""
    return round(max(0, now - before) / max(seconds, _SHORTEST), 3)


def rates(now: Tally, before: Tally, seconds: float) -> Mapping[str, float]:
    """The same of all numbers of a tally."""
    if now == before:
        return _STILL
    pairs = zip(Tally._fields, now, before, strict=True)
    return {name: rate(new, old, seconds) for name, new, old in pairs}


_STILL: Final = dict.fromkeys(Tally._fields, 0.0)
_SHORTEST: Final = 1.0
"""Seconds; what came in less says nothing of a second."""

# Of the histograms, three lie side by side from CONNECT on: the spread of a scope.
_SPREADS: Final = {"connect_ms": CONNECT, "first_byte_ms": FIRST_BYTE, "duration_ms": DURATION}
_SPREAD: Final = HISTOGRAM * len(_SPREADS)
NO_QUANTILES: Final[Figures] = {name: {"p50": None, "p99": None, "count": 0} for name in _SPREADS}


def spread(counts: Counts) -> int:
    """What quantiles are found from, as one long integer."""
    return (counts.packed & slot_bits(CONNECT + _SPREAD)) >> CONNECT * SLOT_BITS


def quantiles(now: int, before: int) -> Figures:
    """Of what has come between two spreads, in milliseconds."""
    if now == before:
        return NO_QUANTILES
    new, old = unpack(now, _SPREAD), unpack(before, _SPREAD)
    found = {}
    for name, slot in _SPREADS.items():
        at = slot - CONNECT
        came = _histogram(new, at).since(_histogram(old, at))
        values = came.quantiles(0.5, 0.99)
        if values is None:
            found[name] = NO_QUANTILES[name]
        else:
            p50, p99 = (round(microseconds / 1000, 3) for microseconds in values)
            found[name] = {"p50": p50, "p99": p99, "count": came.count}
    return found


def _histogram(slots: list[int], at: int) -> Histogram:
    return Histogram(slots[at], slots[at + 1 : at + HISTOGRAM])


def traffic(
    sessions: int,
    counts: Counts,
    tally: Tally,
    recent: Mapping[str, float],
    minute: Figures,
) -> Figures:
    """A TRAFFIC object. `recent` are the rates, `minute` the quantiles."""
    spliced_up, spliced_down, retries, tls_ok, tls_failed = counts.slots(SPLICED_UP, 5)
    return {
        "sessions": sessions,
        "ended": tally.ended,
        "errors": tally.errors,
        "retries": retries,
        "bytes_up": tally.bytes_up,
        "bytes_down": tally.bytes_down,
        "spliced_up": spliced_up,
        "spliced_down": spliced_down,
        "connect_failures": counts.failures if tally.connect_failures else {},
        "tls_ok": tls_ok,
        "tls_failed": tls_failed,
        "rates": recent,
        **minute,
    }
