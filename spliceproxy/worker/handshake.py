"""The TLS handshake with a client: between the route that it takes and the search for an upstream.

A signature takes from a thirtieth of a millisecond to a whole one, and clients come in crowds: so
each step waits for its turn among those of all handshakes (`worker/turns.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from select import EPOLLIN, EPOLLOUT
from socket import AF_UNIX, SHUT_WR
from time import monotonic
from typing import TYPE_CHECKING, Final

from spliceproxy.relay.flow import TROUBLE
from spliceproxy.relay.relay import interest
from spliceproxy.relay.tls_end import TlsEnd, TlsError
from spliceproxy.telemetry.record import milliseconds

if TYPE_CHECKING:
    from spliceproxy.worker.session import Session

_NEWS: Final = EPOLLIN | TROUBLE


class Handshake:
    """One client's. `on_done` is called when bytes can flow, with all events that were seen of the
    client; else the session ends."""

    __slots__ = ("_deadline", "_due", "_end", "_events", "_on_done", "_started", "session")

    _end: TlsEnd

    def __init__(self, session: Session, on_done: Callable[[int], None]) -> None:
        self.session = session
        self._on_done = on_done
        self._started = session.worker.loop.now
        self._deadline: float | None = None
        self._due = False
        """Its turn will come."""
        self._events = 0

    def start(self, end: TlsEnd, timeout: float | None) -> None:
        """Begin, with what the client has sent so far. `timeout` in seconds; None: no limit."""
        self._end = end
        loop = self.session.worker.loop
        if timeout is not None:
            self._deadline = self._started + timeout
        self._arm()
        loop.set_handler(self.session.client.fileno(), self.on_event)
        self._take_turn()

    def on_event(self, events: int) -> None:
        """Events of the client. An alert may have come before a reset."""
        self._events |= events
        if events & _NEWS or self._end.unsent:
            self._take_turn()

    def on_deadline(self, now: float) -> None:
        """The time is over, or the timer was an earlier one's."""
        if self._deadline is None or now < self._deadline:
            self._arm()
            return
        self.session.tls_error = "the handshake took too long"
        self.session.abort("tls_handshake")

    def _arm(self) -> None:
        if self._deadline is not None:
            self.session.worker.loop.arm(self.session, self._deadline)

    def _take_turn(self) -> None:
        if not self._due:
            self._due = True
            self.session.worker.handshakes.add(self._step)

    def _step(self) -> None:
        self._due = False
        session, end = self.session, self._end
        if session.handshake is not self:
            return  # the session is over
        try:
            done = end.shake_hands()
        except TlsError as error:
            self._fail(str(error))
        except OSError:
            session.end("client", "reset", "client_reset")
        else:
            if done:
                assert session.known is not None
                took = monotonic() - self._started
                session.known.tls_ms = milliseconds(took)
                session.worker.tally.on_handshake(session, took)
                session.handshake = None
                self._leave()
                self._on_done(self._events)
            elif end.unsent and session.client.family == AF_UNIX:
                loop = session.worker.loop
                loop.modify(session.client.fileno(), interest(AF_UNIX) | EPOLLOUT)

    def on_session_end(self) -> None:
        """Called by the session: it ends, and its handshake was not done."""
        session = self.session
        session.worker.tally.on_handshake(session, None)
        self._leave()

    def _leave(self) -> None:
        """Give its place among the handshakes under way back."""
        limits = self.session.listener.limits
        if limits is not None:
            limits.leave_handshake()

    def _fail(self, why: str) -> None:
        """The client has been told by an alert, which a reset would overtake."""
        session = self.session
        session.tls_error = why
        with suppress(OSError):  # the client is gone
            session.client.shutdown(SHUT_WR)
        session.end("proxy", "close", "tls_handshake")
