"""What is on its way to the side that survived, while it is owed a reset (I4)."""

from __future__ import annotations

from socket import SocketType
from typing import Final

from spliceproxy.relay.relay import unsent

POLL: Final = 0.05
"""Seconds between two looks at the send queue: no event tells that it became empty."""
PATIENCE: Final = 30.0
"""Seconds for which the send queue may stand still before the reset goes anyway."""


class Parting:
    """The wait until all that was sent to `survivor` has arrived. Times are the loop's."""

    __slots__ = ("_left", "_since", "_survivor")

    def __init__(self, survivor: SocketType, now: float) -> None:
        self._survivor = survivor
        self._left = -1
        self._since = now

    def over(self, now: float) -> bool:
        """Look at the send queue: whether it is empty, or stood still for too long."""
        left = still_unsent(self._survivor)
        if left != self._left:
            self._left = left
            self._since = now
        return not left or now - self._since >= PATIENCE


def still_unsent(sock: SocketType) -> int:
    """Bytes in the send queue; none where the socket is dead, because nothing can arrive then."""
    try:
        return unsent(sock)
    except OSError:
        return 0
