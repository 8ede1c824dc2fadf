"""What whoever serves the doors can see and do: the supervisor's parts, handed out as one value."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from spliceproxy.control.closed import ClosedListeners
from spliceproxy.control.doors import Doors
from spliceproxy.control.draining import Draining
from spliceproxy.control.events import Events
from spliceproxy.control.fleet import Fleet
from spliceproxy.control.log_level import LogLevel
from spliceproxy.control.parts import InForce, Lasting, Part, UpstreamStates
from spliceproxy.control.record_streams import RecordStreams
from spliceproxy.control.service import Service
from spliceproxy.control.sessions import LiveSessions
from spliceproxy.control.slots import UpstreamSlots
from spliceproxy.control.weights import Weights
from spliceproxy.telemetry.board import Board

if TYPE_CHECKING:
    from spliceproxy.config import Config

Reload = Callable[[], Awaitable[list[str]]]
"""Reads the configuration anew and returns what changed, a line each. Raises SpliceproxyError."""

Upgrade = Callable[[], Awaitable[dict[str, int]]]
"""Replaces this process by a new one; the `pid` that serves now, and the `sessions` that this one
has. Raises SpliceproxyError."""


@dataclass(frozen=True, slots=True)
class House:
    """One running supervisor."""

    fleet: Fleet
    service: Service
    board: Board
    states: UpstreamStates
    slots: UpstreamSlots
    closed: ClosedListeners
    draining: Draining
    sessions: LiveSessions
    streams: RecordStreams
    events: Events
    weights: Weights
    log_level: LogLevel
    in_force: Callable[[], InForce]
    reload: Reload
    upgrade: Upgrade
    not_serving: Callable[[], str]
    """Why this process takes no new sessions now, as a whole; empty: it does."""
    older_sessions: Callable[[], int]
    """Sessions of processes that this one replaced."""
    older_counters: Sequence[memoryview]
    """What these counted, and count."""
    certificates: Callable[[str], list[dict[str, Any]]]
    """The certificates of the listener with this name."""
    broken_files: Callable[[str], list[dict[str, Any]]]
    """Those of its files that cannot be used, and why."""
    reloaded: Callable[[], tuple[bool, float]]
    """Whether the last reload was put in force, and when the last one was that was, in seconds
    since the epoch."""
    files: Callable[[], Sequence[Path]]
    """Those that the configuration in force was read from; none: it is from no file."""


class AdminPart(Part, Lasting, Protocol):
    """Who serves the doors."""

    def move_in(self, house: House) -> None:
        """Know what to tell of; called once, before anything else."""

    async def hand_over(self) -> None:
        """Let nobody in any more: another process does. The answers under way go on, that to
        `upgrade` among them."""


AdminMaker = Callable[["Config", Doors], AdminPart]
"""Makes it before anything runs. Raises SpliceproxyError where it could not serve."""
