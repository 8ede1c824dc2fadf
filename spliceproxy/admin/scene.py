"""What `explain` looks at: a configuration as workers have it, and how things stand."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from spliceproxy.limits.clients import Clients
from spliceproxy.telemetry.board import listener_sessions
from spliceproxy.worker.limits import Limits

if TYPE_CHECKING:
    from spliceproxy.config import Config
    from spliceproxy.ipc import ListenerPlan, PoolPlan
    from spliceproxy.telemetry.board import Board
    from spliceproxy.telemetry.record import Why


class Sight(Protocol):
    """How things stand, by the slots of the plans."""

    def state(self, slot: int) -> int:
        """DOWN, EJECTED and DRAINING, added up, and what is held back."""

    def live(self, slot: int) -> int:
        """Live sessions with an upstream, or of a pool."""

    def listener_live(self, slot: int) -> int:
        """Live sessions of a listener."""

    def limit_met(self, plan: ListenerPlan, ip: str) -> Why | None:
        """Which limit of a listener forbids a client that comes now; None: none does."""


class AtRest:
    """All is well, and nobody is there."""

    def state(self, slot: int) -> int:  # noqa: ARG002 - as Sight has it
        return 0

    live = listener_live = state

    def limit_met(self, plan: ListenerPlan, ip: str) -> Why | None:  # noqa: ARG002
        return None


class OnBoard:
    """What the workers and the supervisor say at this moment."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.state = board.upstreams.state
        self.live = board.upstreams.live

    def listener_live(self, slot: int) -> int:
        return self._board.total(listener_sessions(slot))

    def limit_met(self, plan: ListenerPlan, ip: str) -> Why | None:
        limits, board = plan.limits, self._board
        if limits is None:
            return None
        clients = None
        if limits.planes is not None:
            clients = Clients(board.planes.of(limits.planes), None, board.key)
        # Any worker's index will do for one who only looks.
        return Limits(limits, plan.slot, board, 0, clients).look(ip, time.monotonic())


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
