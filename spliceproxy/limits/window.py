"""How often something may happen: a sliding window, in one number per counter.

`burst` times at most within one window, which is so long that this is `per_second` in the long run:
50 in 2.5 s are 20 a second. Counters know two windows, the current one and the one before it, of
which as much counts as still lies within a window's length (as if it had been even). So, for every
stretch of t seconds, at most burst + per_second * t + 1 are let in: what a token bucket grants.
Unlike the level of a bucket, counts of several workers can be added up.

A cell is 64 bits: the number of its window, the count in it, and the count in the one before. It
is written at once, and never cleared: a cell of an old window says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

BITS: Final = 20
"""Of each of the two counts of a cell, the lowest ones being those of the window before."""
MOST: Final = (1 << BITS) - 1
"""The highest count of one cell in one window; more are not counted."""
_COUNTS: Final = (1 << 2 * BITS) - 1
_NUMBERS: Final = (1 << 24) - 1
"""Windows are told apart by so many bits: sixteen million of them."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How often something may happen."""

    per_second: int
    burst: int
    """At once, after a quiet time; 1 to MOST."""

    def window(self, now: float) -> tuple[int, float]:
        """The number of the window at `now`, seconds of any clock that all share, and how much of
        the one before still counts, 0 to 1."""
        position = now * self.per_second / self.burst
        number = int(position)
        return number & _NUMBERS, 1.0 - (position - number)


def moved_to(cell: int, number: int) -> int:
    """The counts of a cell in the window `number` and the one before it, as in its low bits."""
    ahead = (cell >> 2 * BITS) - number & _NUMBERS
    if ahead == 0:
        return cell & _COUNTS
    if ahead == _NUMBERS:  # nobody came since
        return cell >> BITS & MOST
    if ahead == 1:  # another worker's clock was read a moment later
        return (cell & MOST) << BITS
    return 0


def counted(cell: int, number: int) -> tuple[int, int]:
    """The same as two numbers."""
    counts = moved_to(cell, number)
    return counts >> BITS, counts & MOST


def cell_of(number: int, current: int, previous: int) -> int:
    """The cell with these counts in the window `number`, and in the one before."""
    return number << 2 * BITS | min(current, MOST) << BITS | previous


class Arrivals:
    """How often all clients of a listener come, in one cell for each worker."""

    __slots__ = ("_index", "_own", "_regions")

    def __init__(self, regions: Sequence[memoryview], worker: int, index: int) -> None:
        """The cells are `regions[n][index]`; that of `worker` is written here."""
        self._regions = regions
        self._own = regions[worker]
        self._index = index

    def one_more(self, rate: Rate, now: float) -> bool:
        """Whether one more may come, with this rate at the most."""
        number, weight = rate.window(now)
        index, total = self._index, 0.0
        for region in self._regions:
            if cell := region[index]:
                current, previous = counted(cell, number)
                total += current + weight * previous
        return total < rate.burst

    def came(self, rate: Rate, now: float) -> None:
        """Count one that has come to this worker."""
        number, _ = rate.window(now)
        current, previous = counted(self._own[self._index], number)
        self._own[self._index] = cell_of(number, current + 1, previous)
