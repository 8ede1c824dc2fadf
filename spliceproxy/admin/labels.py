"""Under which names metrics tell of upstreams, so that there are never too many of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from spliceproxy.telemetry.counters import OTHERS

MOST: Final = 1000
"""Configured upstreams that are told of by name."""

UpstreamKey = tuple[str, str]
"""The names of a pool and of an upstream."""


class UpstreamLabels:
    """Gives names to the upstreams that came first, and one name to all others.

    Whoever was told of in one way is so for as long as anything is counted of it: a number that
    moved from one name to another would look like a burst of traffic.
    """

    def __init__(self, wanted: bool = True, most: int = MOST) -> None:
        """Without `wanted`, no upstream has a name."""
        self._wanted = wanted
        self._most = most
        self._known: dict[UpstreamKey, bool] = {}
        """Whether an upstream has its own name, of all that were told of."""

    def follow(self, configured: Collection[UpstreamKey], counted: Collection[UpstreamKey]) -> None:
        """Give names to those `configured` that have none, while there is room, and forget who is
        neither configured nor `counted`."""
        self._known = {
            key: own for key, own in self._known.items() if key in counted or key in configured
        }
        named = sum(own and key in configured for key, own in self._known.items())
        for key in configured:
            if key not in self._known:
                self._known[key] = named < self._most
                named += self._known[key]

    def __call__(self, pool: str, upstream: str) -> str:
        """The name under which an upstream is told of."""
        if not upstream or not self._wanted:
            return ""
        return upstream if self._known.get((pool, upstream), False) else OTHERS
