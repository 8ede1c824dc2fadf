"""What is asked of the processes before this one, which keep their sessions since an upgrade.

Only the nearest of them is asked, over the link that is there since it handed over. It asks its own
predecessor in the same way, and answers for both: so one question reaches the whole row. Each gives
those behind it less time than it has itself, so that one who is silent costs its own answer and
not those of the processes in front of it.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from spliceproxy.control.handover import Link, Said
from spliceproxy.ipc import HasFileno, OwnedFd
from spliceproxy.ipc.queries import SortKey, decode_found

PATIENCE: Final = 3.0
"""Seconds that whoever is asked about sessions may take to answer, a worker or a process."""
_SHARE: Final = 0.8
"""Of the time that there is, what the next one in the row gets: the rest is for the way back."""


@dataclass(frozen=True, slots=True)
class OlderAnswer:
    """What all processes before this one say."""

    number: int = 0
    """Of their sessions that matched, or were reset."""
    sessions: list[tuple[SortKey, bytes]] = field(default_factory=list)
    """Those that were asked for, as JSON, each behind what it is sorted by."""
    silent: list[int] = field(default_factory=list)
    """Pids of those that could not tell of all of theirs: each may stand for others behind it."""
    asked: bool = field(default=True, compare=False)
    """Whether the question went out: not while the nearest one owes an answer."""


_NOBODY: Final = OlderAnswer()


class Older:
    """The processes before this one, by the link to the nearest of them, while it lives."""

    def __init__(self) -> None:
        self._link: Link | None = None
        self._pid = 0
        self._answers = False
        self._numbers = count(1)
        self._turn = asyncio.Lock()
        self._waiting: asyncio.Future[OlderAnswer | None] | None = None
        self._owed = 0
        """The number of the question that is not answered yet; 0: none."""
        self._word = ""
        """What it asked for."""

    @property
    def answering(self) -> bool:
        """Whether there is any, and it knows of questions."""
        return self._link is not None and self._answers

    def begin(self, link: Link, *, answers: bool) -> None:
        """The process behind `link` has handed over; not `answers`: it knows of no questions."""
        self._link, self._pid, self._answers = link, link.pid, answers

    def end(self) -> None:
        """It is gone, and so is whoever was before it."""
        self._link, self._owed = None, 0
        self._wake(None)

    async def ask(
        self, word: str, query: str, patience: float, file: HasFileno | None = None, **more: object
    ) -> OlderAnswer:
        """What they answer within `patience` seconds to a question; see handover.py.

        One that owes an answer is asked no more, and not waited for, until it has given it.
        """
        if self._link is None:
            return _NOBODY
        answer, asked = None, False
        with suppress(TimeoutError):
            async with asyncio.timeout(patience) as limit, self._turn:
                if self._link is not None and self._answers and not self._owed:
                    left = (limit.when() or 0.0) - asyncio.get_running_loop().time()
                    told = {"query": query, "until": time.monotonic() + _SHARE * left, **more}
                    asked = self._say(self._link, word, file, told)
                    answer = await self._answer() if asked else None
        if answer is not None:
            return answer
        return _NOBODY if self._link is None else OlderAnswer(silent=[self._pid], asked=asked)

    async def drain(
        self, target: str, on: bool, over: float | None, patience: float = PATIENCE
    ) -> OlderAnswer:
        """Have them drain or undrain what they have of a target, see Draining.order; `number` is
        that of their sessions."""
        return await self.ask("drain", "", patience, target=target, on=on, over=over)

    def on_answer(self, said: Said) -> None:
        """What came as `answer`; the file that came with it is closed in here."""
        answer = _read(said, said.pop("fd", None), self._word)
        if self._owed and said.get("number") == self._owed:
            self._owed = 0
            self._wake(answer)

    def _say(self, link: Link, word: str, file: HasFileno | None, told: dict[str, object]) -> bool:
        number = next(self._numbers)
        if not link.say(word, file, number=number, **told):
            return False
        self._owed, self._word = number, word
        return True

    async def _answer(self) -> OlderAnswer | None:
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            return await self._waiting
        finally:
            self._waiting = None

    def _wake(self, answer: OlderAnswer | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answer)


def _read(said: Said, file: object, word: str) -> OlderAnswer | None:
    """The answer to `word` in a message and its file; None: it is none. Without an fd to be had
    here a file does not arrive."""
    sessions: list[tuple[SortKey, bytes]] = []
    try:
        if isinstance(file, OwnedFd):
            fd = file.fileno()
            told = decode_found(os.pread(fd, os.fstat(fd).st_size, 0))
            sessions = [([float(number) for number in key], session) for key, session in told]
        elif word == "find":
            return None
        silent = [int(pid) for pid in said["silent"]]
        return OlderAnswer(int(said["sessions"]), sessions, silent)
    except (KeyError, TypeError, ValueError, OSError):
        return None
