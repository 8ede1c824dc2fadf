"""What this worker counts of its sessions, into the cells of its region (telemetry/counters.py).

A session is counted once, at its end. What a long one moves is counted meanwhile too, once a
second: a round looks at all sessions, some of them in each turn of the loop, and passes over those
that moved nothing since the round before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from spliceproxy.telemetry.counters import (
    ACTIVE,
    BYTES_DOWN,
    BYTES_UP,
    CONNECT,
    DURATION,
    FAILURE_WHYS,
    FAILURES,
    FIRST_BYTE,
    QUEUE,
    RETRIES,
    SIZE,
    SPLICED_DOWN,
    SPLICED_UP,
    TLS,
    TLS_FAILED,
    TLS_OK,
    Region,
    bucket,
)

if TYPE_CHECKING:
    from spliceproxy.ipc import Snapshot
    from spliceproxy.relay.relay import Relay
    from spliceproxy.telemetry.record import ClosedBy, How, Why
    from spliceproxy.worker.loop import Loop
    from spliceproxy.worker.pool import Upstream
    from spliceproxy.worker.session import Session

ROUND: Final = 1.0
"""Seconds between two rounds, at the least."""
LOOKS: Final = 1000
"""Sessions that are looked at in one turn: a third of a millisecond where they are idle."""
SHARE: Final = 0.005
"""Share of the time that rounds may take: with very many sessions they come less often."""

_FAILURES: Final = {why: FAILURES + number for number, why in enumerate(FAILURE_WHYS)}


class Counted:
    """What was counted of a session that lives, in bytes, and how fast it is (bytes per second)."""

    __slots__ = ("down", "rate_down", "rate_up", "spliced_down", "spliced_up", "up")

    def __init__(self) -> None:
        self.up = self.down = self.spliced_up = self.spliced_down = 0
        self.rate_up = self.rate_down = 0.0


class Tally:
    """The one who writes this worker's region."""

    __slots__ = ("_before", "_began", "_left", "_loop", "_took", "region", "slots")

    def __init__(self, region: Region, loop: Loop) -> None:
        self.region = region
        self.slots = region.slots
        self._loop = loop
        self._left: list[Session] = []
        self._began = loop.now
        """The loop's time at which this round began, and the one before it."""
        self._before = 0.0
        self._took = 0.0
        """Seconds that this round has taken so far."""

    def on_connected(self, session: Session, upstream: Upstream) -> None:
        """Bytes can flow between the client and `upstream`."""
        session.cell = cell = self._cell(session, upstream.name)
        self.slots[cell + ACTIVE] += 1

    def on_left(self, session: Session) -> None:
        """It leaves its upstream for another one, and nothing of it is to be counted yet."""
        self.slots[session.cell + ACTIVE] -= 1
        session.cell = 0
        session.counted = None

    def on_try_failed(self, session: Session, upstream: Upstream, why: Why) -> None:
        """`upstream` could not be connected."""
        slot = _FAILURES.get(why, _FAILURES["connect_failed"])
        self.slots[self._cell(session, upstream.name) + slot] += 1

    def on_handshake(self, session: Session, seconds: float | None) -> None:
        """TLS with the client has begun after `seconds`, or could not (None)."""
        slots, cell = self.slots, self.region.cell(session.listener.name)
        if seconds is None:
            slots[cell + TLS_FAILED] += 1
        else:
            slots[cell + TLS_OK] += 1
            self._observe(cell + TLS, int(seconds * 1e6))

    def on_refused(self, session: Session, closed_by: ClosedBy, how: How, why: Why) -> None:
        """It ended before it began."""
        slots, region = self.slots, self.region
        cell = region.cell(session.listener.name)
        slots[cell + region.end(closed_by, how, why)] += 1
        slots[cell + DURATION + 1] += 1  # it took no time

    def on_end(self, session: Session, closed_by: ClosedBy, how: How, why: Why) -> None:
        """It ended so. To be called while its parts are there."""
        slots, cell = self.slots, session.cell
        if cell:
            slots[cell + ACTIVE] -= 1
        else:
            upstream = session.upstream
            cell = self._cell(session, "" if upstream is None else upstream.name)
        slots[cell + self.region.end(closed_by, how, why)] += 1
        if session.retries:
            slots[cell + RETRIES] += session.retries
        if session.wait is not None and session.wait.seconds is not None:
            self._observe(cell + QUEUE, int(session.wait.seconds * 1e6))
        started = session.started
        self._observe(cell + DURATION, int((self._loop.now - started) * 1e6))
        relay = session.relay
        if relay is not None:
            if session.connect_ms is not None:
                self._observe(cell + CONNECT, int(session.connect_ms * 1e3))
            if relay.first_byte_at is not None:
                self._observe(cell + FIRST_BYTE, int((relay.first_byte_at - started) * 1e6))
            self._observe(cell + SIZE, self._count(cell, relay, session.counted))

    def _cell(self, session: Session, upstream: str) -> int:
        known = session.known
        route = "" if known is None or known.route is None else known.route
        pool = session.pool.name if session.preread is None else ""
        return self.region.cell(session.listener.name, route, pool, upstream)

    def _observe(self, at: int, value: int) -> None:
        """Put a value into the histogram at that slot."""
        slots = self.slots
        slots[at] += value
        slots[at + 1 + bucket(value)] += 1

    def _count(self, cell: int, relay: Relay, counted: Counted | None) -> int:
        """Count what was moved since the last time; the session's bytes, both ways."""
        slots, up_flow, down_flow = self.slots, relay.up, relay.down
        # Negative: a part of the PROXY header is still to be sent.
        up, down = max(0, up_flow.moved), down_flow.moved
        spliced_up, spliced_down = up_flow.spliced, down_flow.spliced
        total = up + down
        if counted is not None:
            up, counted.up = up - counted.up, up
            down, counted.down = down - counted.down, down
            spliced_up, counted.spliced_up = spliced_up - counted.spliced_up, spliced_up
            spliced_down, counted.spliced_down = spliced_down - counted.spliced_down, spliced_down
            counted.rate_up, counted.rate_down = float(up), float(down)
        if up:
            slots[cell + BYTES_UP] += up
        if down:
            slots[cell + BYTES_DOWN] += down
        if spliced_up:
            slots[cell + SPLICED_UP] += spliced_up
        if spliced_down:
            slots[cell + SPLICED_DOWN] += spliced_down
        return total

    def begin_round(self, sessions: Iterable[Session]) -> None:
        """Count what these moved, unless the last round has not ended, or was not long ago."""
        now = self._loop.now
        if self._left or now - self._began < max(ROUND / 2, self._took / SHARE):
            return
        self._before, self._began, self._took = self._began, now, 0.0
        self._left = list(sessions)
        self._work()

    def _work(self) -> None:
        """Look at some of those that are left."""
        left, before = self._left, self._before
        began = self._loop.clock()
        passed = max(self._began - before, ROUND / 2)
        for _ in range(min(LOOKS, len(left))):
            session = left.pop()
            relay, counted = session.relay, session.counted
            if relay is None or not session.cell:
                continue
            if relay.up.touched >= before or relay.down.touched >= before:
                if session.replays:
                    continue  # what this upstream was sent may not count
                if counted is None:
                    session.counted = counted = Counted()
                self._count(session.cell, relay, counted)
                counted.rate_up /= passed
                counted.rate_down /= passed
            elif counted is not None:
                counted.rate_up = counted.rate_down = 0.0
        self._took += self._loop.clock() - began
        if left:
            self._loop.run_again(self._work)

    def keep(self, snapshot: Snapshot) -> None:
        """Let go of what left the configuration, where that has become much."""
        listeners = {listener.name for listener in snapshot.listeners}
        pools = {pool.name: {one.name for one in pool.upstreams} for pool in snapshot.pools}
        self.region.keep(
            lambda key: (
                key.listener in listeners
                and key.pool in pools
                and (not key.upstream or key.upstream in pools[key.pool])
            )
        )
