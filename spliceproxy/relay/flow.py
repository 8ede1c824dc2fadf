"""One direction of a session: from a source socket to a destination socket.

The flow decides, and says what it decided by a verdict; `relay` obeys. The rules, with the facts
of the kernel (Linux 6.18, seen in tests/relay) that stand behind them:

1.  It fills only when it holds nothing (I1). EAGAIN on splice is ambiguous: the pipe may be full
    or the socket dry, and a pipe is full by slots, at any number of bytes. With an empty pipe,
    EAGAIN means that the socket is dry. It also means that an end of the source, FIN or error, is
    met only after everything before it has been delivered (I2, I4), and that what is in flight is
    bounded by one pipe (I6).
2.  It begins by copying: recv and send of a small message cost less than two splices. A read that
    fills the buffer promotes it to splice; two small turns in a row demote it.
3.  recv is the judge. splice tells EAGAIN for ever at an urgent byte or behind someone's eBPF
    verdict program, and 0 where an error was read already; so EAGAIN at the first fill of a turn,
    every EAGAIN of a `wary` flow, and every 0 is asked again by recv. That recv reads little, so
    that what comes in just then goes by the pipe.
4.  A short recv says that the socket is dry, and saves the call that would say EAGAIN, but only
    on TCP and only until a hang-up, an error or urgent data was seen: `wary` is for ever.
5.  A FIN is forwarded only when nothing is held (I3): shutdown would cut off what is in the pipe.
6.  A partial send of a fresh read says that the destination is full: the kernel has noted that
    somebody waits for room, so the event will come. Everywhere else EAGAIN says so.
7.  Both sockets must be non-blocking to be spliced: SPLICE_F_NONBLOCK speaks of the pipe only.
    SPLICE_F_MORE is never set: it holds small writes back for 200 ms. A send has MSG_MORE once the
    source's FIN is known to be there: this FIN follows at once, in the same segment.
8.  A destination that stays full makes every news of the source a wake-up for nothing. After the
    first of them epoll is asked for no more (`muted`); once the source is dry it is asked again,
    and tells what came in meanwhile. A source that is always ahead costs no further call.
9.  A turn moves about `TURN` bytes at the most (I7).
"""

from __future__ import annotations

import errno
import os
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP
from socket import AF_UNIX, MSG_DONTWAIT, MSG_MORE, MSG_PEEK, SHUT_WR, SocketType
from typing import TYPE_CHECKING, Final

from spliceproxy.relay.means import COPY_SIZE, Means
from spliceproxy.relay.pipes import Pipe
from spliceproxy.relay.verdicts import (
    ABANDONED,
    AGAIN,
    BLOCKED,
    BROKEN_DESTINATION,
    BROKEN_SOURCE,
    DRY,
    FINISHED,
    OVER,
    RUNNING,
)

if TYPE_CHECKING:
    from spliceproxy.relay.relay import Reactor, Relay

TURN: Final = 4 * 1024 * 1024
"""Bytes after which a flow lets the others have their turn."""
READ_COST: Final = 16 * 1024
"""What a read takes of a turn beside its bytes: single bytes make no endless turns either."""
SMALL: Final = 16 * 1024
"""A promoted flow whose turn brings fewer bytes than this had no use for the pipe."""

TROUBLE: Final = EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLPRI
LAST_BYTES: Final = MSG_DONTWAIT | MSG_MORE
WRITABLE: Final = EPOLLOUT | EPOLLHUP | EPOLLERR

SPLICE_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_splice = os.splice


class Flow:
    """One direction. `twin` is the other one: its source is this one's destination.

    `moved` and `spliced` count bytes that the destination's kernel took: all, and through a pipe.
    `moved` is negative while something is held that goes before the source's bytes and is not
    counted as theirs: it begins with minus the size of that.
    `touched` is the loop's time of the last event at the source.
    """

    __slots__ = (
        "bulk",
        "dst",
        "end",
        "failed",
        "flags",
        "held",
        "means",
        "moved",
        "muted",
        "pending",
        "pipe",
        "queued",
        "reactor",
        "readable",
        "relay",
        "small_turns",
        "spliced",
        "src",
        "touched",
        "twin",
        "wary",
        "watching",
        "writable",
    )

    twin: Flow
    relay: Relay

    def __init__(self, src: SocketType, dst: SocketType, means: Means, reactor: Reactor) -> None:
        self.src = src
        self.dst = dst
        self.means = means
        self.reactor = reactor
        self.touched = reactor.now
        self.readable = False
        self.writable = True
        self.wary = src.family == AF_UNIX
        self.held = 0
        self.pending: memoryview | None = None
        self.pipe: Pipe | None = None
        self.bulk = False
        self.small_turns = 0
        self.moved = 0
        self.spliced = 0
        self.queued = False
        self.watching = False  # the destination, a UNIX socket, is asked for OUT
        self.muted = False  # the source is not asked for IN
        self.end = RUNNING
        self.flags = MSG_DONTWAIT
        self.failed = False
        """splice told an error, and used it up: recv will tell 0 in its place."""
        if means.starts_bulk:
            self._promote()

    def on_event(self, events: int) -> None:
        """Events of the source, which is the destination of the twin. Hints, no more (I10)."""
        self.touched = self.reactor.now
        if events & TROUBLE:
            self.wary = self.readable = True
            if events & EPOLLRDHUP:
                self.flags = LAST_BYTES
        elif events & EPOLLIN:
            self.readable = True
        if self.readable:
            # The usual case goes past `move`: a call saved for each message.
            if self.held and not self.writable:
                self.relay.mute(self)
                verdict = DRY
            elif self.held or self.bulk:
                verdict = self.move()
            else:
                verdict = self._move_copy(TURN, self.means.view)
            if verdict:
                self.relay.obey(self, verdict)
        if events & WRITABLE:
            twin = self.twin
            if not twin.writable:
                twin.on_writable()

    def on_event_while_muted(self, events: int) -> None:
        """Events of the source while the destination is full: its end, or room for the twin."""
        self.touched = self.reactor.now
        if events & TROUBLE:
            self.wary = True
        if events & WRITABLE:
            twin = self.twin
            if not twin.writable:
                twin.on_writable()

    def on_event_after_end(self, events: int) -> None:
        """Events of a source that this flow is done with: they concern the twin alone."""
        self.touched = self.reactor.now
        twin = self.twin
        if twin.end:
            return
        if not twin.writable and events & WRITABLE:
            twin.on_writable()
        elif events & (EPOLLERR | EPOLLHUP) and self.src.family != AF_UNIX:
            twin.probe()

    def on_writable(self) -> None:
        """The destination may take more."""
        self.writable = True
        if not self.end:
            verdict = self.move()
            if self.watching and not self.held:
                self.relay.unwatch(self)
            if verdict or self.muted:
                self.relay.obey(self, verdict)

    def resume(self) -> None:
        """The turn after AGAIN."""
        self.queued = False
        if not self.end:
            self.touched = self.reactor.now
            verdict = self.move()
            if verdict or self.muted:
                self.relay.obey(self, verdict)

    def move(self) -> int:
        """Move what can be moved in one turn, and return the verdict."""
        if self.held:
            if not self.writable:
                return BLOCKED
            verdict = self._flush()
            if verdict:
                return verdict
        if not self.readable:
            return DRY
        if self.bulk:
            return self._move_bulk(TURN)
        return self._move_copy(TURN, self.means.view)

    def _move_copy(self, budget: int, view: memoryview) -> int:
        src = self.src
        dst = self.dst
        while True:
            try:
                size = src.recv_into(view, 0, MSG_DONTWAIT)
            except BlockingIOError:
                self.readable = False
                return DRY
            except OSError:
                return self._ended(BROKEN_SOURCE)
            if not size:
                return self._source_finished()
            try:
                sent = dst.send(view[:size], self.flags)
            except BlockingIOError:
                sent = 0
            except OSError:
                return self._ended(BROKEN_DESTINATION)
            self.moved += sent
            if sent < size:
                self.pending = memoryview(bytes(view[sent:size]))
                self.held = size - sent
                self.writable = False
                if size == COPY_SIZE:
                    self._promote()
                return BLOCKED
            full = size == len(view)
            if not full and not self.wary:
                self.readable = False
                return DRY
            budget -= size + READ_COST
            if budget <= 0:
                return AGAIN
            if full and (self.bulk or self._promote()):
                return self._move_bulk(budget)

    def _move_bulk(self, budget: int) -> int:
        pipes = self.means.pipes
        pipe = pipes.lend()
        if pipe is None:
            return self._move_copy(budget, self.means.view)
        src_fd = self.src.fileno()
        dst_fd = self.dst.fileno()
        first = True
        while True:
            try:
                size = _splice(src_fd, pipe.write_fd, TURN, None, None, SPLICE_FLAGS)
            except BlockingIOError:
                size = -1
            except OSError as error:
                pipes.take_back(pipe)
                return self._refused_fill(error, budget)
            if size <= 0:
                pipes.take_back(pipe)
                if first or size == 0 or self.wary:
                    return self._move_copy(budget, self.means.judge_view)
                self.readable = False
                return DRY
            sent = 0
            try:
                while sent < size:
                    sent += _splice(pipe.read_fd, dst_fd, size - sent, None, None, SPLICE_FLAGS)
            except BlockingIOError:
                self.moved += sent
                self.spliced += sent
                self.held = size - sent
                self.pipe = pipe
                self.writable = False
                return BLOCKED
            except OSError as error:
                self.moved += sent
                self.spliced += sent
                self.held = size - sent
                self.pipe = pipe
                return self._refused_flush(error)
            self.moved += size
            self.spliced += size
            budget -= size + READ_COST
            if first:
                first = False
                self._weigh(size)
            if budget <= 0:
                pipes.take_back(pipe)
                return AGAIN

    def _flush(self) -> int:
        """Send what is held: DRY when all of it went."""
        try:
            if self.pipe is None:
                self.flush_pending()
            else:
                self._flush_pipe(self.pipe)
        except BlockingIOError:
            self.writable = False
            return BLOCKED
        except OSError as error:
            return self._refused_flush(error)
        return DRY

    def flush_pending(self) -> None:
        """Send what is held outside a pipe. Raises OSError, BlockingIOError while it is full."""
        pending = self.pending
        while pending:
            sent = self.dst.send(pending, MSG_DONTWAIT)
            self.moved += sent
            self.held -= sent
            self.pending = pending = pending[sent:]
        self.pending = None

    def _flush_pipe(self, pipe: Pipe) -> None:
        dst_fd = self.dst.fileno()
        while self.held:
            sent = _splice(pipe.read_fd, dst_fd, self.held, None, None, SPLICE_FLAGS)
            self.held -= sent
            self.moved += sent
            self.spliced += sent
        self.pipe = None
        self.means.pipes.take_back(pipe)

    def _promote(self) -> bool:
        """Turn to splice, and say whether the mode allows it."""
        if not self.means.promotes:
            return False
        for sock in (self.src, self.dst):
            if sock.gettimeout() != 0.0:
                sock.setblocking(False)
        self.bulk = True
        self.small_turns = 0
        return True

    def _weigh(self, size: int) -> None:
        """Demote a flow whose turns bring little; `size` is what the first fill brought."""
        if size >= SMALL:
            self.small_turns = 0
        elif self.means.demotes:
            self.small_turns += 1
            if self.small_turns == 2:
                self.bulk = False

    def _refused_fill(self, error: OSError, budget: int) -> int:
        """splice from the source failed, with an empty pipe."""
        if error.errno == errno.EINVAL:  # a socket that cannot be spliced: AF_UNIX of old kernels
            self.bulk = False
        else:  # there may be bytes behind an urgent one, which splice does not pass
            self.failed = True
        return self._move_copy(budget, self.means.view)

    def _refused_flush(self, error: OSError) -> int:
        """Sending what is held failed."""
        if error.errno == errno.EINVAL and self.pipe is not None:
            self.pending = memoryview(os.read(self.pipe.read_fd, self.held))
            self.means.pipes.take_back(self.pipe)
            self.pipe = None
            self.bulk = False
            return self.move()
        return self._ended(BROKEN_DESTINATION)

    def _source_finished(self) -> int:
        """FIN from the source, and nothing held: pass it on, if that is still of use (I3)."""
        assert not self.held
        twin_end = self.twin.end
        if twin_end == BROKEN_DESTINATION or self.failed:
            # The source is dead: a write or splice used up the error, so that recv tells 0. A
            # FIN here would make a broken session look like a finished one (I4).
            return self._ended(BROKEN_SOURCE)
        if twin_end != FINISHED:
            try:
                self.dst.shutdown(SHUT_WR)
            except OSError:
                return self._ended(BROKEN_DESTINATION)
        # With the twin finished too both sockets are about to be closed: close sends the FIN.
        return self._ended(FINISHED)

    # What a trial does with a flow before it begins. How is the matter of the kind of flow.

    @property
    def taken(self) -> int:
        """Bytes of the source that were sent, or are held: nobody has to give them once more."""
        return max(0, self.moved)

    def receive(self, view: memoryview) -> int:
        """Read from the source; 0 at its end. Raises OSError, BlockingIOError while it is dry."""
        return self.src.recv_into(view, 0, MSG_DONTWAIT)

    def may_have_more(self, size: int, view: memoryview) -> bool:
        """Whether the source may have more, after `size` bytes were read into `view`."""
        return self.wary or size == len(view)

    def has_bytes(self) -> bool:
        """Whether the source has bytes to read; False: its end. Raises as `receive`."""
        return bool(self.src.recv(1, MSG_PEEK | MSG_DONTWAIT))

    def send(self, data: memoryview) -> None:
        """Send, and count what went. Raises OSError, BlockingIOError while there is no room."""
        self.moved += self.dst.send(data, self.flags)

    def hold(self, data: memoryview) -> None:
        """Send this first, after all that is held already. Raises OSError where it cannot be."""
        self.held += len(data)
        self.pending = memoryview(bytes(self.pending or b"") + bytes(data))

    def pass_fin(self) -> bool:
        """Pass the FIN on; False: it has to wait for what is held. Raises OSError."""
        self.dst.shutdown(SHUT_WR)
        return True

    def probe(self) -> None:
        """The destination is said to be dead: find out by a send of nothing."""
        try:
            self.dst.send(b"", MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            self.relay.obey(self, self._ended(BROKEN_DESTINATION))

    def abandon(self) -> None:
        """End the flow from outside; what it holds is dropped."""
        if not self.end:
            self._ended(ABANDONED)

    def _ended(self, end: int) -> int:
        self.end = end
        self.readable = False
        self.held = 0
        self.pending = None
        if self.pipe is not None:
            self.means.pipes.discard(self.pipe)
            self.pipe = None
        return OVER
