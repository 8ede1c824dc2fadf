"""Pipes, and the bounded pool that lends them.

What the kernel does (Linux, pipe(7)):

- A pipe counts slots, not bytes: 1 MiB has 256 of them, and a slot that holds one byte is taken.
- An unprivileged user may own fs.pipe-user-pages-soft pages (16,384 by default: 64 pipes of 1 MiB).
  Past that, a new pipe has two pages or one, and F_SETPIPE_SZ fails with EPERM. The limit is
  shared with all other programs of that user, so a budget of our own cannot rule it out.
- pipe2() and two closes for each connection are measurable, so empty pipes are kept and lent again.

A pipe is lent for as long as bytes are in it and no longer: a session that is idle, or whose
peers keep up, holds none between two turns.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from typing import Final

PAGE: Final = os.sysconf("SC_PAGE_SIZE")
DEFAULT_SIZE: Final = 16 * PAGE
"""What pipe2() makes where nothing limits it (pipe(7)), in bytes."""
USEFUL_SIZE: Final = 4 * PAGE
"""A pipe smaller than this, in bytes, is slower than copying."""
REFUSALS_SKIPPED: Final = 256
"""After a refusal of the kernel, so many loans are refused without asking it again."""


class Pipe:
    """Both ends of one pipe. `size` is what it really holds, in bytes (F_GETPIPE_SZ)."""

    __slots__ = ("read_fd", "size", "write_fd")

    def __init__(self, wanted: int) -> None:
        """Make a pipe of `wanted` bytes, or of what the kernel grants.

        Raises OSError where there is none at all (EMFILE, ENFILE).
        """
        self.read_fd, self.write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self.size = fcntl.fcntl(self.write_fd, fcntl.F_SETPIPE_SZ, wanted)
        except OSError:
            self.size = fcntl.fcntl(self.write_fd, fcntl.F_GETPIPE_SZ)

    def close(self) -> None:
        """Close both ends, with whatever is inside."""
        os.close(self.read_fd)
        os.close(self.write_fd)
        self.read_fd = self.write_fd = -1


@dataclass(frozen=True, slots=True)
class PipeStatistics:
    """Counts of a pool since it began."""

    lent: int
    """Pipes that flows hold now."""
    pooled: int
    """Empty pipes that wait for the next loan."""
    made: int
    refused: int
    """Loans that were refused; each was copied instead."""


class PipePool:
    """Lends empty pipes, within a number of pipes and a budget of pages.

    `size`: bytes that a pipe is asked to hold. `max_pipes`: pipes that exist at once.
    `pages`: pages that all of them may have together; None: no limit.
    """

    def __init__(self, size: int, max_pipes: int, pages: int | None = None) -> None:
        self._wanted = size
        self._max_pipes = max_pipes
        self._pages_left = pages if pages is not None else max_pipes * (size // PAGE + 1)
        self._free: list[Pipe] = []
        self._owned = 0
        self._made = 0
        self._refused = 0
        self._skip = 0

    @property
    def owned(self) -> int:
        """Pipes that exist now, lent or pooled."""
        return self._owned

    def lend(self) -> Pipe | None:
        """An empty pipe, or None where there is none to be had: copy instead, it is no error."""
        if self._free:
            return self._free.pop()
        if self._skip:
            self._skip -= 1
            self._refused += 1
            return None
        return self._make()

    def take_back(self, pipe: Pipe) -> None:
        """Keep an empty pipe for the next loan."""
        self._free.append(pipe)

    def discard(self, pipe: Pipe) -> None:
        """Close a pipe that holds bytes: pooled, they would reach a stranger (I5)."""
        self._owned -= 1
        self._pages_left += pipe.size // PAGE
        self._skip = 0
        pipe.close()

    def _make(self) -> Pipe | None:
        wanted = self._wanted
        if self._pages_left < wanted // PAGE:
            wanted = min(wanted, DEFAULT_SIZE)
        if self._owned < self._max_pipes and self._pages_left >= wanted // PAGE:
            try:
                pipe = Pipe(wanted)
            except OSError:
                self._count_refusal()
                return None
            if pipe.size >= min(wanted, USEFUL_SIZE):
                self._owned += 1
                self._made += 1
                self._pages_left -= pipe.size // PAGE
                return pipe
            pipe.close()
        self._count_refusal()
        return None

    def _count_refusal(self) -> None:
        self._refused += 1
        self._skip = REFUSALS_SKIPPED

    def statistics(self) -> PipeStatistics:
        pooled = len(self._free)
        return PipeStatistics(self._owned - pooled, pooled, self._made, self._refused)

    def close(self) -> None:
        """Close the pooled pipes."""
        while self._free:
            self.discard(self._free.pop())
