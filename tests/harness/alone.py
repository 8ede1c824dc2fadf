"""Tests that run beside others in other processes, and those few that must not.

Each ordinary test shares the room with the others; a test marked `alone` has it to itself, because
it measures time, or takes so much of the machine that others would measure wrongly. Who wants to be
alone waits at the door, and lets nobody in behind: it waits for one test of each process at most.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HERE = Path(__file__).resolve().parent


class Room:
    """The room that all test processes of a checkout share: two locks (flock(2)), on directories
    that are there anyway. A process that dies gives them up."""

    def __init__(self, door: Path = _HERE, room: Path = _HERE.parent) -> None:
        self._door = os.open(door, os.O_RDONLY | os.O_CLOEXEC)
        self._room = os.open(room, os.O_RDONLY | os.O_CLOEXEC)

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Be in it, with whoever else is."""
        fcntl.flock(self._door, fcntl.LOCK_EX)
        fcntl.flock(self._room, fcntl.LOCK_SH)
        fcntl.flock(self._door, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._room, fcntl.LOCK_UN)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be in it, once everybody else has left."""
        fcntl.flock(self._door, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._room, fcntl.LOCK_EX)
            yield
        finally:
            fcntl.flock(self._room, fcntl.LOCK_UN)
            fcntl.flock(self._door, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give up both locks."""
        os.close(self._door)
        os.close(self._room)
