"""Clients that wait for a place with a pool, in the order in which they came.

1. Who comes while others wait goes behind them. A session whose connect failed came before them,
   but not every place is one for it: those wait in a line of their own, which is served first, and
   neither line holds up the other.
2. A place that is freed in this worker goes to the next one in the same batch, though not in the
   same call: whoever frees it may take another one himself, and many that fail must not nest.
3. What other workers free, and what the supervisor says of upstreams, comes without an event. So a
   queue looks at each tick of the timers (50 ms) while somebody waits, and has no timer otherwise.
4. A reload gives the queue to the new pool of its name; who waits goes there when its turn comes.
   Where that pool has no queue any more, all are served or sent away at once.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING, Final

from spliceproxy.telemetry.record import Why
from spliceproxy.worker.loop import Loop

if TYPE_CHECKING:
    from spliceproxy.worker.connector import Connector
    from spliceproxy.worker.pool import Pool

TURNS: Final = 64
"""Sessions that are served, or sent away, in one go; the next ones after a look at epoll."""
LOOKS: Final = 64
"""Sessions that are looked at for a place which those before them have tried already."""


class Wait:
    """What one session has to do with the queue. Once over, it refers to nobody and can be kept."""

    __slots__ = ("line", "past_it", "queue", "seconds", "since", "why")

    def __init__(self) -> None:
        self.queue: Queue | None = None
        """Where it waits now, and in which of its lines."""
        self.line: OrderedDict[Connector, None] | None = None
        self.since = 0.0
        """The loop's time at which it began to wait there."""
        self.seconds: float | None = None
        """How long it has waited before that; None: never."""
        self.past_it = False
        """It had its turn: what comes now is a matter of connecting."""
        self.why: Why = "no_upstream"
        """What it ends with where waiting has become useless."""


class Queue:
    """The queue of one pool in one worker. Joining, leaving and being served cost O(1)."""

    __slots__ = ("_again", "_counts", "_first", "_loop", "_woken", "pool", "slot")

    def __init__(self, pool: Pool, loop: Loop, counts: memoryview) -> None:
        """Who waits is counted in `counts`, this worker's, at the slot of the pool."""
        self.pool = pool
        self.slot = 0
        self._loop = loop
        self._counts = counts
        self._again: OrderedDict[Connector, None] = OrderedDict()
        self._first: OrderedDict[Connector, None] = OrderedDict()
        self._woken = False

    @property
    def waiting(self) -> int:
        """How many sessions wait."""
        return len(self._first) + len(self._again)

    def join(self, connector: Connector, wait: Wait) -> Why | None:
        """Have a session wait, which is not connecting: None, or what it ends with instead."""
        plan = self.pool.plan.queue
        if plan is None or not self._hope(connector.tried):
            return wait.why
        wait.past_it = False
        if self.waiting >= plan.size:
            return "queue_full"
        wait.queue = self
        wait.line = line = self._again if connector.tried else self._first
        wait.since = self._loop.now
        line[connector] = None
        self._counts[self.pool.plan.slot] += 1
        if len(line) == 1:
            self.wake()
        return None

    def leave(self, connector: Connector, wait: Wait) -> None:
        """It waits no more, whether served or not."""
        line = wait.line
        if line is not None:
            wait.queue = wait.line = None
            wait.seconds = (wait.seconds or 0.0) + self._loop.now - wait.since
            del line[connector]
            self._counts[self.pool.plan.slot] -= 1
            if not self._first and not self._again:
                self._loop.wheel.disarm(self)

    def wake(self) -> None:
        """A place may be free: serve at the end of this batch."""
        if not self._woken:
            self._woken = True
            self._loop.run_again(self._serve)

    def on_deadline(self, _now: float) -> None:
        """A tick: places may have come without an event."""
        self.pool.look_around()
        self._serve()

    def move_to(self, pool: Pool) -> None:
        """`pool` takes the place of the one before."""
        waiting = self.waiting
        self._counts[self.pool.plan.slot] -= waiting
        self._counts[pool.plan.slot] += waiting
        self.pool = pool
        if waiting:
            self.wake()

    def _serve(self) -> None:
        """Give the free places to those whose turn it is."""
        self._woken = False
        for _ in range(TURNS):
            if not (self._serve_one(self._again, LOOKS) or self._serve_one(self._first, 1)):
                break
        else:
            self.wake()
        if not self.slot and self.waiting:
            self._loop.arm(self, self._loop.now)  # the next tick

    def _serve_one(self, line: OrderedDict[Connector, None], looks: int) -> bool:
        """Serve, or send away, the first one of a line for whom that can be; False: all wait on."""
        refused: set[tuple[int, ...]] = set()
        for connector in islice(line, looks):
            if connector.tried in refused:
                continue
            if connector.take_turn(self.pool) or not self._hope(connector.tried):
                self._loop.guarded(connector.on_turn)
                return True
            refused.add(connector.tried)
        return False

    def _hope(self, tried: tuple[int, ...]) -> bool:
        """Whether one who tried these may come to be served."""
        pool = self.pool
        plan = pool.plan.queue
        if plan is None:
            return False
        return pool.is_full(tried) or (plan.when_down and (not tried or pool.has_others(tried)))


def queue_of(pool: Pool, before: Pool | None, loop: Loop, counts: memoryview) -> Queue | None:
    """The queue of a new pool: that of the pool `before` it, where that one had any.

    Sessions of `before` that are still connecting, and places that its sessions free, belong to the
    same queue from now on.
    """
    queue = None if before is None else before.queue
    if queue is not None:
        queue.move_to(pool)
    elif pool.plan.queue is not None:
        queue = Queue(pool, loop, counts)
        if before is not None:
            before.queue = queue
    return None if pool.plan.queue is None else queue
