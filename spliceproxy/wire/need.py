"""The answer of a parser that has not seen enough."""

from __future__ import annotations

from dataclasses import dataclass

Buffer = bytes | bytearray | memoryview
"""What parsers read: a memoryview is one of bytes (format "B"), as recv_into fills it."""


@dataclass(frozen=True, slots=True)
class Need:
    """Nothing can be said yet: wait until `total` bytes are there, counted from the first one.

    It is more than were given, and never more than a well-formed beginning has; so it may be
    SO_RCVLOWAT. With that many there may be an answer, or another `Need`.
    """

    total: int
