"""What the results of checks mean. Pure: no socket, no clock.

1. An upstream is up or down; at first it is what its founder says.
2. The first result decides alone: an upstream that fails it is down, one that passes it is up.
3. Later, `fall` failures in a row take it down and `rise` passes in a row bring it up.
4. A single result that agrees with the state ends the row.
"""

from __future__ import annotations

_FASTEST = 0.2
"""Seconds between two checks while a state is changing, at least, unless `interval` is shorter."""


class HealthState:
    """Whether one upstream is up, and how many results in a row say otherwise."""

    __slots__ = ("known", "row", "up")

    def __init__(self, *, up: bool) -> None:
        self.up = up
        self.known = False
        """A check has decided it."""
        self.row = 0
        """Results in a row that contradict `up`."""

    def observe(self, passed: bool, rise: int, fall: int) -> bool:
        """Take one result; whether the upstream went up or down by it, or first proved down."""
        if not self.known:
            self.known = True
            news = not passed or not self.up
            self.up = passed
            return news
        if passed == self.up:
            self.row = 0
            return False
        self.row += 1
        if self.row < (rise if passed else fall):
            return False
        self.up, self.row = passed, 0
        return True

    def pause(self, interval: float) -> float:
        """Seconds from the start of the last check to that of the next: shorter while a state is
        changing, so that the decision comes soon."""
        return min(interval, max(_FASTEST, interval / 2)) if self.row else interval
