"""What metrics tell of one moment: what was counted, and what is so now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from spliceproxy.telemetry.ledger import Ledger

STATES: Final = ("up", "draining", "down", "ejected")


class UpstreamNow(NamedTuple):
    """An upstream of the configuration at one moment."""

    name: str
    states: Sequence[str]
    """Of STATES."""
    weight: int


class PoolNow(NamedTuple):
    """A pool of the configuration at one moment."""

    name: str
    waiting: int
    usable: int
    upstreams: Sequence[UpstreamNow]


class WorkerNow(NamedTuple):
    """A worker at one moment."""

    ready: bool
    memory: int | None
    """Bytes; None: there is no process."""


@dataclass(frozen=True, slots=True)
class Moment:
    """All that is told of one moment."""

    ledger: Ledger
    sessions: Mapping[str, int]
    """Live ones, connected or not, by listener."""
    max_sessions: Mapping[str, int]
    """Of listeners that have such a limit."""
    older_sessions: int
    pools: Sequence[PoolNow]
    workers: Sequence[WorkerNow]
    certificates: Iterable[tuple[str, str, float]]
    """Listener, file, and the end in seconds since the epoch."""
    broken_files: Mapping[str, int]
    """By listener, of those that end TLS."""
    reloaded: tuple[bool, float]
    """Whether the last reload was well, and when the last one was that was well."""
    told_as: Callable[[str, str], str]
    """Pool and upstream; under which name the upstream is told of."""
