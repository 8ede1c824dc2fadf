"""Says in the log when sessions have come to a limit, and when there is room again.

Clients who find a listener full wait in the kernel's queue, without a record and without a word: to
them, and to an operator, the proxy looks slow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import structlog

from spliceproxy.control.parts import InForce
from spliceproxy.telemetry.board import SESSIONS, Board, listener_sessions

_log = structlog.get_logger()

_TICK = 1.0
"""Seconds between two looks."""
_ROOM = 0.9
"""The share of a limit below which there is room again: so that the log does not hear of each
session that comes and goes near the limit."""


@dataclass(frozen=True, slots=True)
class _Limit:
    """How many sessions something may have."""

    kind: str
    """process, worker, listener or pool."""
    name: str | int
    most: int
    sessions: Callable[[], int]
    """How many it has."""


class Fullness:
    """Looks at the board once a second. A Part."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._limits: list[_Limit] = []
        self._full: set[tuple[str, str | int]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def apply(self, in_force: InForce) -> None:
        """Look at the limits of this configuration from now on."""
        self._limits = list(self._limits_of(in_force))
        self._full &= {(one.kind, one.name) for one in self._limits}
        if self._timer is None:
            self._look_later()

    async def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_TICK, self._on_tick)

    def _on_tick(self) -> None:
        self.look()
        self._look_later()

    def look(self) -> None:
        """Say what is full now, and was not before, and the other way round."""
        for limit in self._limits:
            key, sessions = (limit.kind, limit.name), limit.sessions()
            said = {limit.kind: limit.name, "sessions": sessions, "max_sessions": limit.most}
            if sessions >= limit.most and key not in self._full:
                self._full.add(key)
                _log.warning(f"{limit.kind} full", **said)
            elif sessions < limit.most * _ROOM and key in self._full:
                self._full.remove(key)
                _log.info(f"{limit.kind} has room again", **said)

    def _limits_of(self, in_force: InForce) -> Iterator[_Limit]:
        board, snapshot = self._board, in_force.snapshot
        if snapshot.max_sessions is not None:
            total = partial(board.total, SESSIONS)
            yield _Limit("process", "spliceproxy", snapshot.max_sessions, total)
        for index, region in enumerate(board.regions):
            sessions = partial(region.__getitem__, SESSIONS)
            yield _Limit("worker", index, snapshot.worker_sessions, sessions)
        for listener in snapshot.listeners:
            if listener.max_sessions is not None:
                sessions = partial(board.total, listener_sessions(listener.slot))
                yield _Limit("listener", listener.name, listener.max_sessions, sessions)
        for pool in snapshot.pools:
            if pool.max_sessions is not None:
                sessions = partial(board.upstreams.live, pool.slot)
                yield _Limit("pool", pool.name, pool.max_sessions, sessions)
