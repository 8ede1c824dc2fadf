"""How fast one session may be.

On TCP the kernel sends slowly, and the relay waits for room as always: splice stays in use.
SO_MAX_PACING_RATE is of the socket that sends (socket(7)), and needs no qdisc's help; the first
burst may be as large as the send buffer. UNIX sockets have no such option: there the flow itself
is slow.
"""

from __future__ import annotations

import struct
from socket import AF_UNIX, SOL_SOCKET
from typing import TYPE_CHECKING, Final

from spliceproxy.relay.paced import Timers, slow_down

if TYPE_CHECKING:
    from spliceproxy.ipc import ListenerPlan
    from spliceproxy.relay.flow import Flow
    from spliceproxy.relay.relay import Relay

SO_MAX_PACING_RATE: Final = 47
"""asm-generic/socket.h. Eight bytes: with four of them the kernel takes at most 4 GiB/s."""


class Pace:
    """The rates of one listener's sessions."""

    __slots__ = ("_down", "_up")

    def __init__(self, up: int | None, down: int | None) -> None:
        """Bytes per second; None: as fast as can be."""
        self._up = up
        self._down = down

    def set(self, relay: Relay, timers: Timers) -> None:
        """Slow down a session whose relay is about to begin."""
        if self._up is not None:
            _slow_down(relay, relay.up, timers, self._up)
        if self._down is not None:
            _slow_down(relay, relay.down, timers, self._down)


def pace(plan: ListenerPlan) -> Pace | None:
    """What a listener's sessions are slowed down to; None: nothing."""
    if plan.rate_up is None and plan.rate_down is None:
        return None
    return Pace(plan.rate_up, plan.rate_down)


def _slow_down(relay: Relay, flow: Flow, timers: Timers, rate: int) -> None:
    if flow.dst.family == AF_UNIX:
        slow_down(relay, flow, timers, rate)
    else:
        flow.dst.setsockopt(SOL_SOCKET, SO_MAX_PACING_RATE, struct.pack("Q", rate))
