"""A flow with TLS on one of its sides, or on both.

It copies, through OpenSSL. Each direction is for itself: a flow takes the end that it reads from,
the end that it writes to, or both, and whatever it has none of is a plain socket to it. Where the
kernel holds the keys of one direction (kernel TLS), that flow needs no end for it, and can splice.

The rules of `flow` hold, with three additions:

1.  A chunk is encrypted when it is read. What the kernel does not take of it is held by the end;
    `held` counts it, encrypted, and `moved` counts the chunk when all of it has gone.
2.  close_notify goes before the FIN, and the other side's close_notify is as good as its FIN.
3.  What OpenSSL wants to tell the source itself is sent at once, or by the twin, which goes there.
"""

from __future__ import annotations

from socket import MSG_DONTWAIT
from typing import TYPE_CHECKING, Final

from spliceproxy.relay.flow import READ_COST, Flow
from spliceproxy.relay.means import COPY_SIZE
from spliceproxy.relay.paced import PacedFlow
from spliceproxy.relay.verdicts import (
    AGAIN,
    BLOCKED,
    BROKEN_DESTINATION,
    BROKEN_SOURCE,
    DRY,
)

if TYPE_CHECKING:
    from spliceproxy.relay.relay import Relay
    from spliceproxy.relay.tls_end import TlsEnd


TLS_TURN: Final = 1024 * 1024
"""Bytes after which others have their turn: they cost what some megabytes cost that are spliced."""
_plain_view: Final = memoryview(bytearray(256 * 1024))
"""What was read of a plain source last, whoever's it was: nothing in it is kept. So much at a time
costs an eighth less than 64 KiB, and is what a client that does not read makes the worker hold."""


class TlsFlow(Flow):
    """One direction that reads by TLS, or writes by TLS."""

    __slots__ = ("_reads", "_sealed", "_writes")

    def __init__(self, flow: Flow, reads: TlsEnd | None, writes: TlsEnd | None) -> None:
        """Takes the place of `flow`, which has not begun."""
        super().__init__(flow.src, flow.dst, flow.means, flow.reactor)
        self._reads = reads
        self._writes = writes
        self._sealed = 0
        """Bytes that are encrypted, and not counted as moved."""

    def _promote(self) -> bool:
        return False

    def receive(self, view: memoryview) -> int:
        reads = self._reads
        if reads is None:
            return super().receive(view)
        try:
            return reads.recv_into(view)
        finally:
            if reads.unsent:
                self._answer(reads)

    def may_have_more(self, size: int, view: memoryview) -> bool:
        if self._reads is None:
            return super().may_have_more(size, view)
        return self.wary or self._reads.more

    def has_bytes(self) -> bool:
        return super().has_bytes() if self._reads is None else self._reads.peek()

    @property
    def taken(self) -> int:
        return super().taken + self._sealed

    def send(self, data: memoryview) -> None:
        """Encrypt and send; what there is no room for is held, which no plain flow does."""
        writes = self._writes
        if writes is None:
            super().send(data)
            return
        writes.write(data)
        self._sealed += len(data)
        if not writes.flush():
            self.held = writes.unsent
            raise BlockingIOError
        self.moved += self._sealed
        self._sealed = self.held = 0

    def hold(self, data: memoryview) -> None:
        writes = self._writes
        if writes is None:
            super().hold(data)
            return
        writes.write(data)
        self._sealed += len(data)
        self.held = writes.unsent

    def flush_pending(self) -> None:
        """See `Flow`; the bytes are counted when all that were encrypted have gone."""
        writes = self._writes
        if writes is None:
            super().flush_pending()
            return
        done = writes.flush()
        self.held = writes.unsent
        if not done:
            raise BlockingIOError
        self.moved += self._sealed
        self._sealed = 0

    def pass_fin(self) -> bool:
        writes = self._writes
        if writes is not None:
            writes.close_write()
            if not writes.flush():
                self.held = writes.unsent
                return False
        return super().pass_fin()

    def _move_copy(self, budget: int, view: memoryview) -> int:
        budget = min(budget, TLS_TURN)
        if self._reads is None and len(view) == COPY_SIZE:  # a paced flow reads what it may
            view = _plain_view
        while True:
            try:
                size = self.receive(view)
            except BlockingIOError:
                self.readable = False
                return DRY
            except OSError:
                return self._ended(BROKEN_SOURCE)
            if not size:
                return self._source_finished()
            verdict = self._deliver(view[:size])
            if verdict:
                return verdict
            if not self.may_have_more(size, view):
                self.readable = False
                return DRY
            budget -= size + READ_COST
            if budget <= 0:
                return AGAIN

    def _deliver(self, data: memoryview) -> int:
        """Send a chunk, or hold what is left of it: DRY when all of it went."""
        try:
            if self._writes is not None:
                self.send(data)
                return DRY
            sent = self.dst.send(data, MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError:
            return self._ended(BROKEN_DESTINATION)
        if self._writes is None:
            self.moved += sent
            if sent == len(data):
                return DRY
            super().hold(data[sent:])
        self.writable = False
        return BLOCKED

    def _source_finished(self) -> int:
        writes = self._writes
        if writes is not None and not self.failed and self.twin.end != BROKEN_DESTINATION:
            writes.close_write()
            try:
                done = writes.flush()
            except OSError:
                done = True  # what comes next finds out, where it matters
            if not done:
                self.held = writes.unsent
                self.writable = False
                return BLOCKED  # the source is read once more then, and tells the same
        return super()._source_finished()

    def _answer(self, reads: TlsEnd) -> None:
        """Send what OpenSSL has to say to the source, or leave it to the twin."""
        twin = self.twin
        if twin.held or twin.end:
            return
        try:
            if reads.flush():
                return
        except OSError:
            return  # whoever reads or writes there next finds out
        twin.held = reads.unsent
        twin.writable = False
        self.relay.obey(twin, BLOCKED)


class PacedTlsFlow(PacedFlow, TlsFlow):
    """One that is not to be faster than its `rate`."""

    @property
    def blocked(self) -> int:
        return self.held if self._writes is None else self._sealed


def secure(relay: Relay, client: TlsEnd | None, upstream: TlsEnd | None) -> None:
    """Have a relay that has not begun speak TLS with one of its sides, or with both."""
    up, down = _secured(relay.up, client, upstream), _secured(relay.down, upstream, client)
    for flow in (relay.up, relay.down):
        del flow.twin, flow.relay  # so that they die by reference count
    up.twin, down.twin = down, up
    up.relay = down.relay = relay
    relay.up, relay.down = up, down


def _secured(flow: Flow, reads: TlsEnd | None, writes: TlsEnd | None) -> TlsFlow:
    if isinstance(flow, PacedFlow):
        paced = PacedTlsFlow(flow, reads, writes)
        paced.pace(flow.timers, flow.rate)
        return paced
    return TlsFlow(flow, reads, writes)
