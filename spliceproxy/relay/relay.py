"""The traffic of one session: two flows between a client and an upstream, until both are over.

How it ends (I3, I4):

- FIN on one side ends one flow, and is passed on. The other flow runs on.
- A source that fails ends its flow after what it had sent was delivered, and the twin at once:
  nothing can be delivered to a dead socket.
- A destination that fails ends its flow at once; the twin first reads that socket to its end,
  because a response that was already received still belongs to the client.
- When both flows are over and one side was broken, the other side is owed a reset in place of a
  FIN, so that it can tell a broken session from a finished one. `survivor` names it. The reset has
  to wait until the kernel delivered what was sent before: SO_LINGER 0 throws the send queue away.
"""

from __future__ import annotations

import fcntl
import struct
from collections.abc import Callable
from select import EPOLLET, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP
from socket import AF_UNIX, IPPROTO_TCP, SO_LINGER, SOL_SOCKET, TCP_INFO, SocketType
from typing import Final, Protocol

from spliceproxy.relay.flow import Flow
from spliceproxy.relay.means import Means
from spliceproxy.relay.verdicts import (
    AGAIN,
    BLOCKED,
    BROKEN_DESTINATION,
    BROKEN_SOURCE,
    FINISHED,
    OVER,
    PAUSED,
)

Handler = Callable[[int], None]
"""Called with the epoll events of one fd."""

UNIX_INTEREST: Final = EPOLLIN | EPOLLRDHUP | EPOLLPRI | EPOLLET
TCP_INTEREST: Final = UNIX_INTEREST | EPOLLOUT

_SIOCOUTQ: Final = 0x5411
_TCP_CLOSE: Final = 7
"""tcpi_state of a socket that was reset (linux/tcp_states.h)."""
_LINGER_0: Final = struct.pack("ii", 1, 0)


def interest(family: int) -> int:
    """What a session's socket of this family is registered for, once.

    A UNIX socket wakes its writer at every read of the peer, so OUT is added only while blocked.
    """
    return UNIX_INTEREST if family == AF_UNIX else TCP_INTEREST


def unsent(sock: SocketType) -> int:
    """Bytes that the peer has not acknowledged (SIOCOUTQ, tcp(7)); on UNIX, not read.

    A TCP socket that was reset still counts what it threw away: nothing of that can arrive.
    """
    if was_reset(sock):
        return 0
    answer = fcntl.ioctl(sock.fileno(), _SIOCOUTQ, b"\0\0\0\0")
    return int.from_bytes(answer, "little")


def was_reset(sock: SocketType) -> bool:
    """Whether a TCP socket is dead, or has seen both ends; no UNIX socket ever tells."""
    return sock.family != AF_UNIX and sock.getsockopt(IPPROTO_TCP, TCP_INFO, 1)[0] == _TCP_CLOSE


def arm_reset(sock: SocketType) -> None:
    """Make close() of a TCP socket send a reset and drop what is queued (SO_LINGER 0)."""
    sock.setsockopt(SOL_SOCKET, SO_LINGER, _LINGER_0)


class Reactor(Protocol):
    """What the relay asks of its event loop."""

    now: float
    """time.monotonic() at the beginning of this batch of events, in seconds."""

    def set_handler(self, fd: int, handler: Handler) -> None:
        """Call `handler` from now on, for an fd that is registered already."""

    def modify(self, fd: int, mask: int) -> None:
        """Change what an fd is registered for."""

    def run_again(self, call: Callable[[], None]) -> None:
        """Call once, after the events of this batch and before the next wait."""


class Relay:
    """Two flows, registered at a reactor. `on_change(relay)` is called whenever one is over.

    The relay owns no socket: who made it closes both, after the end.
    """

    __slots__ = ("_on_change", "_reactor", "broken", "down", "first_byte_at", "first_over", "up")

    def __init__(
        self,
        client: SocketType,
        upstream: SocketType,
        means: Means,
        reactor: Reactor,
        on_change: Callable[[Relay], None],
    ) -> None:
        self.up = Flow(client, upstream, means, reactor)
        self.down = Flow(upstream, client, means, reactor)
        for flow, twin in ((self.up, self.down), (self.down, self.up)):
            flow.twin = twin
            flow.relay = self
        self._reactor = reactor
        self._on_change = on_change
        self.first_byte_at: float | None = None
        """The reactor's time of the first byte from the upstream."""
        self.first_over: Flow | None = None
        """The flow whose source ended first."""
        self.broken: SocketType | None = None
        """The side that failed: the first one, where both did."""

    def start(self, client_events: int, upstream_events: int) -> None:
        """Begin, with the events that were seen before; without them where `up` is over already."""
        up = self.up
        client, upstream = up.src, self.down.src
        handler = up.on_event_after_end if up.end else up.on_event
        self._reactor.set_handler(client.fileno(), handler)
        self._reactor.set_handler(upstream.fileno(), self._on_event_before_first_byte)
        if client_events:
            up.on_event(client_events)
        if upstream_events and not self.down.end:
            self._on_event_before_first_byte(upstream_events)

    @property
    def over(self) -> bool:
        return bool(self.up.end and self.down.end)

    @property
    def half_closed(self) -> bool:
        """One flow is over, the other one runs on."""
        return bool(self.up.end) != bool(self.down.end)

    @property
    def survivor(self) -> SocketType | None:
        """The side that is owed a reset; None after a proper end."""
        if self.broken is None:
            return None
        return self.down.src if self.broken is self.up.src else self.up.src

    def obey(self, flow: Flow, verdict: int) -> None:
        """Do what a flow's turn decided."""
        if verdict == AGAIN:
            if not flow.queued:
                flow.queued = True
                self._reactor.run_again(flow.resume)
        elif verdict == BLOCKED:
            if not flow.watching and flow.dst.family == AF_UNIX:
                flow.watching = True
                self._ask(flow.twin)
        elif verdict == OVER:
            self._flow_over(flow)
        elif verdict == PAUSED:
            if not flow.muted:
                self.mute(flow)
        elif flow.muted:
            flow.muted = False
            self._reactor.set_handler(flow.src.fileno(), flow.on_event)
            self._ask(flow)

    def mute(self, flow: Flow) -> None:
        """Hear no more of what comes in at the source, until it is dry again."""
        flow.muted = True
        self._reactor.set_handler(flow.src.fileno(), flow.on_event_while_muted)
        self._ask(flow)

    def unwatch(self, flow: Flow) -> None:
        """The destination of a flow took everything: its OUT events are noise again."""
        flow.watching = False
        self._ask(flow.twin)

    def _ask(self, flow: Flow) -> None:
        """Register the source of `flow`, where the twin goes, for what is of use now.

        PRI goes with IN: the kernel announces any bytes as both (sock_def_readable).
        """
        mask = interest(flow.src.family)
        if flow.muted:
            mask &= ~(EPOLLIN | EPOLLPRI)
        if flow.twin.watching:
            mask |= EPOLLOUT
        self._reactor.modify(flow.src.fileno(), mask)

    def abandon(self) -> None:
        """End both flows at once; what they hold is dropped."""
        self.up.abandon()
        self.down.abandon()

    def close(self) -> None:
        """Take the parts apart, once nothing calls them any more: they die by reference count."""
        for flow in (self.up, self.down):
            del flow.twin, flow.relay
        del self._on_change

    def _on_event_before_first_byte(self, events: int) -> None:
        down = self.down
        down.on_event(events)
        if down.moved or down.held:
            self.first_byte_at = self._reactor.now
            if not down.end:
                self._reactor.set_handler(down.src.fileno(), down.on_event)

    def _flow_over(self, flow: Flow) -> None:
        twin = flow.twin
        if self.first_byte_at is None and self.down.moved:
            self.first_byte_at = self._reactor.now  # first and last bytes came in one event
        self._reactor.set_handler(flow.src.fileno(), flow.on_event_after_end)
        if flow.watching:
            self.unwatch(flow)
        if self.first_over is None and flow.end in (FINISHED, BROKEN_SOURCE):
            self.first_over = flow
        if flow.end == BROKEN_SOURCE:
            self.broken = self.broken or flow.src
            twin.abandon()
            self._reactor.set_handler(twin.src.fileno(), twin.on_event_after_end)
        elif flow.end == BROKEN_DESTINATION:
            self.broken = self.broken or flow.dst
            if not twin.end:
                twin.readable = twin.wary = True
                verdict = twin.move()
                if verdict == OVER:
                    self._flow_over(twin)
                    return
                if verdict or twin.muted:
                    self.obey(twin, verdict)
        self._on_change(self)
