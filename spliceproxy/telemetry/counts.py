"""What was counted, as values: one cell's, or those of several added up.

See telemetry/counters.py for what stands where.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from operator import sub
from typing import Final

from spliceproxy.telemetry.counters import (
    BUCKETS,
    FAILURE_WHYS,
    FAILURES,
    HISTOGRAM,
    HISTOGRAMS,
    SLOTS,
    End,
    upper_bounds,
)
from spliceproxy.telemetry.record import NORMAL_ENDS

SLOT_BITS: Final = 64


@dataclass(slots=True)
class Counts:
    """What one cell counted, or several added up.

    Its numbers are one long integer, 64 bits for each slot, so adding up hundreds of them is one
    addition (0.4 µs; of two lists 10 µs). None of them ever carries into the next one: a sum of
    bytes would need centuries for that.
    """

    packed: int = 0
    """By slot; those of ENDS are zero."""
    ends: dict[End, int] = field(default_factory=dict)

    def __getitem__(self, slot: int) -> int:
        """The number in one slot."""
        return self.slots(slot, 1)[0]

    def slots(self, first: int, number: int) -> list[int]:
        """The numbers in several slots that lie side by side."""
        low = self.packed & slot_bits(first + number)  # first: what is shifted is short then
        return unpack(low >> first * SLOT_BITS, number)

    @property
    def values(self) -> list[int]:
        """The numbers in all slots."""
        return self.slots(0, SLOTS)

    @property
    def ended(self) -> int:
        """Sessions that are over."""
        return sum(self.ends.values())

    @property
    def errors(self) -> int:
        """Those of them whose end is no normal one."""
        return sum(number for end, number in self.ends.items() if end.why not in NORMAL_ENDS)

    @property
    def failures(self) -> dict[str, int]:
        """Tries to connect that failed, by the reason; those that came."""
        found = self.slots(FAILURES, len(FAILURE_WHYS))
        return {why: number for why, number in zip(FAILURE_WHYS, found, strict=True) if number}

    def histogram(self, name: str) -> Histogram:
        """One of HISTOGRAMS."""
        total, *buckets = self.slots(HISTOGRAMS[name], HISTOGRAM)
        return Histogram(total, buckets)

    def add(self, other: Counts) -> None:
        """Count what `other` has as well."""
        self.packed += other.packed
        for end, number in other.ends.items():
            self.ends[end] = self.ends.get(end, 0) + number


@cache
def slot_bits(number: int) -> int:
    """All bits of the first `number` slots."""
    return (1 << number * SLOT_BITS) - 1


def unpack(packed: int, number: int) -> list[int]:
    """The numbers in a long integer that has no more than `number` slots."""
    return memoryview(packed.to_bytes(number * 8, "little")).cast("Q").tolist()


@dataclass(frozen=True, slots=True)
class Histogram:
    """How values are spread: their sum, and how many are in each bucket."""

    sum: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    @property
    def count(self) -> int:
        """How many values there are."""
        return sum(self.buckets)

    def since(self, before: Histogram) -> Histogram:
        """What has come since `before`; nothing where a cell has gone that was part of it."""
        new = list(map(sub, self.buckets, before.buckets))
        if min(new) < 0:
            new = [max(0, number) for number in new]
        return Histogram(max(0, self.sum - before.sum), new)

    def quantiles(self, *shares: float) -> list[float] | None:
        """The values below which such shares of them lie, each guessed within its bucket; None: no
        values."""
        below = [0, *accumulate(self.buckets)]
        if not below[-1]:
            return None
        found = []
        for share in shares:
            wanted = share * below[-1]
            number = bisect_left(below, wanted, 1) - 1
            low, high = _EDGES[number], _EDGES[number + 1]
            part = (wanted - below[number]) / self.buckets[number]
            found.append(low + (high - low) * part)
        return found


_BOUNDS: Final = upper_bounds()
_EDGES: Final = (0, *_BOUNDS, _BOUNDS[-1])
"""Where buckets begin and end. Of the last one nobody knows how far it goes."""
