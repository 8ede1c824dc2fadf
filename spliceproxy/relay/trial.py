"""A session's beginning where its upstream may still be replaced: until the upstream's first byte.

A trial stands before a relay. It sends the client's bytes on and keeps a copy of them, so that
another upstream can be sent the same. It ends in one of three ways:

- The upstream sends a byte, or the client sends more than is kept: the relay takes over, whose
  flows begin where the trial stands. From then on the trial costs nothing, and nothing is sent
  twice any more.
- The upstream ends first: `replace` may give the session another one, and the trial begins anew.
- A side is broken and there is no other upstream: the relay takes over as well, and ends the
  session as if there had been no trial.

What stands behind it (Linux, tcp(7), unix(7); tests/relay/test_trial.py):

1.  MSG_PEEK leaves bytes and a FIN where they are, for the relay to find. It uses up an error, as
    any recv does: a later recv tells 0 in its place, which `Flow.failed` turns into an error again.
2.  A reset takes nothing back from the receive queue: recv tells the bytes before it first, so an
    upstream of which a byte has arrived is never taken for one that sent none.
3.  An upstream that ends after the client's FIN was passed on has not ended first: it may have done
    its work, and the client may be gone. So it is asked for its end before the FIN is passed on.
    A reset is a failure whenever it comes.
4.  An urgent byte is a byte, though none that is passed on.
5.  A relay may come with something that its upstream is told before the client's bytes: held by
    `up`, whose `moved` is negative for so long. It is for this upstream alone, and is not kept.
6.  A fresh read is sent before the next one (I1, I6): while the upstream is full the client waits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from select import EPOLLIN, EPOLLPRI, EPOLLRDHUP
from typing import Final

from spliceproxy.relay.flow import LAST_BYTES, TROUBLE, WRITABLE
from spliceproxy.relay.relay import Reactor, Relay, interest
from spliceproxy.relay.verdicts import (
    BLOCKED,
    BROKEN_DESTINATION,
    BROKEN_SOURCE,
    DRY,
    FINISHED,
    OVER,
)

READS: Final = 64
"""Reads after which a trial lets the others have their turn: of a wary client's single bytes."""
NEWS: Final = EPOLLIN | TROUBLE
ENDED: Final = EPOLLIN | EPOLLRDHUP
"""What epoll would say of an upstream that is known to have ended."""

# What a look at the upstream finds.
NOTHING: Final = 0
BYTES: Final = 1
FIN: Final = 2
FAILED: Final = 3


class Trial(ABC):
    """The client's bytes so far, at most `limit`, and the relay that they are meant for.

    `relay.up.moved` says how many of them the upstream's kernel took.
    """

    __slots__ = (
        "_client_trouble",
        "_finished",
        "_kept",
        "_limit",
        "_reactor",
        "_readable",
        "_upstream_events",
        "relay",
    )

    def __init__(self, limit: int, reactor: Reactor) -> None:
        """`limit` is in bytes; with 0, an upstream is replaced only before the client spoke."""
        self._limit = limit
        self._reactor = reactor
        self._kept = bytearray()
        self._finished = False
        """The client's FIN was read, behind all that is kept."""
        self._readable = False
        self._client_trouble = 0
        self._upstream_events = 0
        """All that were seen: an edge that the trial had no use for comes no second time."""
        self.relay: Relay | None = None
        """The relay to come; None once it has taken over, or while there is no upstream."""

    @abstractmethod
    def replace(self, relay: Relay, by_fin: bool) -> bool:
        """The upstream of `relay` ended without a byte, `by_fin` or by an error.

        Have `start` called with another one, now or later, and return True; or return False.
        """

    def start(self, relay: Relay, client_events: int, upstream_events: int) -> None:
        """Begin with an upstream, and with the events that were seen before."""
        self.relay = relay
        self._upstream_events = upstream_events
        client, upstream = relay.up.src, relay.down.src
        self._reactor.set_handler(client.fileno(), self.on_client_event)
        self._reactor.set_handler(upstream.fileno(), self.on_upstream_event)
        self._note(relay, client_events)
        self._advance(relay)
        if upstream_events & NEWS and self.relay is relay:
            self.on_upstream_event(upstream_events)

    def _note(self, relay: Relay, events: int) -> None:
        up = relay.up
        trouble = self._client_trouble = self._client_trouble | events & TROUBLE
        if events & NEWS:
            self._readable = True
        if trouble:
            up.wary = True
            if trouble & EPOLLRDHUP:
                up.flags = LAST_BYTES

    def on_client_event(self, events: int) -> None:
        """Events of the client, until its FIN was passed on: hints, no more (I10)."""
        relay = self.relay
        assert relay is not None
        relay.up.touched = self._reactor.now
        self._note(relay, events)
        if events & WRITABLE and not relay.down.writable:
            self._answer(relay)
        if relay.up.writable:
            self._advance(relay)
        elif not relay.up.muted:
            relay.mute(relay.up)
            self._reactor.set_handler(relay.up.src.fileno(), self.on_client_event)

    def _answer(self, relay: Relay) -> None:
        """Send what TLS has to say to the client itself, and nobody else would.

        Where that fails the next read tells, and no earlier: what was read before goes first.
        """
        down = relay.down
        try:
            down.flush_pending()
        except BlockingIOError:
            return
        except OSError:
            down.held = 0
        down.writable = True
        if down.watching:
            relay.unwatch(down)

    def on_upstream_event(self, events: int) -> None:
        """Events of the upstream."""
        relay = self.relay
        assert relay is not None
        up, down = relay.up, relay.down
        down.touched = self._reactor.now
        self._upstream_events |= events
        if events & NEWS:
            seen = BYTES if events & EPOLLPRI else self._look(relay)
            if seen == BYTES:
                self._hand_over(relay)
                return
            if seen:
                self._upstream_ended(relay, seen)
                return
        if events & WRITABLE and not up.writable:
            up.writable = True
            self._advance(relay)

    def _advance(self, relay: Relay) -> None:
        """Send what was not sent, read on, and pass the FIN on, as far as it goes."""
        up, kept = relay.up, self._kept
        reads = 0
        while not up.end:
            all_kept = len(kept) <= self._limit
            if up.moved < len(kept) and not self._send(relay) and (all_kept or not self.relay):
                return
            if not all_kept:
                self._hand_over(relay)
                return
            if self._finished:
                self._pass_fin(relay)
                return
            if not self._readable or not self._read(relay):
                return
            reads += 1
            if reads == READS:
                self._reactor.run_again(self._resume)
                return

    def _resume(self) -> None:
        """The turn after one that others waited for (I7)."""
        if self.relay is not None:
            self._advance(self.relay)

    def _send(self, relay: Relay) -> bool:
        """Send the rest of what is kept; whether the upstream took all of it."""
        up, kept = relay.up, self._kept
        if not up.writable:
            return False
        try:
            if up.held:
                up.flush_pending()
            while up.moved < len(kept):
                up.send(memoryview(kept)[up.moved :])
        except BlockingIOError:
            up.writable = False
            relay.obey(up, BLOCKED)
            return False
        except OSError:
            self._refused(relay)
            return False
        if up.watching:
            relay.unwatch(up)
        if up.muted:
            relay.obey(up, DRY)  # which would have the flow read
            self._reactor.set_handler(up.src.fileno(), self.on_client_event)
        return True

    def _read(self, relay: Relay) -> bool:
        """Read from the client, one byte more than may be kept; whether there is more to do."""
        up = relay.up
        room = self._limit + 1 - len(self._kept)
        view = up.means.view[:room]
        try:
            size = up.receive(view)
        except BlockingIOError:
            self._readable = False
            return False
        except OSError:
            self._end_upload(relay, BROKEN_SOURCE)
            return False
        if not size:
            self._finished = True
        elif not up.may_have_more(size, view):
            self._readable = False
        self._kept += view[:size]
        return True

    def _pass_fin(self, relay: Relay) -> None:
        """All is sent that the client had to say (I3)."""
        seen = self._look(relay)
        if seen == BYTES:
            self._upstream_events |= EPOLLIN
            self._hand_over(relay)
            return
        if seen:
            self._upstream_ended(relay, seen)
            return
        up = relay.up
        try:
            if not up.pass_fin():
                self._hand_over(relay)
                return
        except OSError:
            self._refused(relay)
            return
        up.end = FINISHED
        relay.obey(up, OVER)  # which leaves the client's events to the flow

    def _look(self, relay: Relay) -> int:
        """What the upstream has sent so far."""
        try:
            return BYTES if relay.down.has_bytes() else FIN
        except BlockingIOError:
            return NOTHING
        except OSError:
            return FAILED

    def _refused(self, relay: Relay) -> None:
        """The upstream took no more. A response that is here already belongs to the client."""
        seen = self._look(relay)
        ended = seen in (FIN, FAILED) and len(self._kept) <= self._limit
        if not ended or not self._replaced(relay, by_fin=False):
            self._end_upload(relay, BROKEN_DESTINATION)

    def _upstream_ended(self, relay: Relay, seen: int) -> None:
        """The upstream sent nothing, and never will."""
        done = seen == FIN and relay.up.end
        if done or not self._replaced(relay, by_fin=seen == FIN):
            relay.down.failed = seen == FAILED
            self._upstream_events |= ENDED
            self._hand_over(relay)

    def _replaced(self, relay: Relay, *, by_fin: bool) -> bool:
        client = relay.up.src
        if relay.up.muted:
            self._reactor.modify(client.fileno(), interest(client.family))
        self.relay = None
        if self.replace(relay, by_fin):
            return True
        self.relay = relay
        return False

    def _hand_over(self, relay: Relay) -> None:
        """Let the relay go on from here."""
        up = relay.up
        if not up.end:
            unsent = self._kept[up.taken :]
            try:
                if unsent:
                    up.hold(memoryview(unsent))
            except OSError:  # TLS with the upstream has failed
                self._end_upload(relay, BROKEN_DESTINATION)
                return
        events = self._client_trouble
        if self._readable or self._finished or (up.held and up.writable):
            events |= EPOLLIN
        self._over()
        relay.start(0 if up.end else events, self._upstream_events)

    def _end_upload(self, relay: Relay, end: int) -> None:
        """One side is broken. The relay knows what that means for the other one (I4)."""
        self._over()
        relay.up.end = end
        relay.start(0, 0)
        relay.obey(relay.up, OVER)

    def _over(self) -> None:
        self.relay = None
        self._kept = bytearray()
