"""The sessions that live, asked from the workers: they alone know them. Those that processes before
this one kept since an upgrade are asked from these."""

from __future__ import annotations

import asyncio
import heapq
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from operator import itemgetter
from typing import Any, Final

import orjson

from spliceproxy.control.fleet import Fleet
from spliceproxy.control.older import PATIENCE, Older, OlderAnswer
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

REST, LONGEST_REST = 3.0, 1.0
"""Between two questions the workers are left alone for so many times as long as the first one took:
whoever asks without end takes no more of them than that. The longest rest is in seconds."""
MOST_NAMED: Final = 1000
"""Sessions that can be named in one order."""
MOST_QUESTIONS: Final = 16
"""Questions that may wait for their turn: whoever asks without end keeps no order waiting."""
_MANY: Final = 500
"""Sessions beyond which it takes longer to find those that are told than the event loop may."""

Part = list[tuple[SortKey, dict[str, Any]]]
"""Sessions, in order, each behind what it is sorted by."""


@dataclass(frozen=True, slots=True)
class Reached:
    """What came of a question or an order."""

    number: int
    """Sessions that match, or were reset."""
    silent_workers: list[int]
    """Workers of this process that did not answer in time."""
    silent_processes: list[int]
    """Pids of older processes that did not answer in time, or not for all their workers."""


@dataclass(frozen=True, slots=True)
class FoundSessions(Reached):
    """An answer: some of the sessions that match."""

    sessions: list[dict[str, Any]]
    """Those that were asked for, in order."""


@dataclass(slots=True)
class _Question:
    """What is waited for."""

    waits_for: set[int]
    """Indices of workers."""
    done: asyncio.Event = field(default_factory=asyncio.Event)
    number: int = 0
    """Sessions that matched, or were reset."""
    sessions: list[tuple[SortKey, bytes]] = field(default_factory=list)

    async def wait(self, patience: float) -> None:
        """Until all have answered, for so many seconds at the most."""
        with suppress(TimeoutError):  # those that did not answer are told
            async with asyncio.timeout(patience):
                if self.waits_for:
                    await self.done.wait()

    def answered(self, index: int) -> None:
        """This worker is not waited for any more."""
        self.waits_for.discard(index)
        if not self.waits_for:
            self.done.set()


class LiveSessions:
    """Asks all workers at once, and the processes before this one, and puts their answers together.

    What is asked here is asked of the whole row: of sessions, `process` says which one has it.
    """

    def __init__(self, fleet: Fleet, patience: float = PATIENCE) -> None:
        """`patience`: seconds that whoever is asked may take to answer."""
        self._fleet = fleet
        self.older = Older()
        """The processes before this one."""
        self._patience = patience
        self._numbers = count(1)
        self._questions: dict[int, _Question] = {}
        self._turn = asyncio.Lock()
        self._asking = 0
        """Questions of `find` that have not been answered."""
        self._free_at = 0.0
        """The loop's time from which the next question may be asked."""
        self._pid = os.getpid()
        fleet.on_answer = self._on_answer
        fleet.on_gone = self._on_gone

    async def find(self, query: SessionQuery) -> FoundSessions:
        """The sessions that `query` asks for, over all workers.

        Raises SpliceproxyError while too many others ask.
        """
        if self._asking >= MOST_QUESTIONS:
            raise SpliceproxyError("too many ask for sessions at the same time; try again")
        self._asking += 1
        try:
            reached, part = await self.find_those(query, self._patience)
        finally:
            self._asking -= 1
        found = [session for _key, session in part]
        return FoundSessions(
            reached.number, reached.silent_workers, reached.silent_processes, found
        )

    async def find_those(self, query: SessionQuery, patience: float) -> tuple[Reached, Part]:
        """The same for whoever puts them together with others."""
        text = replace(query, offset=0, limit=query.offset + query.limit).encode()
        question, older = await self._ask("find", lambda number: Find(number, text), text, patience)
        found = question.sessions + older.sessions
        if len(found) > _MANY:
            part = await asyncio.to_thread(_part, found, query, self._pid)
        else:
            part = _part(found, query, self._pid)
        return _reached(question, older), part

    async def reset(self, ids: Sequence[str] = (), where: SessionFilter | None = None) -> Reached:
        """End those with these ids, or those that `where` means, by a reset.

        Raises QueryError: neither was given, or both, or too many.
        """
        if bool(ids) == (where is not None):
            raise QueryError("say which sessions: either by their names, or by a filter")
        if len(ids) > MOST_NAMED:
            raise QueryError(f"{len(ids)} sessions; one order can name {MOST_NAMED}")
        if where is not None and where.empty:
            raise QueryError('an empty filter is every session; say which: {"listener": "web"}')
        query = SessionQuery(where=where or SessionFilter(), ids=tuple(ids))
        return await self.reset_those(query, self._patience)

    async def reset_those(self, query: SessionQuery, patience: float) -> Reached:
        """The same as a process that was replaced is asked for it. Raises QueryError."""
        if query.where.empty and not query.ids:
            raise QueryError("an empty filter is every session")
        text = query.encode()
        asked = await self._ask("reset", lambda number: Reset(number, text), text, patience)
        return _reached(*asked)

    async def _ask(
        self, word: str, message: Callable[[int], Message], query: str, patience: float
    ) -> tuple[_Question, OlderAnswer]:
        """Ask every worker that serves, and by `word` whoever is older; `message(number)` makes
        the workers' question."""
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
                _, older = await asyncio.gather(
                    question.wait(patience), self.older.ask(word, query, patience)
                )
            finally:
                del self._questions[number]
                took = loop.time() - began
                self._free_at = loop.time() + min(LONGEST_REST, REST * took)
            return question, older

    def _on_answer(self, worker: WorkerProcess, answer: Found | WasReset, fds: list[int]) -> None:
        question = self._questions.get(answer.request)
        if question is None or worker.index not in question.waits_for:
            return  # it came too late
        if isinstance(answer, Found):
            question.number += answer.matching
            question.sessions += decode_found(os.pread(fds[0], os.fstat(fds[0]).st_size, 0))
        else:
            question.number += answer.sessions
        question.answered(worker.index)

    def _on_gone(self, worker: WorkerProcess) -> None:
        """It has no session any more: after an upgrade workers end when their last one does."""
        for question in self._questions.values():
            question.answered(worker.index)


def _reached(question: _Question, older: OlderAnswer) -> Reached:
    return Reached(question.number + older.number, sorted(question.waits_for), older.silent)


def _part(found: list[tuple[SortKey, bytes]], query: SessionQuery, process: int) -> Part:
    """Those of the sessions that were asked for, in order; `process` has those that say nothing
    else. Unlike a sort, heapq lets others run between two of its steps."""
    first = heapq.nsmallest if query.sort.startswith("-") else heapq.nlargest
    best = first(query.offset + query.limit, found, key=itemgetter(0))
    part = [(key, orjson.loads(session)) for key, session in best[query.offset :]]
    for _key, session in part:
        session.setdefault("process", process)
    return part
