"""What was counted, for whoever reads it: cells as values, added up over the workers.

See telemetry/counters.py for what stands where.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import add
from typing import Final

from spliceproxy.telemetry.counters import (
    ENDS,
    FAILURE_WHYS,
    FAILURES,
    HISTOGRAM,
    HISTOGRAMS,
    MAX_KINDS,
    SEQUENCE,
    SLOTS,
    USED,
    WORKER_SLOTS,
    CellKey,
    End,
    key_of,
    kinds_of,
    places,
    upper_bounds,
)


@dataclass(slots=True)
class Counts:
    """What one cell counted, or several added up."""

    values: list[int] = field(default_factory=lambda: [0] * SLOTS)
    """By slot; those of ENDS are zero."""
    ends: dict[End, int] = field(default_factory=dict)

    def add(self, other: Counts) -> None:
        """Count what `other` has as well."""
        self.values = list(map(add, self.values, other.values))
        for end, number in other.ends.items():
            self.ends[end] = self.ends.get(end, 0) + number

    @property
    def ended(self) -> int:
        """Sessions that are over."""
        return sum(self.ends.values())

    @property
    def failures(self) -> dict[str, int]:
        """Tries to connect that failed, by the reason; those that came."""
        found = self.values[FAILURES : FAILURES + len(FAILURE_WHYS)]
        return {why: number for why, number in zip(FAILURE_WHYS, found, strict=True) if number}

    def histogram(self, name: str) -> Histogram:
        """One of HISTOGRAMS."""
        at = HISTOGRAMS[name]
        return Histogram(self.values[at], self.values[at + 1 : at + HISTOGRAM])


@dataclass(frozen=True, slots=True)
class Histogram:
    """How values are spread: their sum, and how many are in each bucket."""

    sum: int
    buckets: list[int]

    @property
    def count(self) -> int:
        """How many values there are."""
        return sum(self.buckets)

    def since(self, before: Histogram) -> Histogram:
        """What has come since `before`."""
        new = [now - then for now, then in zip(self.buckets, before.buckets, strict=True)]
        return Histogram(self.sum - before.sum, new)

    def quantile(self, share: float) -> float | None:
        """The value below which `share` of them lie, guessed within its bucket; None: no values."""
        left = share * self.count
        if not left:
            return None
        low = 0
        for number, high in enumerate(upper_bounds()):
            there = self.buckets[number]
            if there and left <= there:
                return low + (high - low) * left / there
            left -= there
            low = high
        return float(low)


@dataclass(frozen=True, slots=True)
class WorkerCounts:
    """What one region has at one moment."""

    worker: dict[str, int]
    """By the names of WORKER_SLOTS."""
    cells: dict[CellKey, Counts]


def read_region(words: memoryview) -> WorkerCounts:
    """Read a region that somebody may be writing: each number as it was at some moment in between;
    no session is counted twice, or not at all, because its cell changed places."""
    while True:
        before = words[SEQUENCE]
        ends = list(kinds_of(words))
        cells: dict[CellKey, Counts] = {}
        for cell in places(words[USED]):
            key = key_of(words, cell)
            if key is not None:
                cells[key] = _counts(words[cell : cell + SLOTS].tolist(), ends)
        if words[SEQUENCE] == before and not before % 2:
            break
    return WorkerCounts({name: words[index] for name, index in WORKER_SLOTS.items()}, cells)


def add_up(regions: Iterable[WorkerCounts]) -> dict[CellKey, Counts]:
    """The cells of all workers, by their names."""
    total: dict[CellKey, Counts] = {}
    for region in regions:
        for key, counts in region.cells.items():
            if key in total:
                total[key].add(counts)
            else:
                total[key] = Counts(counts.values, dict(counts.ends))
    return total


def _counts(values: list[int], ends: list[End]) -> Counts:
    found = values[ENDS : ENDS + len(ends)]
    values[ENDS:FAILURES] = _NO_ENDS
    return Counts(values, {end: number for end, number in zip(ends, found, strict=True) if number})


_NO_ENDS: Final = [0] * MAX_KINDS
