"""When each upstream is asked: a heap of due times, one timer, and tasks only for what runs."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T", bound=Hashable)

MOST_AT_ONCE = 256
"""Checks that run at the same time."""
_BURST = 32
"""Checks that are begun in one turn of the event loop, so that signals do not wait."""


class CpuBudget:
    """Keeps checks within a share of one CPU, whatever a check costs. Pure: it has no clock."""

    def __init__(self, share: float = 0.5, reserve: float = 0.2) -> None:
        """`share` of a CPU; `reserve` are seconds of it that may be used in advance."""
        self._share = share
        self._reserve = reserve
        self._left = reserve
        self._now: float | None = None
        self._cpu = 0.0

    def wait(self, now: float, cpu: float) -> float:
        """Seconds until the next check may begin; 0: at once. `cpu`: seconds used so far."""
        if self._now is not None:
            earned = self._share * (now - self._now) - (cpu - self._cpu)
            self._left = min(self._reserve, self._left + earned)
        self._now, self._cpu = now, cpu
        return 0.0 if self._left > 0 else (0.001 - self._left) / self._share


class Schedule(Generic[T]):
    """Runs what is due, the longest due first, and never more than a few at once."""

    def __init__(
        self,
        run: Callable[[T, float], Coroutine[Any, Any, float]],
        *,
        most: int = MOST_AT_ONCE,
        budget: CpuBudget | None = None,
    ) -> None:
        """`run(item, late)` asks once, `late` seconds after it was due, and returns the loop's
        time at which the next turn is due. It must not raise."""
        self._run = run
        self._most = most
        self._budget = budget or CpuBudget()
        self._loop = asyncio.get_running_loop()
        self._heap: list[tuple[float, int, T]] = []
        self._count = 0
        self._items: dict[T, asyncio.Task[float] | None] = {}
        self._running = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, item: T, due: float) -> None:
        """Run `item` from the loop's time `due` on."""
        self._items[item] = None
        self._push(item, due)
        self._arm(due)

    def remove(self, item: T) -> None:
        """Run it no more; what runs is cancelled."""
        task = self._items.pop(item)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Cancel all that runs, and wait for its end, which is at once."""
        tasks = [task for task in self._items.values() if task is not None]
        self._items.clear()
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _push(self, item: T, due: float) -> None:
        self._count += 1
        heapq.heappush(self._heap, (due, self._count, item))

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._turn)

    def _turn(self) -> None:
        self._timer = None
        now = self._loop.time()
        wait = self._budget.wait(now, time.thread_time())
        begun = 0
        while self._heap and self._running < self._most:
            due, _, item = self._heap[0]
            at = max(due, now + wait)
            if at > now or begun == _BURST:
                self._arm(at)
                return
            heapq.heappop(self._heap)
            if item in self._items:
                self._begin(item, now - due)
                begun += 1

    def _begin(self, item: T, late: float) -> None:
        task = self._loop.create_task(self._run(item, late))
        self._items[item] = task
        self._running += 1

        def over(_task: asyncio.Task[float]) -> None:
            self._running -= 1
            if self._items.get(item) is task:
                self._items[item] = None
                self._push(item, task.result())
            if self._heap:
                self._arm(self._heap[0][0])

        task.add_done_callback(over)
