"""Which place of the board belongs to which upstream, pool and listener, over reloads."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from spliceproxy.errors import SpliceproxyError
from spliceproxy.telemetry.board import MAX_LISTENERS, MAX_UPSTREAMS, Upstreams

UpstreamKey = tuple[str, str]
"""The name of a pool, and the name of one of its upstreams."""


class TooManyUpstreamsError(SpliceproxyError):
    """More upstreams than the board has places for."""


class UpstreamSlots:
    """Gives each upstream a slot, which it keeps while it is configured, and over a reload."""

    def __init__(self) -> None:
        self._slots: dict[UpstreamKey, int] = {}
        self._free: list[int] = []
        self._next = 0
        self._listeners: dict[str, int] = {}
        self._planes: dict[str, int] = {}

    def listener_slot(self, listener: str, wanted: Collection[str]) -> int:
        """The slot of a listener, the one that it had before or a free one.

        `wanted` are all listeners of the configuration, MAX_LISTENERS at the most. A slot of one
        that left is taken again only when no other is free: it may have sessions still.
        """
        if listener not in self._listeners:
            taken = set(self._listeners.values())
            slot = next((n for n in range(MAX_LISTENERS) if n not in taken), None)
            if slot is None:
                left = next(name for name in self._listeners if name not in wanted)
                slot = self._listeners.pop(left)
            self._listeners[listener] = slot
        return self._listeners[listener]

    def listeners(self) -> Mapping[str, int]:
        """The slots of all listeners that may have sessions, also of some that left."""
        return self._listeners

    def planes(self, listener: str, wanted: Collection[str]) -> int:
        """The number of a listener's planes, the one that it had before or a free one.

        `wanted` are all listeners of the configuration that need some. Those of another one are
        taken as they are: its sessions count with the new one's until they end.
        """
        if listener not in self._planes:
            left = next((name for name in self._planes if name not in wanted), None)
            # Numbers are given without gaps: there are as many as names.
            number = len(self._planes) if left is None else self._planes.pop(left)
            self._planes[listener] = number
        return self._planes[listener]

    def slot(self, pool: str, upstream: str) -> int:
        """The slot of an upstream, a new one where it has none. Raises TooManyUpstreamsError."""
        key = pool, upstream
        if key not in self._slots:
            self._slots[key] = self._take()
        return self._slots[key]

    def pool_slot(self, pool: str) -> int:
        """The slot where the sessions of a whole pool are counted. Raises as `slot` does."""
        return self.slot(pool, "")

    def forget(self, kept: Collection[UpstreamKey], upstreams: Upstreams) -> None:
        """Take back the slots of upstreams that are not in `kept` and have no session left, and
        those of pools that have no upstream in it."""
        pools = {(pool, "") for pool, _upstream in kept}
        for key, slot in list(self._slots.items()):
            if (
                key not in kept
                and key not in pools
                and not (upstreams.live(slot) or upstreams.queued(slot))
            ):
                del self._slots[key]
                upstreams.set_state(slot, 0)
                self._free.append(slot)

    def _take(self) -> int:
        if self._free:
            return self._free.pop()
        if self._next == MAX_UPSTREAMS:
            raise TooManyUpstreamsError(
                f"pools: more than {MAX_UPSTREAMS} upstreams; one process has at most so many"
            )
        self._next += 1
        return self._next - 1
