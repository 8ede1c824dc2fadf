"""Numbers that workers and supervisor share, without a lock.

One region of shared memory per worker, and one writer per region: that worker, or the supervisor
while the worker is away. A slot is an aligned 64-bit integer, written and read through a
memoryview cast to "Q", which never tears; struct.pack_into zero-fills first, and a third of the
readers saw 0.

Behind the regions lie the upstreams (`Upstreams`): their states, which the supervisor writes, and
how many sessions each worker has with each of them; behind those what each worker counts
(`counters`), and in the end the `Planes` of listeners that limit each client. The memory is a
memfd, so what nobody touched takes no room.
"""

from __future__ import annotations

import mmap
import os
import struct

from spliceproxy.errors import SpliceproxyError
from spliceproxy.telemetry.counters import region_bytes
from spliceproxy.telemetry.planes import Planes

HEARTBEAT = 0
"""time.monotonic_ns() of the last heartbeat."""
SESSIONS = 1
"""Live sessions of the worker."""
_LISTENERS = 64

MAX_LISTENERS = 1024 - _LISTENERS
"""Listeners that can have numbers of their own: live sessions, handshakes, how many came."""

SLOTS = _LISTENERS + 3 * MAX_LISTENERS
"""64-bit slots of one region, whole cache lines."""

MAX_UPSTREAMS = 65_536
"""Upstreams of all pools that can have a state and a session count."""

# States of an upstream: a sum of these, 0 when all is well.
DOWN = 1
"""Its health checks fail, or the first one has not passed yet."""
EJECTED = 2
"""Live traffic failed on it; it has to wait."""
DRAINING = 4
"""It keeps its sessions and takes no new ones: somebody said so."""

FLAGS = DOWN | EJECTED | DRAINING
"""The bits of a state that are flags."""
HELD = 0xFF << 8
"""The bits with the percent of its share that are held back from an upstream that starts slowly."""


def held_back(state: int) -> int:
    """The percent of its share that an upstream in this state does without."""
    return (state & HELD) >> 8


def with_held_back(state: int, percent: int) -> int:
    """The same state, but `percent`, 0 to 99, are held back."""
    return state & ~HELD | percent << 8


def listener_sessions(slot: int) -> int:
    """The index of the slot with the live sessions of the listener that owns `slot`."""
    return _LISTENERS + slot


def listener_handshakes(slot: int) -> int:
    """The same of its TLS handshakes under way, where it has limits."""
    return _LISTENERS + MAX_LISTENERS + slot


def listener_arrivals(slot: int) -> int:
    """The same of the cell (limits/window.py) with its new sessions, where those are limited."""
    return _LISTENERS + 2 * MAX_LISTENERS + slot


class Upstreams:
    """States and session counts of all upstreams, by the slot that the supervisor gave each.

    `sessions[n][slot]` is what worker n alone writes: its live sessions with that upstream, and
    `waiting[n][slot]` how many wait in its queue of the pool that has that slot.
    """

    def __init__(self, words: memoryview, workers: int) -> None:
        """`words`: 1 + MAX_UPSTREAMS * (1 + 2 * workers) of them at least, cast to "Q"."""
        self._version = words[:1]
        self._states = words[1 : 1 + MAX_UPSTREAMS]
        counts = words[1 + MAX_UPSTREAMS :]
        parts = [counts[n * MAX_UPSTREAMS : (n + 1) * MAX_UPSTREAMS] for n in range(2 * workers)]
        self.sessions = parts[:workers]
        self.waiting = parts[workers:]

    @property
    def version(self) -> int:
        """Grows with each change of a state, so that nobody has to look at all of them."""
        return self._version[0]

    def state(self, slot: int) -> int:
        """DOWN, EJECTED and DRAINING, added up, and what is held back (`held_back`)."""
        return self._states[slot]

    def set_state(self, slot: int, state: int) -> None:
        """Change a state: the supervisor alone. Workers see it at their next choice."""
        if self._states[slot] != state:
            self._states[slot] = state
            self._version[0] += 1

    def live(self, slot: int) -> int:
        """Live sessions of all workers with an upstream."""
        total = 0
        for counts in self.sessions:
            total += counts[slot]
        return total

    def queued(self, slot: int) -> int:
        """Sessions of all workers that wait for a place with a pool."""
        return sum(counts[slot] for counts in self.waiting)

    def clear(self, worker: int) -> None:
        """Forget the sessions of a dead worker, and those that waited."""
        for counts in (self.sessions[worker], self.waiting[worker]):
            for slot, count in enumerate(counts):
                if count:
                    counts[slot] = 0


class Board:
    """All regions, as one process sees them. `regions[n][SLOT]` reads and writes an integer."""

    def __init__(self, fd: int, workers: int) -> None:
        """Map the board behind `fd`, which the caller keeps and may close afterwards."""
        self.workers = workers
        self.planes = Planes(fd, workers, _end(workers))
        self._map = mmap.mmap(fd, _end(workers))
        words = memoryview(self._map).cast("Q")
        self.key = bytes(words[1:_HEAD])
        """Random, the same for all, and known to nobody else: for hashes that strangers feed."""
        words = words[_HEAD:]
        self.regions = [words[n * SLOTS : (n + 1) * SLOTS] for n in range(workers)]
        self.upstreams = Upstreams(words[workers * SLOTS :], workers)
        size = region_bytes() // 8
        counted = memoryview(self._map)[_head_end(workers) :].cast("Q")
        regions = [counted[n * size : (n + 1) * size] for n in range(workers + 1)]
        self.counters = regions[:workers]
        """What each worker counts (telemetry/counters.py): `counters[n]` is worker n's region."""
        self.history = regions[workers]
        """What was counted before this process: a region that the supervisor writes."""

    @staticmethod
    def create(workers: int) -> int:
        """Make the shared memory of a board, all zero, and return its fd, which the caller owns.

        Raises SpliceproxyError where a file of this process may not be so long (RLIMIT_FSIZE).
        """
        fd = os.memfd_create("spliceproxy-board", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, _end(workers))
        except OSError as error:
            os.close(fd)
            raise SpliceproxyError(
                f"no room for what {workers} workers count, {_end(workers) >> 20} MiB of which "
                f"little is ever touched: {error.strerror}; LimitFSIZE=infinity in the systemd "
                "unit, or ulimit -f unlimited"
            ) from None
        os.pwrite(fd, _COUNT.pack(workers) + os.urandom((_HEAD - 1) * 8), 0)
        return fd

    @staticmethod
    def counters_start(workers: int) -> int:
        """Bytes from the beginning of a board to the regions of `counters`, and of `history`."""
        return _head_end(workers)

    @staticmethod
    def workers_of(fd: int) -> int:
        """How many workers the board behind `fd` was made for."""
        workers: int = _COUNT.unpack(os.pread(fd, 8, 0))[0]
        return workers

    def total(self, index: int) -> int:
        """The sum of one slot over all workers."""
        return sum(region[index] for region in self.regions)

    def clear_gauges(self, worker: int) -> None:
        """Forget what a dead worker had open. Only the supervisor does this, before a restart."""
        region = self.regions[worker]
        for index in (SESSIONS, *range(_LISTENERS, SLOTS)):
            region[index] = 0
        self.upstreams.clear(worker)
        self.planes.clear(worker)


_COUNT = struct.Struct("=Q")
_HEAD = 8
"""64-bit words in front of the regions: the number of workers, and the key."""


def _head_end(workers: int) -> int:
    """Bytes of a board without counters and planes: whole pages."""
    words = _HEAD + workers * (SLOTS + 2 * MAX_UPSTREAMS) + 1 + MAX_UPSTREAMS
    return -(-words * 8 // mmap.PAGESIZE) * mmap.PAGESIZE


def _end(workers: int) -> int:
    """Bytes of a board without planes: whole pages."""
    return _head_end(workers) + (workers + 1) * region_bytes()
