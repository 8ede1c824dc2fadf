"""Once a second: the worker says that it lives, and how it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from spliceproxy.telemetry.board import HEARTBEAT
from spliceproxy.telemetry.counters import (
    BUSY,
    CPU,
    EVENTS,
    LAG,
    PIPES_LENT,
    PIPES_MADE,
    PIPES_POOLED,
    PIPES_REFUSED,
    WAKES,
)
from spliceproxy.worker.timers import Alarm

if TYPE_CHECKING:
    from spliceproxy.relay.pipes import PipePool, PipeStatistics
    from spliceproxy.worker.loop import Loop

INTERVAL: Final = 1.0
"""Seconds between two heartbeats; after five the supervisor thinks that the worker hangs."""


class Pulse:
    """Stamps the heartbeat, and writes down what the loop and the pipes count.

    Those numbers go on where a dead worker's ended; `pipes` may be set later.
    """

    __slots__ = (
        "_alarm",
        "_at_start",
        "_board",
        "_loop",
        "_slots",
        "_then",
        "pipes",
        "wall_offset",
    )

    def __init__(
        self, loop: Loop, board: memoryview, slots: memoryview, then: Callable[[], None]
    ) -> None:
        """`board` and `slots` are the worker's regions; `then` is called after each beat."""
        self._loop = loop
        self._board = board
        self._slots = slots
        self._then = then
        self._alarm = Alarm(self.beat)
        self._at_start = {
            index: slots[index] for index in (WAKES, EVENTS, BUSY, CPU, PIPES_MADE, PIPES_REFUSED)
        }
        self.pipes: PipePool | None = None
        self.wall_offset = 0.0
        """Add this to the loop's time to have seconds since the epoch."""

    def beat(self) -> None:
        """Beat now, and once a second from now on."""
        loop = self._loop
        self._board[HEARTBEAT] = time.monotonic_ns()
        self.wall_offset = time.time() - time.monotonic()
        loop.arm(self._alarm, loop.now + INTERVAL)
        self._slots[LAG] = int(loop.longest * 1e6)
        loop.longest = 0.0
        self._count(WAKES, loop.batches)
        self._count(EVENTS, loop.events)
        self._count(BUSY, int(loop.busy * 1e6))
        self._count(CPU, time.process_time_ns() // 1000)
        if self.pipes is not None:
            self._count_pipes(self.pipes.statistics())
        self._then()

    def _count_pipes(self, pipes: PipeStatistics) -> None:
        self._slots[PIPES_LENT] = pipes.lent
        self._slots[PIPES_POOLED] = pipes.pooled
        self._count(PIPES_MADE, pipes.made)
        self._count(PIPES_REFUSED, pipes.refused)

    def _count(self, index: int, number: int) -> None:
        """`number` since this process began, on top of what those before it counted."""
        self._slots[index] = self._at_start[index] + number
