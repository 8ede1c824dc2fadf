"""A flow that is not to be faster than so many bytes per second, where the kernel cannot see to it.

TCP paces by itself (SO_MAX_PACING_RATE); UNIX sockets do not. So each turn moves a slice at the
most, and what it moved says when the next one is due. Until then the flow is paused: its source is
muted, as for a destination that is full, and a timer wakes it. Nothing is held meanwhile, so that
all other rules are those of any flow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from spliceproxy.relay.flow import Flow
from spliceproxy.relay.verdicts import PAUSED

if TYPE_CHECKING:
    from spliceproxy.relay.relay import Relay

SLICE: Final = 0.1
"""Seconds of its rate that one turn of a flow may take."""
LATE: Final = 0.2
"""Seconds by which a turn may come late and still be made up for: a timer is late by a tick."""


class Timers(Protocol):
    """A reactor that has timers."""

    now: float

    def arm(self, timer: PacedFlow, deadline: float) -> None:
        """Call `timer.on_deadline` at `deadline`, unless it is armed for an earlier time."""


class PacedFlow(Flow):
    """One direction, at `rate` bytes per second. It always copies: a pipe cannot be cut to size.

    What it has beside a flow lies in a dictionary, not in slots: so a flow of another kind can be
    a slow one too. `slot` belongs to the timers.
    """

    _due: float
    _slice: int
    rate: int
    timers: Timers
    slot: int

    def pace(self, timers: Timers, rate: int) -> None:
        """Move `rate` bytes per second at the most. To be called before it begins."""
        self.slot = 0
        self.timers = timers
        self.rate = rate
        self._slice = max(1, int(rate * SLICE))
        self._due = 0.0

    def _promote(self) -> bool:
        return False

    def _move_copy(self, budget: int, view: memoryview) -> int:
        now = self.timers.now
        if self._due > now:
            self.timers.arm(self, self._due)
            return PAUSED
        before = self.moved
        verdict = super()._move_copy(min(budget, self._slice), view[: self._slice])
        taken = self.moved + self.blocked - before
        self._due = max(self._due, now - LATE) + taken / self.rate
        return verdict

    @property
    def blocked(self) -> int:
        """Bytes of the last turn that the destination had no room for."""
        return self.held

    def on_deadline(self, _now: float) -> None:
        """The next turn is due, unless the flow has ended."""
        if not self.end and not self.queued:
            self.resume()


def slow_down(relay: Relay, flow: Flow, timers: Timers, rate: int) -> None:
    """Have a flow of `relay`, which has not begun, move `rate` bytes per second at the most."""
    paced, twin = PacedFlow(flow.src, flow.dst, flow.means, flow.reactor), flow.twin
    paced.pace(timers, rate)
    paced.twin, paced.relay, twin.twin = twin, relay, paced
    if flow is relay.up:
        relay.up = paced
    else:
        relay.down = paced
