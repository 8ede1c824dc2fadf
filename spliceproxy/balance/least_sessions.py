"""The upstream with the fewest live sessions for its weight, in O(log n) a choice.

Among equals it is smooth weighted round robin: while sessions are so short that nobody has one,
the shares are those of the weights. Who had to wait for its turn gets no credit for that, or an
upstream that comes free would be given everything for a while.

Live sessions are counted in shared memory, and what other workers do brings no event. A count that
grew unseen is found when that upstream is about to be chosen. One that fell is not, so each choice
looks at a few upstreams in turn: all of a small pool, and each of a large one soon.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from math import ceil, inf

from spliceproxy.balance.policy import Policy

LOOKS = 4
"""Upstreams whose count is looked at anew in each choice."""

_Key = tuple[float, float, int]
"""Live sessions by weight; the moment at which it is due among equals; the index."""


class LeastSessions(Policy):
    """`live` tells the live sessions of an index; `start` as in RoundRobin."""

    def __init__(self, weights: Sequence[int], live: Callable[[int], int], start: float) -> None:
        size = len(weights)
        self._weights = list(weights)
        self._live = live
        self._place = start
        """The moment of the last choice."""
        self._next_look = 0
        keys = []
        for index, weight in enumerate(weights):
            if weight:
                turn = max(0, ceil(start * weight - (index + 0.5) / size))
                moment = (turn + (index + 0.5) / size) / weight
                keys.append((live(index) / weight, moment, index))
            else:
                keys.append((inf, inf, index))
        self._tree = Tournament(keys)

    def choose(self, excluded: Collection[int] = (), _key: bytes = b"", /) -> int | None:
        """As Policy says: the one with the fewest sessions for its weight, and of several such the
        one whose turn it is."""
        if not self._weights:
            return None
        self._look_around()
        if not excluded:
            return self._choose()
        tree = self._tree
        before = {index: tree.keys[index] for index in excluded}
        for index in before:
            tree.set(index, (inf, inf, index))
        chosen = self._choose()
        for index, key_before in before.items():
            tree.set(index, key_before)
        return chosen

    def _choose(self) -> int | None:
        tree = self._tree
        while True:
            load, moment, index = tree.least()
            if load == inf:
                return None
            weight = self._weights[index]
            now = self._live(index) / weight
            if now <= load:
                break
            tree.set(index, (now, moment, index))
        self._place = max(self._place, moment)
        tree.set(index, (now, self._place + 1 / weight, index))
        return index

    def _look_around(self) -> None:
        size = len(self._weights)
        for _ in range(min(LOOKS, size)):
            index = self._next_look
            self._next_look = (index + 1) % size
            self.changed(index)

    def changed(self, index: int) -> None:
        load, moment, _index = self._tree.keys[index]
        weight = self._weights[index]
        if weight and self._live(index) / weight != load:
            self._tree.set(index, self._key(index, moment))

    def set_weight(self, index: int, weight: int) -> None:
        self._weights[index] = weight
        moment = self._tree.keys[index][1]
        moment = self._place if moment == inf else max(self._place, moment)
        self._tree.set(index, self._key(index, moment))

    def _key(self, index: int, moment: float) -> _Key:
        weight = self._weights[index]
        return (self._live(index) / weight, moment, index) if weight else (inf, inf, index)


class Tournament:
    """The least of many keys, of which single ones change: each node of a tree has a winner.

    Keys end with their index.
    """

    __slots__ = ("_winners", "keys")

    def __init__(self, keys: Sequence[_Key]) -> None:
        size = len(keys)
        self.keys = list(keys)
        self._winners = [*keys, *keys]
        """Node 1 is the root; those of node n are 2n and 2n + 1; the last ones are the keys."""
        winners = self._winners
        for node in range(size - 1, 0, -1):
            one, other = winners[2 * node], winners[2 * node + 1]
            winners[node] = one if one < other else other

    def least(self) -> _Key:
        """The least key. There must be one."""
        return self._winners[1]

    def set(self, index: int, key: _Key) -> None:
        """Change one key."""
        winners = self._winners
        self.keys[index] = key
        node = index + len(self.keys)
        winners[node] = key
        node >>= 1
        while node:
            before = winners[node]
            self._play(node)
            if winners[node] is before:  # nobody above hears of it
                break
            node >>= 1

    def _play(self, node: int) -> None:
        winners = self._winners
        one, other = winners[2 * node], winners[2 * node + 1]
        winners[node] = one if one < other else other
