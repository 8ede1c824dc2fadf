"""Shared memory for counts of clients: a plane for each worker, where a listener wants them.

Those of one listener lie together and have a number, which the supervisor gives. They are the end
of a memfd that grows as numbers are given; what nobody touched takes no room.
"""

from __future__ import annotations

import mmap
import os
import weakref
from typing import Final

MANY_WORKERS: Final = 9
"""From so many workers on, the planes of a listener take twice as much."""
_BYTES: Final = 32 << 20


def bytes_per_listener(workers: int) -> int:
    """What the planes of one listener take at most, all workers together: the least power of two
    that was enough for 100,000 clients (tests/limits). Each worker adds an error of its own."""
    return _BYTES if workers < MANY_WORKERS else 2 * _BYTES


class Planes:
    """The planes of all listeners: a memfd from `start` on."""

    def __init__(self, fd: int, workers: int, start: int) -> None:
        """`start` is where a page begins. Keeps a copy of `fd` for as long as it lives."""
        self._fd = os.dup(fd)
        weakref.finalize(self, os.close, self._fd)
        self._start = start
        self._workers = workers
        self._size = bytes_per_listener(workers)
        self._plane = self._size // workers // mmap.PAGESIZE * mmap.PAGESIZE

    @property
    def number(self) -> int:
        """How many listeners there is room for."""
        return (os.fstat(self._fd).st_size - self._start) // self._size

    def make_room(self, listeners: int) -> None:
        """Have room for so many listeners: the supervisor alone, before it tells the workers.

        Raises OSError where a file of this process may not be so long (RLIMIT_FSIZE).
        """
        if listeners > self.number:
            os.ftruncate(self._fd, self._start + listeners * self._size)

    def of(self, number: int) -> list[memoryview]:
        """The planes of a listener, one for each worker. They last for as long as they are used.

        Costs one fd: Python's mmap keeps a copy.
        """
        offset, plane = self._start + number * self._size, self._plane
        view = memoryview(mmap.mmap(self._fd, self._size, offset=offset))
        return [view[n * plane : (n + 1) * plane] for n in range(self._workers)]

    def clear(self, worker: int) -> None:
        """Forget what a dead worker counted: its memory goes back, and the others see zeros."""
        for number in range(self.number):
            offset = self._start + number * self._size + worker * self._plane
            with mmap.mmap(self._fd, self._plane, offset=offset) as plane:
                plane.madvise(mmap.MADV_REMOVE)
