"""The end of a session of which one side broke: the other one is owed a reset (I4).

It has to wait for what is on its way to that side, which it would overtake.
"""

from __future__ import annotations

from select import EPOLLERR, EPOLLHUP
from socket import AF_UNIX, SocketType
from typing import TYPE_CHECKING, Final

from spliceproxy.relay.relay import Relay, arm_reset, unsent
from spliceproxy.telemetry.record import ClosedBy

if TYPE_CHECKING:
    from spliceproxy.worker.session import Session

POLL: Final = 0.05
"""Seconds between two looks at the send queue: no event tells that it became empty."""
PATIENCE: Final = 30.0
"""Seconds for which the send queue may stand still before the reset goes anyway."""


def part(session: Session, relay: Relay) -> Parting | None:
    """End a session whose relay is over and broken, or have it wait for the last bytes."""
    survivor = relay.survivor
    assert survivor is not None
    if survivor.family == AF_UNIX or not still_unsent(survivor):
        _end(session, relay)
        return None
    return Parting(session, relay, survivor)


class Parting:
    """The wait until all that was sent to `survivor` has arrived. It has the session's timer, and
    the survivor's events. Times are the loop's."""

    __slots__ = ("_left", "_relay", "_since", "_survivor", "session")

    def __init__(self, session: Session, relay: Relay, survivor: SocketType) -> None:
        loop = session.worker.loop
        self.session = session
        self._relay = relay
        self._survivor = survivor
        self._left = -1
        self._since = loop.now
        loop.set_handler(survivor.fileno(), self.on_event)
        loop.arm(session, loop.now + POLL)

    def on_event(self, events: int) -> None:
        """Events of the survivor."""
        if events & (EPOLLERR | EPOLLHUP):
            _end(self.session, self._relay)

    def on_deadline(self, now: float) -> None:
        """Look at the send queue: whether it is empty, or stood still for too long."""
        left = still_unsent(self._survivor)
        if left != self._left:
            self._left = left
            self._since = now
        if not left or now - self._since >= PATIENCE:
            _end(self.session, self._relay)
        else:
            self.session.worker.loop.arm(self.session, now + POLL)


def _end(session: Session, relay: Relay) -> None:
    if relay.survivor is not None and relay.survivor.family != AF_UNIX:
        arm_reset(relay.survivor)
    by_client = relay.broken is session.client
    closed_by: ClosedBy = "client" if by_client else "upstream"
    known = session.known
    end = session.upstream_tls
    if by_client:
        end = None if known is None else known.tls
    if end is None or end.fault is None:
        session.end(closed_by, "reset", "client_reset" if by_client else "upstream_reset")
        return
    session.tls_error = str(end.fault)
    if end.fault.truncated:
        session.end(closed_by, "fin", "tls_truncated")
    else:
        session.end(closed_by, "close", "tls_error")


def still_unsent(sock: SocketType) -> int:
    """Bytes in the send queue; none where the socket is dead, because nothing can arrive then."""
    try:
        return unsent(sock)
    except OSError:
        return 0
