"""Smooth weighted round robin, in O(log n) a choice.

An upstream of weight w is due w times in each cycle of length 1, at evenly spaced moments; a
choice takes the earliest one that is due, so the picks of a heavy upstream are spread and not
bunched. Each upstream is shifted by a phase of its own, so that equal ones take turns in order.
Adding up "current weights" at each choice, as it is often done, costs 260 µs among 10,000.
"""

from __future__ import annotations

import heapq
from collections.abc import Container, Sequence
from math import ceil


class RoundRobin:
    """Chooses indices into `weights`; an upstream of weight 0 is never chosen.

    `start`, from 0 up to 1, is the place in the cycle where it begins: different ones keep many
    choosers from sending their first sessions to the same upstream.
    """

    def __init__(self, weights: Sequence[int], start: float) -> None:
        size = len(weights)
        self._weights = tuple(weights)
        self._heap: list[tuple[float, int, int]] = []
        """(moment at which it is due, index, how often it was due before)"""
        for index, weight in enumerate(weights):
            if weight:
                turn = max(0, ceil(start * weight - (index + 0.5) / size))
                self._heap.append((self._moment(index, turn), index, turn))
        heapq.heapify(self._heap)

    def choose(self, excluded: Container[int] = ()) -> int | None:
        """The next index that is not excluded, or None. What was passed over is due next."""
        heap = self._heap
        passed = []
        chosen = None
        while heap:
            _moment, index, turn = heap[0]
            if index in excluded:
                passed.append(heapq.heappop(heap))
                continue
            chosen = index
            heapq.heapreplace(heap, (self._moment(index, turn + 1), index, turn + 1))
            break
        for entry in passed:
            heapq.heappush(heap, entry)
        return chosen

    def _moment(self, index: int, turn: int) -> float:
        """Computed from the turn, not added up: no rounding error gathers."""
        weights = self._weights
        return (turn + (index + 0.5) / len(weights)) / weights[index]
