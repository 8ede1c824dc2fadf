"""What was so, a while ago."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Past(Generic[T]):
    """Values of the last seconds, each with its time."""

    def __init__(self, keep: float) -> None:
        """`keep`: how many seconds back somebody may ask."""
        self._keep = keep
        self._kept: deque[tuple[float, T]] = deque()

    def add(self, time: float, value: T) -> None:
        """Remember what is so at `time` (seconds, later than all before)."""
        while len(self._kept) > 1 and self._kept[1][0] <= time - self._keep:
            self._kept.popleft()
        self._kept.append((time, value))

    def values(self) -> Iterator[T]:
        """All that are remembered."""
        return (value for _, value in self._kept)

    def at(self, time: float) -> tuple[float, T]:
        """The value whose time is nearest to `time`, and that. There must be one."""
        return min(self._kept, key=lambda one: abs(one[0] - time))
