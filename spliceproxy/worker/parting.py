"""What is on its way to the side that survived, while it is owed a reset."""

from __future__ import annotations

from socket import SocketType
from typing import Final

from spliceproxy.relay.relay import unsent

PARTING_POLL: Final = 0.05
"""Seconds between two looks at the send queue: no event tells that it became empty."""
PARTING_PATIENCE: Final = 30.0
"""Seconds for which the send queue may stand still before the reset goes anyway."""


def still_unsent(sock: SocketType) -> int:
    """Bytes in the send queue; none where the socket is dead, because nothing can arrive then."""
    try:
        return unsent(sock)
    except OSError:
        return 0
