"""What the supervisor is made of beside its workers: parts that follow the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from spliceproxy.ipc import PoolPlan, Snapshot, UpstreamPlan
from spliceproxy.telemetry.board import FLAGS, Upstreams, with_held_back

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from spliceproxy.config import Config


@dataclass(frozen=True, slots=True)
class InForce:
    """The configuration that is in force, and what was made of it for the workers."""

    config: Config
    snapshot: Snapshot

    def upstreams(self) -> Iterator[tuple[PoolPlan, UpstreamPlan]]:
        """Every upstream, with its pool."""
        for pool in self.snapshot.pools:
            for upstream in pool.upstreams:
                yield pool, upstream


class Part(Protocol):
    """One concern of the supervisor: health checks, ejection, draining."""

    def apply(self, in_force: InForce) -> None:
        """Follow this configuration from now on: at the start, and after each reload."""

    async def close(self) -> None:
        """End all tasks; nothing is written any more."""


@runtime_checkable
class Lasting(Protocol):
    """A part whose knowledge outlives the process: an upgrade hands it over."""

    def knowledge(self) -> Any:
        """What it knows, as JSON. Names, not slots: the new process has slots of its own."""

    def learn(self, knowledge: Any) -> None:
        """Know what such a part of the replaced process knew; called before the first `apply`."""


class UpstreamStates:
    """Says for each upstream whether it may be chosen. Each flag has one part that sets it."""

    def __init__(self, upstreams: Upstreams) -> None:
        self._upstreams = upstreams
        self.watchers: list[Callable[[int, int, int], None]] = []
        """Called with the slot, the state before and the state after, when a flag has changed."""

    def mark(self, slot: int, flag: int, on: bool) -> bool:
        """Set or clear DOWN, EJECTED or DRAINING; whether that changed anything."""
        before = self._upstreams.state(slot)
        after = before | flag if on else before & ~flag
        if after == before:
            return False
        self._upstreams.set_state(slot, after)
        for watcher in self.watchers:
            watcher(slot, before, after)
        return True

    def hold_back(self, slot: int, percent: int) -> None:
        """Let an upstream do without `percent` of its share, 0 to 99; its flags stay."""
        state = self._upstreams.state(slot)
        self._upstreams.set_state(slot, with_held_back(state, percent))

    def flags(self, slot: int) -> int:
        """DOWN, EJECTED and DRAINING, added up; 0 when all is well."""
        return self._upstreams.state(slot) & FLAGS

    def has(self, slot: int, flag: int) -> bool:
        return bool(self._upstreams.state(slot) & flag)

    def live(self, slot: int) -> int:
        """Live sessions of all workers with an upstream."""
        return self._upstreams.live(slot)
