"""What `explain` looks at: a configuration as workers have it, and how things stand."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from spliceproxy.telemetry.board import listener_sessions

if TYPE_CHECKING:
    from spliceproxy.config import Config
    from spliceproxy.ipc import ListenerPlan, PoolPlan
    from spliceproxy.telemetry.board import Board


class Sight(Protocol):
    """How things stand, by the slots of the plans."""

    def state(self, slot: int) -> int:
        """DOWN, EJECTED and DRAINING, added up, and what is held back."""

    def live(self, slot: int) -> int:
        """Live sessions with an upstream, or of a pool."""

    def listener_live(self, slot: int) -> int:
        """Live sessions of a listener."""


class AtRest:
    """All is well, and nobody is there."""

    def state(self, slot: int) -> int:  # noqa: ARG002 - as Sight has it
        return 0

    live = listener_live = state


class OnBoard:
    """What the workers and the supervisor say at this moment."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.state = board.upstreams.state
        self.live = board.upstreams.live

    def listener_live(self, slot: int) -> int:
        return self._board.total(listener_sessions(slot))


@dataclass(frozen=True, slots=True)
class Scene:
    """What a client meets."""

    config: Config
    listeners: Sequence[ListenerPlan]
    pools: Sequence[PoolPlan]
    sight: Sight
    live: bool = True
    """It is a running proxy."""
    draining: Collection[str] = ()
    """Listeners that let nobody in."""
    unknown: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By pool, what stands for upstreams that are not known here."""
