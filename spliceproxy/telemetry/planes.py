"""Shared memory for the limits of listeners: a plane for each listener and worker.

There is one for every listener that there may be, and none takes room before it is used, as the
memory is a memfd: so those of a listener are mapped only where it has limits.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

BYTES_PER_LISTENER: Final = 64 << 20
"""What the planes of a listener may take, all workers together: measured (tests/limits) for 100,000
clients."""


class Planes:
    """The planes of all listeners: the first `size(listeners)` bytes of a memfd."""

    def __init__(self, fd: int, workers: int, listeners: int) -> None:
        """Keeps a copy of `fd` for as long as it lives."""
        self._fd = os.dup(fd)
        weakref.finalize(self, os.close, self._fd)
        self._workers = workers
        self._end = self.size(listeners)
        self._plane = BYTES_PER_LISTENER >> (workers - 1).bit_length()

    @staticmethod
    def size(listeners: int) -> int:
        """Bytes of the planes of all workers, however many those are."""
        return BYTES_PER_LISTENER * listeners

    def of(self, slot: int) -> list[memoryview]:
        """The planes of a listener, one for each worker. They last for as long as they are used.

        Costs one fd: Python's mmap keeps a copy.
        """
        whole = mmap.mmap(self._fd, BYTES_PER_LISTENER, offset=slot * BYTES_PER_LISTENER)
        plane = self._plane
        view = memoryview(whole)
        return [view[n * plane : (n + 1) * plane] for n in range(self._workers)]

    def clear(self, worker: int) -> None:
        """Forget what a dead worker counted: its memory goes back, and the others see zeros."""
        for slot in self._used():
            start = slot * BYTES_PER_LISTENER + worker * self._plane
            with mmap.mmap(self._fd, self._plane, offset=start) as plane:
                plane.madvise(mmap.MADV_REMOVE)

    def _used(self) -> Iterator[int]:
        """The listeners whose planes have any memory."""
        position = 0
        with suppress(OSError):  # ENXIO: there is none from here on
            while True:
                position = os.lseek(self._fd, position, os.SEEK_DATA)
                if position >= self._end:
                    return
                slot = position // BYTES_PER_LISTENER
                yield slot
                position = (slot + 1) * BYTES_PER_LISTENER
