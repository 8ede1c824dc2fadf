"""control/answering.py: every question of the process that replaced this one gets an answer,
whatever it is and whatever becomes of it. The other process is the test; so are the workers."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import cast

import pytest
from harness.fds import same_fds

from spliceproxy.control.answering import Answering
from spliceproxy.control.draining import Draining
from spliceproxy.control.handover import Link, Said
from spliceproxy.control.record_streams import RecordStreams
from spliceproxy.control.sessions import LiveSessions, Part, Reached
from spliceproxy.ipc import OwnedFd
from spliceproxy.ipc.queries import SessionFilter, SessionQuery, decode_found

LONG = 60.0
"""Seconds."""
FAR = 1e12
"""A moment of CLOCK_MONOTONIC that will not come."""
WEB = SessionQuery(where=SessionFilter(listener="web"))


class FakeSessions:
    """What the workers say."""

    def __init__(self) -> None:
        self.asked: list[SessionQuery] = []
        self.silent: list[int] = []
        """Workers."""
        self.fails: Exception | None = None
        self.found: Part = []

    async def find_those(self, query: SessionQuery, patience: float) -> tuple[Reached, Part]:
        return Reached(*self._reached(query, patience)), self.found

    async def reset_those(self, query: SessionQuery, patience: float) -> Reached:
        return Reached(*self._reached(query, patience))

    def _reached(self, query: SessionQuery, patience: float) -> tuple[int, list[int], list[int]]:
        assert patience > LONG
        if self.fails is not None:
            raise self.fails
        self.asked.append(query)
        return 3, self.silent, [4711]


class New:
    """The process that asks."""

    def __init__(self, link: Link, sessions: FakeSessions) -> None:
        self.link, self.sessions = link, sessions

    async def hear(self) -> Said:
        said = await asyncio.wait_for(self.link.hear(), LONG)
        assert said is not None
        return said


def answering_with(sessions: FakeSessions) -> Answering:
    """Nobody watches here, and nothing is drained."""
    return Answering(cast(LiveSessions, sessions), cast(RecordStreams, None), cast(Draining, None))


Test = Callable[[New, Callable[[Said], None]], Awaitable[None]]


def with_answering(test: Test) -> None:
    """Run `test(new, ask)`; no fd is left."""

    async def run() -> None:
        there, here = map(Link, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        there.listen()
        sessions = FakeSessions()
        answering = answering_with(sessions)
        with closing(there), closing(here), closing(answering):
            await test(New(there, sessions), lambda said: answering.begin(here, said))

    with same_fds():
        asyncio.run(run())


def question(word: str = "find", **more: object) -> Said:
    return {"say": word, "number": 5, "query": WEB.encode(), "until": FAR, **more}


def test_it_answers_with_the_sessions_and_names_itself_where_a_worker_is_silent() -> None:
    async def test(new: New, ask: Callable[[Said], None]) -> None:
        new.sessions.found = [
            ([7.0, 0.0], {"session": "0-1-1"}),
            ([6.0, 0.0], {"session": "0-1-2"}),
        ]
        ask(question())
        said = await new.hear()
        file = said.pop("fd")
        assert isinstance(file, OwnedFd)
        told = decode_found(os.pread(file.fileno(), 1000, 0))
        assert [(key, json.loads(session)) for key, session in told] == new.sessions.found
        assert said == {"say": "answer", "number": 5, "sessions": 3, "silent": [4711]}
        new.sessions.silent = [1]
        ask(question("reset"))
        said = await new.hear()
        assert said == {"say": "answer", "number": 5, "sessions": 3, "silent": [os.getpid(), 4711]}
        assert new.sessions.asked == [WEB, WEB]

    with_answering(test)


STRANGE: list[Said] = [
    question(query=None),
    question(query="{"),
    question(query="[]"),
    question(until="soon"),
    question(until=0.0),
    question(query=json.dumps({**json.loads(WEB.encode()), "fields_of_tomorrow": 1})),
    question(query=WEB.encode().replace('"listener"', '"colour"')),
    {"say": "find", "number": 5},
    question("watch", keep="all"),
    question("watch", keep="all", fd=7),
    question("drain", target="all"),
    question("drain", target="all", on=True, over=0.0),  # AttributeError: there is nobody here
]


@pytest.mark.parametrize("word", ["find", "reset"])
@pytest.mark.parametrize("said", STRANGE, ids=str)
def test_a_question_that_it_does_not_understand_reaches_nobody(word: str, said: Said) -> None:
    async def test(new: New, ask: Callable[[Said], None]) -> None:
        ask({**said, "say": word if said["say"] == "find" else said["say"]})
        answer = await new.hear()
        assert answer == {"say": "answer", "number": 5, "sessions": 0, "silent": [os.getpid()]}
        assert not new.sessions.asked

    with_answering(test)


@pytest.mark.parametrize("fails", [OSError("no fds"), ZeroDivisionError()], ids=repr)
def test_whatever_goes_wrong_there_is_an_answer(fails: Exception) -> None:
    async def test(new: New, ask: Callable[[Said], None]) -> None:
        new.sessions.fails = fails
        ask(question())
        answer = await new.hear()
        assert (answer["sessions"], answer["silent"]) == (0, [os.getpid()])

    with_answering(test)


def test_an_answer_for_which_there_is_no_room_comes_later() -> None:
    async def run() -> None:
        there, here = map(Link, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        answering = answering_with(FakeSessions())
        with closing(there), closing(here), closing(answering):
            full = 0
            while here.say("sessions", sessions=full):
                full += 1
            answering.begin(here, question())
            await asyncio.sleep(0)
            there.listen()
            heard = [await asyncio.wait_for(there.hear(), LONG) for _ in range(full + 1)]
            assert [one["say"] for one in heard if one] == ["sessions"] * full + ["answer"]

    asyncio.run(run())


def test_an_answer_that_nobody_waits_for_is_given_up() -> None:
    async def run() -> None:
        there, here = map(Link, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        answering = answering_with(FakeSessions())
        here.listen()
        with closing(here):
            there.close()
            answering.begin(here, question())
            others = asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]
            assert len(others) == 1
            await asyncio.wait_for(asyncio.gather(*others), LONG)

    with same_fds():
        asyncio.run(run())
