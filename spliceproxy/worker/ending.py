"""Sessions that are ended on purpose: by upstream or by listener, at once or over a time.

An order looks through the sessions once, and ends those that are meant. Where it has time, it puts
them in a heap by the time of their last byte instead. A session that spoke since it was put there
has a later time now, and goes back when it comes to the top: so who is silent longest is found
without looking at all of them again. Between two ends lies the time that is left, shared among
the sessions that are left, as the board counts them: those that end by themselves make the others'
turn come later. Each pause is made longer or shorter by lot, so
that the clients, who come back by another way, do not march in step, nor the workers.

No batch of events waits for an order for longer than LOOKS or ENDS take.
"""

from __future__ import annotations

import random
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Final, cast

from spliceproxy.ipc import End, Spare
from spliceproxy.telemetry.board import listener_sessions
from spliceproxy.telemetry.record import Why

if TYPE_CHECKING:
    from spliceproxy.worker.session import Session
    from spliceproxy.worker.worker import Worker

LOOKS: Final = 2000
"""Sessions that are looked at in one turn: two milliseconds."""
ENDS: Final = 100
"""Sessions that are ended in one turn: some milliseconds."""
LONGEST_SLEEP: Final = 5.0
"""Seconds: the wheel is exact to a tick only for what is near."""
_JITTER: Final = 0.5
"""The share by which a pause is made longer or shorter."""


class Endings:
    """The orders that this worker has not carried out yet."""

    __slots__ = ("_orders", "_random", "_worker")

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._random = random.Random()
        self._orders: list[_Order] = []

    def begin(self, message: End) -> None:
        """Carry this order out from now on, beside those that run."""
        self._orders = [order for order in self._orders if not order.over]
        order = _Order(self._worker, message, self._random)
        self._orders.append(order)
        order.start()

    def spare(self, message: Spare) -> None:
        """Leave these out of the orders that run."""
        for order in self._orders:
            order.spare(message)
        self._orders = [order for order in self._orders if not order.over]


class _Order:
    """One order. `slot` belongs to the timers."""

    __slots__ = (
        "_deadline",
        "_final",
        "_heap",
        "_listeners",
        "_next",
        "_numbers",
        "_random",
        "_searches",
        "_to_look_at",
        "_upstreams",
        "_why",
        "_worker",
        "over",
        "slot",
    )

    def __init__(self, worker: Worker, message: End, random: random.Random) -> None:
        self._worker = worker
        self._why = cast("Why", message.why)
        self._upstreams = set(message.upstreams)
        self._listeners = set(message.listeners)
        self._random = random
        self._deadline = worker.loop.now + message.over
        self._next = worker.loop.now
        """When the next one ends."""
        self._to_look_at: list[Session] = []
        self._heap: list[tuple[float, int, Session]] = []
        """The time of the last byte that was known, a number that orders equals, the session."""
        self._numbers = count()
        self._searches = LOOKS
        """Sessions that may go back into the heap in this turn."""
        self._final = False
        """The deadline has come: all that are left end."""
        self.over = False
        self.slot = 0

    def start(self) -> None:
        self._to_look_at = list(self._worker.sessions)
        self._next += self._pause(self._left())
        self._work()

    def spare(self, message: Spare) -> None:
        """Leave these out; where nothing is left, the order is over."""
        self._upstreams.difference_update(message.upstreams)
        self._listeners.difference_update(message.listeners)
        if not self._upstreams and not self._listeners:
            self._finish()

    def on_deadline(self, _now: float) -> None:
        self._work()

    def _finish(self) -> None:
        self.over = True
        self._worker.loop.wheel.disarm(self)
        self._to_look_at = []
        self._heap = []

    def _means(self, session: Session) -> bool:
        """Whether this session is to end, and lives."""
        if session not in self._worker.sessions:
            return False
        if session.parting and self._why != "drained":
            return False  # what is on its way yet is not the upstream's to lose
        if session.listener.plan.slot in self._listeners:
            return True
        upstream = session.with_upstream
        return upstream is not None and upstream.slot in self._upstreams

    def _left(self) -> int:
        """Sessions of this worker that are meant, as the board counts them."""
        worker = self._worker
        by_upstream, region = worker.upstream_sessions, worker.region
        return sum(by_upstream[slot] for slot in self._upstreams) + sum(
            region[listener_sessions(slot)] for slot in self._listeners
        )

    def _pause(self, left: int) -> float:
        """Seconds until the next one ends, where so many are left."""
        time = max(0.0, self._deadline - self._next)
        share = self._random.uniform(1 - _JITTER, 1 + _JITTER)
        return min(time, time * share / max(1, left))

    def _work(self) -> None:
        """One turn, and when the next one is."""
        if self.over:
            return
        busy = False
        loop = self._worker.loop
        if not self._final and loop.now >= self._deadline:
            self._final = True
            self._heap = []
            self._to_look_at = list(self._worker.sessions)
        if self._to_look_at:
            busy = True
            self._look()
        elif self._final:
            self._finish()
            return
        else:
            busy = self._end_some()
        if busy:
            loop.run_again(self._work)
        else:
            loop.arm(self, min(self._next, self._deadline, loop.now + LONGEST_SLEEP))

    def _look(self) -> None:
        """Look at some sessions: those that are meant get into the heap; in the end, they end."""
        todo = self._to_look_at
        ended = 0
        for _ in range(min(LOOKS, len(todo))):
            session = todo.pop()
            if not self._means(session):
                continue
            if not self._final:
                heappush(self._heap, (_last_byte(session), next(self._numbers), session))
                continue
            self._end(session)
            ended += 1
            if ended == ENDS:
                break

    def _end_some(self) -> bool:
        """End those whose turn has come. True: there is more to do."""
        now = self._worker.loop.now
        left = self._left()
        self._searches = LOOKS
        for _ in range(ENDS):
            if self._next > now:
                return False
            session = self._most_idle()
            if session is not None:
                self._end(session)
                left -= 1
            self._next += self._pause(left)
            if session is None:
                # Others may have come: clients who waited to be accepted.
                self._to_look_at = list(self._worker.sessions) if left > 0 else []
                break
        return True

    def _most_idle(self) -> Session | None:
        """Take the session that is silent longest out of the heap."""
        heap = self._heap
        while heap:
            known, number, session = heappop(heap)
            if not self._means(session):
                continue
            last = _last_byte(session)
            # Of thousands that all speak all the time, none is worth a long search.
            if last == known or self._searches <= 0:
                return session
            self._searches -= 1
            heappush(heap, (last, number, session))
        return None

    def _end(self, session: Session) -> None:
        try:
            if session.listener.plan.slot in self._listeners:
                session.abort(self._why)
            else:
                session.leave_upstream(self._why)
                # Of a pool that is gone, it went to one that is to be left as well.
                while self._why == "removed" and self._means(session):
                    session.leave_upstream(self._why)
        except Exception as error:
            self._worker.on_failure(session, error)


def _last_byte(session: Session) -> float:
    """The loop's time at which a session last moved a byte, or began; inf: the last bytes are on
    their way, and nothing else is left of it."""
    if session.parting:
        return inf
    relay = session.relay
    return session.started if relay is None else max(relay.up.touched, relay.down.touched)
