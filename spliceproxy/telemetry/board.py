"""Numbers that workers and supervisor share, without a lock.

One region of shared memory per worker, and one writer per region: that worker, or the supervisor
while the worker is away. A slot is an aligned 64-bit integer, written and read through a
memoryview cast to "Q", which never tears; struct.pack_into zero-fills first, and a third of the
readers saw 0.
"""

from __future__ import annotations

import mmap
import os

SLOTS = 1024
"""64-bit slots of one region: two pages."""

HEARTBEAT = 0
"""time.monotonic_ns() of the last heartbeat."""
SESSIONS = 1
"""Live sessions of the worker."""
_LISTENERS = 64

MAX_LISTENERS = SLOTS - _LISTENERS
"""Listeners that can have a session counter of their own."""


def listener_sessions(slot: int) -> int:
    """The index of the slot with the live sessions of the listener that owns `slot`."""
    return _LISTENERS + slot


class Board:
    """All regions, as one process sees them. `regions[n][SLOT]` reads and writes an integer."""

    def __init__(self, fd: int, workers: int) -> None:
        """Map the board behind `fd`, which the caller keeps and may close afterwards."""
        self.workers = workers
        self._map = mmap.mmap(fd, workers * SLOTS * 8)
        words = memoryview(self._map).cast("Q")
        self.regions = [words[n * SLOTS : (n + 1) * SLOTS] for n in range(workers)]

    @staticmethod
    def create(workers: int) -> int:
        """Make the shared memory of a board, all zero, and return its fd, which the caller owns."""
        fd = os.memfd_create("spliceproxy-board", os.MFD_CLOEXEC)
        os.ftruncate(fd, workers * SLOTS * 8)
        return fd

    def total(self, index: int) -> int:
        """The sum of one slot over all workers."""
        return sum(region[index] for region in self.regions)

    def clear_gauges(self, worker: int) -> None:
        """Forget what a dead worker had open. Only the supervisor does this, before a restart."""
        region = self.regions[worker]
        for index in (SESSIONS, *range(_LISTENERS, SLOTS)):
            region[index] = 0
