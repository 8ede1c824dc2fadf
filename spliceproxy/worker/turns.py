"""Calls that take long: each round of the loop spends so much time on them and no more, so that
sessions that have bytes to move wait no longer than that."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from spliceproxy.worker.loop import Loop

ROUND: Final = 0.001
"""Seconds of such calls in one round of the loop."""


class Turns:
    """Calls that take long, in the order in which they came, some of them in each round."""

    __slots__ = ("_calls", "_loop")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._calls: deque[Callable[[], None]] = deque()

    def add(self, call: Callable[[], None]) -> None:
        """Call when its turn has come: in this round or in a later one."""
        if not self._calls:
            self._loop.run_again(self._work)
        self._calls.append(call)

    def _work(self) -> None:
        calls, guarded = self._calls, self._loop.guarded
        until = monotonic() + ROUND
        while calls:
            guarded(calls[0])
            calls.popleft()
            if monotonic() >= until:
                break
        if calls:
            self._loop.run_again(self._work)
