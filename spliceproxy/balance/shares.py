"""Weights laid end to end, and whose stretch a point lies in: a Fenwick tree, O(log n) for all."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence


class Shares:
    """`weights` and their `total`, which follow each change."""

    __slots__ = ("_sums", "_top", "total", "weights")

    def __init__(self, weights: Sequence[int]) -> None:
        self.weights = list(weights)
        self.total = sum(weights)
        size = len(weights)
        self._sums = sums = [0, *weights]
        """Node n, from 1 on, has the sum of as many weights as its lowest bit says, up to n."""
        for node in range(1, size + 1):
            parent = node + (node & -node)
            if parent <= size:
                sums[parent] += sums[node]
        self._top = 1 << size.bit_length() >> 1

    def set(self, index: int, weight: int) -> None:
        """Change one weight."""
        sums = self._sums
        more = weight - self.weights[index]
        self.weights[index] = weight
        self.total += more
        node = index + 1
        while more and node < len(sums):
            sums[node] += more
            node += node & -node

    def find(self, point: int) -> tuple[int, int]:
        """Whose stretch has `point`, 0 up to the total, and where that stretch begins."""
        sums = self._sums
        size = len(sums)
        node = begin = 0
        step = self._top
        while step:
            ahead = node + step
            if ahead < size and begin + sums[ahead] <= point:
                node = ahead
                begin += sums[ahead]
            step >>= 1
        return node, begin

    def take_out(self, excluded: Collection[int]) -> Mapping[int, int]:
        """Set the weights of `excluded` to 0; returns what they were, for `put_back`."""
        before = {index: self.weights[index] for index in excluded}
        for index in before:
            self.set(index, 0)
        return before

    def put_back(self, before: Mapping[int, int]) -> None:
        for index, weight in before.items():
            self.set(index, weight)

    def pick(self, excluded: Collection[int], place: float) -> int | None:
        """Who has `place`, 0 up to 1, of the whole; `excluded` have no share in it."""
        if not excluded:
            return self.find(int(place * self.total))[0] if self.total else None
        before = self.take_out(excluded)
        chosen = self.find(int(place * self.total))[0] if self.total else None
        self.put_back(before)
        return chosen
