"""Policies that draw lots: `random`, and `power_of_two`, which draws twice.

Choosing at random needs no agreement between workers, nor between machines. Two lots and a look at
the live sessions of both keep the fullest upstream near the others (Mitzenmacher, "The power of two
choices in randomized load balancing", 2001), and unlike the least of all, which everybody finds at
the same time, no upstream that has just come is stormed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from spliceproxy.balance.policy import Policy
from spliceproxy.balance.shares import Shares


class Random(Policy):
    """Each with a probability of its share of the weights. `random` returns 0 up to 1."""

    def __init__(self, weights: Sequence[int], random: Callable[[], float]) -> None:
        self._shares = Shares(weights)
        self._random = random

    def choose(self, excluded: Collection[int] = (), _key: bytes = b"", /) -> int | None:
        return self._shares.pick(excluded, self._random())

    def set_weight(self, index: int, weight: int) -> None:
        self._shares.set(index, weight)


class PowerOfTwo(Policy):
    """Of two that are drawn by weight, the one with fewer live sessions for its weight."""

    def __init__(
        self, weights: Sequence[int], live: Callable[[int], int], random: Callable[[], float]
    ) -> None:
        """`live` tells the live sessions of an index."""
        self._shares = Shares(weights)
        self._live = live
        self._random = random

    def choose(self, excluded: Collection[int] = (), _key: bytes = b"", /) -> int | None:
        if not excluded:
            return self._draw()
        before = self._shares.take_out(excluded)
        chosen = self._draw()
        self._shares.put_back(before)
        return chosen

    def _draw(self) -> int | None:
        shares, live, random = self._shares, self._live, self._random
        if not shares.total:
            return None
        first, begin = shares.find(int(random() * shares.total))
        weight = shares.weights[first]
        others = shares.total - weight
        if not others:
            return first
        point = int(random() * others)  # on a line without the stretch of the first
        second, _begin = shares.find(point if point < begin else point + weight)
        fewer = live(second) * weight < live(first) * shares.weights[second]
        return second if fewer else first

    def set_weight(self, index: int, weight: int) -> None:
        self._shares.set(index, weight)
