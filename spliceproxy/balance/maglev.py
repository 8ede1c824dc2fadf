"""Each client to an upstream of its own: `source_hash`, by a Maglev table.

Eisenbud et al., "Maglev: a fast and reliable software network load balancer" (NSDI 2016), section
3.4: each upstream has a permutation of the table's places, made of its name, and takes in turn the
next place of it that is free. So all who have the same names and weights, in whatever order, have
the same table; and where an upstream comes or goes, little more than its share changes hands.

- Turns come by weight, at moments that do not depend on who else is there.
- The size is one for all pools: with another size every client would move.
- An upstream that is down stays in the table: its clients go on along a path of places of their own
  until somebody can be had, all others stay where they are, and they come back when it is up.
- To fill a table takes some 0.1 s in Python, so the supervisor does it (`build_table`), and workers
  are given it.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Collection, Sequence
from hashlib import blake2b

from spliceproxy.balance.policy import Policy
from spliceproxy.balance.shares import Shares

TABLE_SIZE = 65_537
"""A prime, so that every step leads through all places. It gives each of 650 equal upstreams its
share to within a percent; at 10,000 the shares are 6 or 7 places each."""

PROBES = 16
"""Places on a client's path. With half of the upstreams down one client in 65,000 finds none there,
and is given somebody by its share of those that are up."""


def build_table(names: Sequence[str], weights: Sequence[int], size: int = TABLE_SIZE) -> array[int]:
    """The table for upstreams of these names and weights: indices into them.

    Empty where no weight is above 0. Names are different from each other; `size` is a prime.
    """
    turns = []
    for index, (name, weight) in enumerate(zip(names, weights, strict=True)):
        if weight:
            digest = blake2b(name.encode(errors="surrogateescape"), digest_size=24).digest()
            place = int.from_bytes(digest[:8], "big") % size
            step = int.from_bytes(digest[8:16], "big") % (size - 1) + 1
            phase = int.from_bytes(digest[16:], "big") / 2**64
            turns.append((phase / weight, name, index, place, step, 1 / weight))
    if not turns:
        return array("H")
    heapq.heapify(turns)
    free = -1
    table = [free] * size
    for _ in range(size):
        moment, name, index, place, step, pause = turns[0]
        while table[place] != free:
            place = (place + step) % size
        table[place] = index
        heapq.heapreplace(turns, (moment + pause, name, index, place, step, pause))
    return array("H", table)


class SourceHash(Policy):
    """Chooses by the client's key alone. Of a weight, here only matters whether it is 0."""

    def __init__(self, table: array[int], weights: Sequence[int]) -> None:
        """`table` is for the same upstreams, whatever is down now."""
        self._table = table
        self._shares = Shares(weights)

    def choose(self, excluded: Collection[int] = (), key: bytes = b"", /) -> int | None:
        """As Policy says: the owner of the key's place in the table. Where that one cannot be had,
        the key goes on along a path of its own, so that nobody else moves."""
        shares, table = self._shares, self._table
        if not shares.total:
            return None
        number = int.from_bytes(blake2b(key, digest_size=16).digest(), "big")
        weights, size = shares.weights, len(table)
        rest, place = divmod(number, size)
        step = rest % (size - 1) + 1
        for _ in range(PROBES):
            index = table[place]
            if weights[index] and index not in excluded:
                return index
            place = (place + step) % size
        return shares.pick(excluded, (number >> 75) / 2**53)

    def set_weight(self, index: int, weight: int) -> None:
        self._shares.set(index, weight)
