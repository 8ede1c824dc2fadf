"""What happened lately: the supervisor's log from level info on, and what its workers warn of, for
whoever looks or follows.

It is the log that is told, so that an operator reads the same words everywhere, whatever level is
written. A follower who is slow loses the oldest lines of those that wait for him, and nobody waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import orjson

from spliceproxy.config.problems import without_values
from spliceproxy.telemetry.tap import Line

if TYPE_CHECKING:
    from spliceproxy.control.worker_process import WorkerProcess

KEPT = 500
"""Lines that are remembered."""
WAITING = 1000
"""Lines that wait for one follower, at most."""


class Events:
    """The last lines, and those who follow. `take` is for any thread, all else for the loop's."""

    def __init__(self) -> None:
        self._lines: deque[Line] = deque(maxlen=KEPT)
        # Replaced as a whole, as other threads read it.
        self._subscriptions: tuple[EventSubscription, ...] = ()

    def take(self, line: Line) -> None:
        """Remember a line, and tell it to all who follow: what `log.tap` calls.

        What is wrong with a file is told without its lines: they may hold what only those may see
        who can read the file, or the log.
        """
        if isinstance(problems := line.get("problems"), list):
            line = {**line, "problems": without_values(problems)}
        self._lines.append(line)
        for subscription in self._subscriptions:
            subscription.tell(line)

    def take_warning(self, worker: WorkerProcess, line: str) -> None:
        """The same with what a worker warns of: the log has it already."""
        self.take({**orjson.loads(line), "worker": worker.index})

    def recent(self) -> list[Line]:
        """The last KEPT lines, the oldest first."""
        return list(self._lines.copy())

    def subscribe(self) -> EventSubscription:
        """Follow from now on, in the running event loop; to be closed by the caller."""
        subscription = EventSubscription(self)
        self._subscriptions = (*self._subscriptions, subscription)
        return subscription

    def leave(self, subscription: EventSubscription) -> None:
        """This one follows no more."""
        self._subscriptions = tuple(one for one in self._subscriptions if one is not subscription)


class EventSubscription:
    """Iterates over the lines from its beginning on, until it is closed."""

    def __init__(self, events: Events) -> None:
        self.lost = 0
        """Lines that were dropped, because others came before anybody took them."""
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._lines: deque[Line] = deque()
        self._news = asyncio.Event()
        self._closed = False

    def tell(self, line: Line) -> None:
        """From any thread: one more line."""
        with suppress(RuntimeError):  # the loop is closed, and nobody listens
            self._loop.call_soon_threadsafe(self._put, line)

    def close(self) -> None:
        """End the iteration; lines that wait are dropped."""
        self._events.leave(self)
        self._closed = True
        self._lines.clear()
        self._news.set()

    def __aiter__(self) -> EventSubscription:
        return self

    async def __anext__(self) -> Line:
        while not self._lines:
            if self._closed:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._lines.popleft()

    def _put(self, line: Line) -> None:
        if self._closed:
            return
        if len(self._lines) == WAITING:
            self._lines.popleft()
            self.lost += 1
        self._lines.append(line)
        self._news.set()
