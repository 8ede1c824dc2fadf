"""What the clients of one listener have and do, counted by all workers together.

Each worker has a plane of shared memory of which it is the only writer: a count-min sketch (Cormode
and Muthukrishnan, 2005) of ROWS rows. A client network has one cell in each row, and shares it with
others; the lowest of its cells is never too low, and too high only where others are in all of them.
So the memory is fixed, and a look costs the same among ten clients as among a million. Live
sessions of the worker that looks are counted exactly beside it.

The columns come from a keyed hash: whoever does not know the key cannot choose networks that
collide with another one's.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from spliceproxy.limits.window import BITS, MOST, Rate, counted, moved_to

ROWS: Final = 7
BYTES_PER_COLUMN: Final = 12 * ROWS
"""Of a plane: eight for rates and four for live sessions in each row."""

_DIGEST: Final = struct.Struct(f"={ROWS}I")

Cells = tuple[int, ...]
"""Where a client network is counted: one index for each row."""
Place = tuple[bytes, Cells]
"""What a live session has taken: the network, and its cells."""


def network_key(packed: bytes, v4: int, v6: int) -> bytes:
    """The network of an IP address, packed, with these lengths of prefixes, 1 to 32 and 1 to 128.

    Not the network's address alone: 10.0.0.0/8 is not a00::/8.
    """
    prefix = v4 if len(packed) == 4 else v6
    whole, rest = divmod(prefix, 8)
    key = packed[:whole]
    if rest:
        key += bytes((packed[whole] & 0xFF << 8 - rest & 0xFF,))
    return (b"4" if len(packed) == 4 else b"6") + key


class Clients:
    """The counts of one listener, as one worker sees and changes them."""

    def __init__(self, planes: Sequence[memoryview], index: int | None, key: bytes) -> None:
        """`planes`: one for each worker, all of one size; `index` is this worker's, None of whoever
        only looks and has no sessions. `key`, up to 64 bytes, is the same for all, and secret."""
        columns = len(planes[0]) // BYTES_PER_COLUMN
        cells = columns * ROWS
        self._columns = columns
        self._bases = tuple(row * columns for row in range(ROWS))
        self._key = key
        self._rates = [plane[: cells * 8].cast("Q") for plane in planes]
        self._lives = [plane[cells * 8 : cells * 12].cast("I") for plane in planes]
        self._own_rates = self._rates[index or 0]
        self._own_lives = self._lives[0] if index is None else self._lives.pop(index)
        self._live: dict[bytes, int] = {}
        """Live sessions of this worker, by network."""

    def cells(self, network: bytes) -> Cells:
        """Where a network is counted."""
        digest = blake2b(network, digest_size=_DIGEST.size, key=self._key).digest()
        columns = self._columns
        return tuple(
            [
                base + (number * columns >> 32)
                for base, number in zip(self._bases, _DIGEST.unpack(digest), strict=True)
            ]
        )

    def full(self, network: bytes, cells: Cells, most: int) -> bool:
        """Whether a network has `most` live sessions with all workers already."""
        own = self._live.get(network, 0)
        first = cells[0]
        total = own
        for lives in self._lives:
            total += lives[first]
        if total < most:  # one row says enough, for nearly everybody
            return False
        total = own
        for lives in self._lives:
            if lives[first]:
                total += min([lives[cell] for cell in cells])
        return total >= most

    def enter(self, network: bytes, cells: Cells) -> None:
        """Count one more live session of this worker."""
        self._live[network] = self._live.get(network, 0) + 1
        lives = self._own_lives
        for cell in cells:
            lives[cell] += 1

    def leave(self, place: Place) -> None:
        """Count one less: exactly what `enter` counted."""
        network, cells = place
        left = self._live[network] - 1
        if left:
            self._live[network] = left
        else:
            del self._live[network]
        lives = self._own_lives
        for cell in cells:
            lives[cell] -= 1

    def may_come(self, cells: Cells, rate: Rate, now: float) -> bool:
        """Whether a network that comes with this rate at most may come once more."""
        number, weight = rate.window(now)
        first = cells[0]
        total = 0.0
        for rates in self._rates:
            if cell := rates[first]:
                current, previous = counted(cell, number)
                total += current + weight * previous
        if total < rate.burst:  # one row says enough, for nearly everybody
            return True
        total = 0.0
        for rates in self._rates:
            if rates[first]:
                pairs = [counted(rates[cell], number) for cell in cells]
                # Each is too high at most, so that the lowest of each is nearest to the truth.
                total += min([one[0] for one in pairs]) + weight * min([one[1] for one in pairs])
        return total < rate.burst

    def came(self, cells: Cells, rate: Rate, now: float) -> None:
        """Count a network that has come to this worker.

        Cells that are higher already, by others, need not grow (conservative update).
        """
        number, _ = rate.window(now)
        rates = self._own_rates
        found = [rates[cell] for cell in cells]
        moved = [moved_to(cell, number) if cell else 0 for cell in found]
        lowest = min(moved) >> BITS
        if lowest < MOST:
            window, wanted = number << 2 * BITS, lowest + 1 << BITS
            for cell, counts in zip(cells, moved, strict=True):
                if counts < wanted:
                    rates[cell] = window | wanted | counts & MOST
