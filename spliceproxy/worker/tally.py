"""What this worker counts of its sessions, into the cells of its region (telemetry/counters.py).

A session is counted once, at its end. What a long one moves is counted meanwhile too, once a
second: a round looks at all sessions, some of them in each turn of the loop, and passes over those
that moved nothing since the round before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from spliceproxy.telemetry.counters import (
    CONNECT,
    COPIED_DOWN,
    COPIED_UP,
    DURATION,
    FAILURE_WHYS,
    FAILURES,
    FIRST_BYTE,
    LAST,
    QUEUE,
    RETRIES,
    SIZE,
    SPLICED_DOWN,
    SPLICED_UP,
    TLS,
    TLS_FAILED,
    TLS_OK,
    Cell,
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

_DURATIONS: Final = DURATION + 1
_CONNECTS: Final = CONNECT + 1
_FIRST_BYTES: Final = FIRST_BYTE + 1
_SIZES: Final = SIZE + 1
"""The first buckets. A time in whole microseconds is rounded down, so that its bucket is one that
holds more than it: `bucket(took + 1)`."""
_FAILURES: Final = {why: FAILURES + number for number, why in enumerate(FAILURE_WHYS)}


class Counted:
    """What was counted of a session that lives, in bytes, and how fast it is (bytes per second)."""

    __slots__ = ("down", "rate_down", "rate_up", "spliced_down", "spliced_up", "up")

    def __init__(self) -> None:
        self.up = self.down = self.spliced_up = self.spliced_down = 0
        self.rate_up = self.rate_down = 0.0


class Tally:
    """The one who writes this worker's region."""

    __slots__ = ("_before", "_began", "_kinds", "_left", "_loop", "_took", "region", "slots")

    def __init__(self, region: Region, loop: Loop) -> None:
        self.region = region
        self.slots = region.slots
        self._kinds = region.kinds
        self._loop = loop
        self._left: list[Session] = []
        self._began = loop.now
        """The loop's time at which this round began, and the one before it."""
        self._before = 0.0
        self._took = 0.0
        """Seconds that this round has taken so far."""

    def on_connected(self, session: Session, upstream: Upstream) -> None:
        """Bytes can flow between the client and `upstream`."""
        cell, listener = upstream.cell, session.listener.name
        if cell is None or session.known is not None or upstream.counted_for is not listener:
            cell = self._cell(session, upstream.name)
            if session.known is None:
                upstream.counted_for, upstream.cell = listener, cell
        session.cell = cell
        self.slots[cell.at] += 1  # ACTIVE

    def on_left(self, session: Session) -> None:
        """It leaves its upstream for another one, and nothing of it is to be counted yet."""
        if session.cell is not None:
            self.slots[session.cell.at] -= 1
        session.cell = session.counted = None

    def on_try_failed(self, session: Session, upstream: Upstream, why: Why) -> None:
        """`upstream` could not be connected."""
        slot = _FAILURES.get(why, _FAILURES["connect_failed"])
        self.slots[self._cell(session, upstream.name).at + slot] += 1

    def on_handshake(self, session: Session, seconds: float | None) -> None:
        """TLS with the client has begun after `seconds`, or could not (None)."""
        slots, at = self.slots, self.region.cell(session.listener.name).at
        if seconds is None:
            slots[at + TLS_FAILED] += 1
        else:
            slots[at + TLS_OK] += 1
            self._observe(at + TLS, seconds)

    def on_refused(self, session: Session, closed_by: ClosedBy, how: How, why: Why) -> None:
        """It ended before it began."""
        slots, region = self.slots, self.region
        at = region.cell(session.listener.name).at
        slots[at + region.end(closed_by, how, why)] += 1
        slots[at + _DURATIONS] += 1  # it took no time

    def on_end(self, session: Session, closed_by: ClosedBy, how: How, why: Why) -> None:
        """It ended so. To be called while its parts are there.

        Each slot costs a tenth of a microsecond, and so does each call: hence the repetition.
        """
        slots, cell = self.slots, session.cell
        if cell is None:
            upstream = session.upstream
            at = self._cell(session, "" if upstream is None else upstream.name).at
        else:
            at = cell.at
            slots[at] -= 1  # ACTIVE
        end = self._kinds.get((closed_by, how, why))
        slots[at + (end or self.region.end(closed_by, how, why))] += 1
        if session.retries:
            slots[at + RETRIES] += session.retries
        if session.wait is not None and session.wait.seconds is not None:
            self._observe(at + QUEUE, session.wait.seconds)
        started = session.started
        took = int((self._loop.now - started) * 1e6)
        slots[at + DURATION] += took
        number = (took >> 6).bit_length()
        slots[at + _DURATIONS + (number if number < LAST else LAST)] += 1
        relay = session.relay
        if relay is None or session.connect_ms is None:
            return
        took = int(session.connect_ms * 1e3)
        slots[at + CONNECT] += took
        number = (took >> 6).bit_length()
        slots[at + _CONNECTS + (number if number < LAST else LAST)] += 1
        first = relay.first_byte_at
        if first is not None:
            took = int((first - started) * 1e6)
            slots[at + FIRST_BYTE] += took
            number = (took >> 6).bit_length()
            slots[at + _FIRST_BYTES + (number if number < LAST else LAST)] += 1
        size = self._count(at, relay, session.counted)
        slots[at + SIZE] += size
        number = (size - 1 >> 6).bit_length() if size else 0
        slots[at + _SIZES + (number if number < LAST else LAST)] += 1

    def _cell(self, session: Session, upstream: str) -> Cell:
        known = session.known
        route = "" if known is None or known.route is None else known.route
        pool = session.pool.name if session.preread is None else ""
        return self.region.cell(session.listener.name, route, pool, upstream)

    def _observe(self, at: int, seconds: float) -> None:
        """Put a time into the histogram at that slot."""
        slots, took = self.slots, int(seconds * 1e6)
        slots[at] += took
        slots[at + 1 + bucket(took + 1)] += 1

    def _count(self, at: int, relay: Relay, counted: Counted | None) -> int:
        """Count what was moved since the last time; the session's bytes, both ways."""
        slots, flow = self.slots, relay.up
        moved, spliced = flow.moved, flow.spliced
        if moved < 0:  # a part of the PROXY header is still to be sent
            moved = 0
        total = moved
        if counted is not None:
            moved, counted.up = moved - counted.up, moved
            spliced, counted.spliced_up = spliced - counted.spliced_up, spliced
            counted.rate_up = float(moved)
        if moved != spliced:
            slots[at + COPIED_UP] += moved - spliced
        if spliced:
            slots[at + SPLICED_UP] += spliced
        flow = relay.down
        moved, spliced = flow.moved, flow.spliced
        total += moved
        if counted is not None:
            moved, counted.down = moved - counted.down, moved
            spliced, counted.spliced_down = spliced - counted.spliced_down, spliced
            counted.rate_down = float(moved)
        if moved != spliced:
            slots[at + COPIED_DOWN] += moved - spliced
        if spliced:
            slots[at + SPLICED_DOWN] += spliced
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
            cell = session.cell
            if relay is None or cell is None:
                continue
            if relay.up.touched >= before or relay.down.touched >= before:
                if session.replays:
                    continue  # what this upstream was sent may not count
                if counted is None:
                    session.counted = counted = Counted()
                self._count(cell.at, relay, counted)
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
