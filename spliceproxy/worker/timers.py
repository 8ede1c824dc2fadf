"""Deadlines for tens of thousands of sessions.

Almost every timeout of a proxy is set and never fires, and "idle" moves with each byte. So a
session is not moved from slot to slot: an event stores the time in one attribute, and when the
old deadline comes the session looks what its deadline has become, and is put there. Only a
deadline that comes earlier (one side's FIN: half_close in place of idle) moves it at once.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from math import inf
from typing import Final, Protocol

TICK: Final = 0.05
"""Seconds of one slot: a timer is never early, and late by this at the most."""
COARSE_AFTER: Final = 10.0
"""Deadlines that are further away than this, in seconds, share the slots of whole seconds."""
COARSE: Final = round(1 / TICK)
AT_ONCE: Final = 32
"""Timers that are called before the loop looks at its events again: ten thousand clients that fall
silent together share one slot, and to end them all takes longer than anybody else should wait."""


class Timer(Protocol):
    """Something with a deadline. `slot` belongs to the wheel; 0 means that it is not armed."""

    slot: int

    def on_deadline(self, now: float) -> None:
        """The deadline that was armed has come. Arm again where it has moved since."""


class Alarm:
    """A timer that calls something, once for each time that it is armed."""

    __slots__ = ("_call", "slot")

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self.slot = 0

    def on_deadline(self, _now: float) -> None:
        self._call()


class Wheel:
    """Slots of timers by time, the earliest one known. Times are the loop's, in seconds.

    `next` is when `expire` has something to do: the time of the earliest slot, which may have been
    emptied meanwhile, or inf. It is an attribute because the loop looks at it in every batch.
    """

    __slots__ = ("_order", "_slots", "next")

    def __init__(self) -> None:
        self.next = inf
        self._slots: dict[int, set[Timer]] = {}
        self._order: list[int] = []

    def arm(self, timer: Timer, now: float, deadline: float) -> None:
        """Call `timer` at `deadline`, unless it is armed for an earlier time already."""
        slot = int((deadline if deadline > now else now) / TICK) + 1  # a slot yet to come
        if deadline - now > COARSE_AFTER:
            slot += -slot % COARSE
        if timer.slot:
            if timer.slot <= slot:
                return
            self.disarm(timer)
        timer.slot = slot
        try:
            self._slots[slot].add(timer)
        except KeyError:
            self._slots[slot] = {timer}
            heapq.heappush(self._order, slot)
            self.next = self._order[0] * TICK

    def disarm(self, timer: Timer) -> None:
        """Forget a timer, armed or not, so that nothing keeps it alive."""
        if timer.slot:
            self._slots[timer.slot].discard(timer)
            timer.slot = 0

    def expire(self, now: float, on_failure: Callable[[object, Exception], None]) -> None:
        """Call AT_ONCE timers whose slot has come; `on_failure(timer, error)` where one raises.

        While more of them are left, `next` is not later than `now`.
        """
        order = self._order
        left = AT_ONCE
        while left and order and order[0] * TICK <= now:
            # What is armed meanwhile goes to later slots; what is disarmed may be in this one.
            timers = self._slots[order[0]]
            while timers and left:
                left -= 1
                timer = timers.pop()
                timer.slot = 0
                try:
                    timer.on_deadline(now)
                except Exception as error:
                    on_failure(timer, error)
            if not timers:
                del self._slots[heapq.heappop(order)]
        while order and not self._slots[order[0]]:
            del self._slots[heapq.heappop(order)]
        self.next = order[0] * TICK if order else inf
