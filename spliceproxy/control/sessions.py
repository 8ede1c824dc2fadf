"""The sessions that live, asked from the workers: they alone know them."""

from __future__ import annotations

import asyncio
import heapq
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from operator import itemgetter
from typing import Any, Final

import orjson

from spliceproxy.control.fleet import Fleet
from spliceproxy.control.worker_process import WorkerProcess
from spliceproxy.errors import SpliceproxyError
from spliceproxy.ipc import Find, Found, Message, Reset, WasReset
from spliceproxy.ipc.queries import (
    QueryError,
    SessionFilter,
    SessionQuery,
    SortKey,
    decode_found,
)

PATIENCE: Final = 3.0
"""Seconds that a worker may take to answer."""
REST, LONGEST_REST = 3.0, 1.0
"""Between two questions the workers are left alone for so many times as long as the first one took:
whoever asks without end takes no more of them than that. The longest rest is in seconds."""
MOST_NAMED: Final = 1000
"""Sessions that can be named in one order."""
MOST_QUESTIONS: Final = 16
"""Questions that may wait for their turn: whoever asks without end keeps no order waiting."""
_MANY: Final = 500
"""Sessions beyond which it takes longer to find those that are told than the event loop may."""


@dataclass(frozen=True, slots=True)
class FoundSessions:
    """An answer: some of the sessions that match."""

    matching: int
    """How many there are in all."""
    sessions: list[dict[str, Any]]
    """Those that were asked for, in order."""
    silent: list[int]
    """Workers that did not answer in time."""


@dataclass(slots=True)
class _Question:
    """What is waited for."""

    waits_for: set[int]
    """Indices of workers."""
    done: asyncio.Event = field(default_factory=asyncio.Event)
    number: int = 0
    """Sessions that matched, or were reset."""
    sessions: list[tuple[SortKey, bytes]] = field(default_factory=list)


class LiveSessions:
    """Asks all workers at once, and puts their answers together."""

    def __init__(self, fleet: Fleet, patience: float = PATIENCE) -> None:
        """`patience`: seconds that a worker may take to answer."""
        self._fleet = fleet
        self._patience = patience
        self._numbers = count(1)
        self._questions: dict[int, _Question] = {}
        self._turn = asyncio.Lock()
        self._asking = 0
        """Questions of `find` that have not been answered."""
        self._free_at = 0.0
        """The loop's time from which the next question may be asked."""
        fleet.on_answer = self._on_answer

    async def find(self, query: SessionQuery) -> FoundSessions:
        """The sessions that `query` asks for, over all workers.

        Raises SpliceproxyError while too many others ask.
        """
        if self._asking >= MOST_QUESTIONS:
            raise SpliceproxyError("too many ask for sessions at the same time; try again")
        whole = replace(query, offset=0, limit=query.offset + query.limit)
        self._asking += 1
        try:
            question = await self._ask(lambda number: Find(number, whole.encode()))
        finally:
            self._asking -= 1
        if len(question.sessions) > _MANY:
            part = await asyncio.to_thread(_part, question.sessions, query)
        else:
            part = _part(question.sessions, query)
        return FoundSessions(question.number, part, sorted(question.waits_for))

    async def reset(self, ids: Sequence[str] = (), where: SessionFilter | None = None) -> int:
        """End those with these ids, or those that `where` means, by a reset; how many there were.

        Raises QueryError: neither was given, or both, or too many.
        """
        if bool(ids) == (where is not None):
            raise QueryError("say which sessions: either by their names, or by a filter")
        if len(ids) > MOST_NAMED:
            raise QueryError(f"{len(ids)} sessions; one order can name {MOST_NAMED}")
        if where is not None and where.empty:
            raise QueryError('an empty filter is every session; say which: {"listener": "web"}')
        query = SessionQuery(where=where or SessionFilter(), ids=tuple(ids))
        question = await self._ask(lambda number: Reset(number, query.encode()))
        return question.number

    async def _ask(self, message: Callable[[int], Message]) -> _Question:
        """Ask every worker that serves; `message(number)` makes the question."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            await asyncio.sleep(max(0.0, self._free_at - loop.time()))
            began = loop.time()
            workers = [worker for worker in self._fleet.workers() if worker.ready]
            number = next(self._numbers)
            question = _Question({worker.index for worker in workers})
            self._questions[number] = question
            try:
                asked = message(number)
                for worker in workers:
                    worker.send(asked)
                if workers:
                    await asyncio.wait_for(question.done.wait(), self._patience)
            except TimeoutError:
                pass  # those that did not answer are told
            finally:
                del self._questions[number]
                took = loop.time() - began
                self._free_at = loop.time() + min(LONGEST_REST, REST * took)
            return question

    def _on_answer(self, worker: WorkerProcess, answer: Found | WasReset, fds: list[int]) -> None:
        question = self._questions.get(answer.request)
        if question is None or worker.index not in question.waits_for:
            return  # it came too late
        if isinstance(answer, Found):
            question.number += answer.matching
            question.sessions += decode_found(os.pread(fds[0], os.fstat(fds[0]).st_size, 0))
        else:
            question.number += answer.sessions
        question.waits_for.discard(worker.index)
        if not question.waits_for:
            question.done.set()


def _part(found: list[tuple[SortKey, bytes]], query: SessionQuery) -> list[dict[str, Any]]:
    """Those of the sessions that were asked for, in order. Unlike a sort, heapq lets others run
    between two of its steps."""
    first = heapq.nsmallest if query.sort.startswith("-") else heapq.nlargest
    best = first(query.offset + query.limit, found, key=itemgetter(0))
    return [orjson.loads(session) for _key, session in best[query.offset :]]
