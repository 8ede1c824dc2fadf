"""How fast one session may be: the kernel sends slowly, and the relay waits for room as always.

SO_MAX_PACING_RATE is of the socket that sends (socket(7)); TCP obeys it without any qdisc's help,
and splice stays in use. The first burst may be as large as the send buffer. UNIX sockets have no
such option.
"""

from __future__ import annotations

import struct
from socket import AF_UNIX, SOL_SOCKET, SocketType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from spliceproxy.ipc import ListenerPlan

SO_MAX_PACING_RATE: Final = 47
"""asm-generic/socket.h. Eight bytes: with four of them the kernel takes at most 4 GiB/s."""


class Pace:
    """The rates of one listener's sessions."""

    __slots__ = ("_down", "_up")

    def __init__(self, up: int | None, down: int | None) -> None:
        """Bytes per second; None: as fast as can be."""
        self._up = None if up is None else struct.pack("Q", up)
        self._down = None if down is None else struct.pack("Q", down)

    def set(self, client: SocketType, upstream: SocketType) -> None:
        """Slow down both directions of a session, as far as they are TCP. Once is enough."""
        if self._up is not None and upstream.family != AF_UNIX:
            upstream.setsockopt(SOL_SOCKET, SO_MAX_PACING_RATE, self._up)
        if self._down is not None and client.family != AF_UNIX:
            client.setsockopt(SOL_SOCKET, SO_MAX_PACING_RATE, self._down)


def pace(plan: ListenerPlan) -> Pace | None:
    """What a listener's sessions are slowed down to; None: nothing."""
    if plan.rate_up is None and plan.rate_down is None:
        return None
    return Pace(plan.rate_up, plan.rate_down)
