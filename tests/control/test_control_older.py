"""control/older.py: what is asked of the processes before this one, and what becomes of those that
answer late, wrongly or not at all. The other process is the test, at the far end of a real pair."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import closing

import pytest
from harness.fds import same_fds

from spliceproxy.control.handover import Link, Said
from spliceproxy.control.older import Older, OlderAnswer
from spliceproxy.ipc import OwnedFd
from spliceproxy.ipc.queries import SortKey, encode_found
from spliceproxy.ipc.sealed import memfd_of

NEVER = 0.05
"""Seconds of patience with one that will not answer."""
LONG = 60.0
"""Seconds of patience with one that will."""
NOBODY = OlderAnswer()
SILENT = OlderAnswer(silent=[os.getpid()])  # whoever made the pair


class Far:
    """The process before this one, whose answers a test decides."""

    def __init__(self, older: Older, link: Link, here: Link) -> None:
        self.older, self.link, self._here = older, link, here
        self._hearing = asyncio.create_task(self._hear())

    async def _hear(self) -> None:
        """What control/succession.py does with what comes."""
        while (said := await self._here.hear()) is not None:
            self.older.on_answer(said)
        self.older.end()

    async def asked(self) -> Said:
        """The next question."""
        said = await asyncio.wait_for(self.link.hear(), LONG)
        assert said is not None
        return said

    def answer(self, said: Said, file: OwnedFd | None = None, **more: object) -> None:
        told = {"number": said["number"], "sessions": 0, "silent": [], **more}
        assert self.link.say("answer", file, **told)

    async def go(self) -> None:
        """Its end, which is heard of before this returns."""
        self.link.close()
        await self._hearing

    def close(self) -> None:
        self._hearing.cancel()
        self.link.close()
        self._here.close()


def with_older(test: Callable[[Far], Awaitable[None]], *, answers: bool = True) -> None:
    """Run `test` in a loop of its own; no fd is left."""

    async def run() -> None:
        here, there = map(Link, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        here.listen()
        there.listen()
        older = Older()
        older.begin(here, answers=answers)
        with closing(Far(older, there, here)) as far:
            await asyncio.wait_for(test(far), LONG)

    with same_fds():
        asyncio.run(run())


def found(*sessions: tuple[SortKey, bytes]) -> OwnedFd:
    keys, texts = [key for key, _ in sessions], [text for _, text in sessions]
    return memfd_of(encode_found(keys, texts))


def test_without_anybody_before_it_nobody_is_asked_and_nobody_is_silent() -> None:
    assert asyncio.run(Older().ask("find", "{}", LONG)) == NOBODY


def test_an_answer_comes_with_the_sessions_and_with_who_else_was_silent() -> None:
    async def test(far: Far) -> None:
        asking = asyncio.create_task(far.older.ask("find", "the query", LONG))
        said = await far.asked()
        assert (said["say"], said["query"]) == ("find", "the query")
        assert 0 < said["until"] - time.monotonic() < LONG
        file = found(([7, 1], b'{"session": "0-1-1"}'))
        far.answer(said, file, sessions=3, silent=[4711])
        answer = await asking
        assert answer == OlderAnswer(3, [([7.0, 1.0], b'{"session": "0-1-1"}')], [4711])

    with_older(test)


def test_one_that_knows_of_no_questions_is_named_and_not_asked() -> None:
    async def test(far: Far) -> None:
        assert await far.older.ask("reset", "{}", LONG) == SILENT
        far.older.end()
        assert await far.older.ask("reset", "{}", LONG) == NOBODY
        far._here.close()
        assert await far.link.hear() is None

    with_older(test, answers=False)


def test_one_that_owes_an_answer_is_asked_nothing_until_it_has_given_it() -> None:
    async def test(far: Far) -> None:
        for _ in range(3):
            assert await far.older.ask("find", "first", NEVER) == SILENT
        first = await far.asked()
        assert await far.older.ask("find", "not sent", LONG) == SILENT
        far.answer(first, found(), sessions=1)

        async def answer_the_second() -> None:
            second = await far.asked()
            assert second["query"] == "second"
            far.answer(second, sessions=2)

        answering = asyncio.create_task(answer_the_second())
        while (answer := await far.older.ask("reset", "second", LONG)) == SILENT:
            await asyncio.sleep(0)  # the late answer is on its way
        assert answer == OlderAnswer(2)
        await answering

    with_older(test)


def test_whoever_asks_and_goes_away_leaves_the_answer_owed() -> None:
    async def test(far: Far) -> None:
        asking = asyncio.create_task(far.older.ask("find", "{}", LONG))
        said = await far.asked()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await far.older.ask("find", "{}", LONG) == SILENT
        far.older.on_answer({"say": "answer", "number": said["number"] + 1})  # no such question
        assert await far.older.ask("find", "{}", LONG) == SILENT
        far.older.on_answer({"say": "answer", "number": said["number"]})
        asking = asyncio.create_task(far.older.ask("find", "{}", LONG))
        far.answer(await far.asked(), found())
        assert await asking == NOBODY

    with_older(test)


def test_who_was_not_asked_is_told_from_who_was_and_did_not_answer() -> None:
    async def test(far: Far) -> None:
        assert (await far.older.ask("watch", "{}", NEVER)).asked
        assert not (await far.older.ask("watch", "{}", NEVER)).asked
        far.answer(await far.asked())

    with_older(test)


def test_one_that_waits_for_its_turn_gives_those_behind_no_more_than_what_is_left() -> None:
    async def test(far: Far) -> None:
        first = asyncio.create_task(far.older.ask("find", "{}", LONG))
        said = await far.asked()
        patience = 0.5
        end = time.monotonic() + patience
        second = asyncio.create_task(far.older.ask("reset", "{}", patience))
        await asyncio.sleep(patience / 2)
        far.answer(said, found())
        assert await first == NOBODY
        assert (await far.asked())["until"] < end
        await second

    with_older(test)


def test_sessions_without_the_file_that_has_them_are_no_answer() -> None:
    """There was no fd to be had for it."""

    async def test(far: Far) -> None:
        asking = asyncio.create_task(far.older.ask("find", "{}", LONG))
        far.answer(await far.asked(), sessions=3)
        assert await asking == SILENT

    with_older(test)


def test_one_that_dies_while_it_is_asked_is_left_out_at_once() -> None:
    async def test(far: Far) -> None:
        asking = [asyncio.create_task(far.older.ask("find", "{}", LONG)) for _ in range(2)]
        await far.asked()
        await far.go()
        assert [await one for one in asking] == [NOBODY] * 2
        assert await far.older.ask("find", "{}", LONG) == NOBODY

    with_older(test)


WRONG: list[dict[str, object]] = [
    {"sessions": None},
    {"sessions": "many"},
    {"silent": None},
    {"silent": ["x"]},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_an_answer_that_makes_no_sense_counts_as_none(wrong: dict[str, object]) -> None:
    async def test(far: Far) -> None:
        asking = asyncio.create_task(far.older.ask("find", "{}", LONG))
        far.answer(await far.asked(), found(), **wrong)
        assert await asking == SILENT

    with_older(test)


@pytest.mark.parametrize("text", [b"", b"{", b"7", b"[7]\n{}", b"[[7]]", b"[]\n{}", b'[["x"]]\n{}'])
def test_sessions_that_make_no_sense_count_as_no_answer(text: bytes) -> None:
    async def test(far: Far) -> None:
        asking = asyncio.create_task(far.older.ask("find", "{}", LONG))
        far.answer(await far.asked(), memfd_of(text))
        assert await asking == SILENT

    with_older(test)


def test_a_question_that_is_too_long_for_a_message_is_not_sent() -> None:
    async def test(far: Far) -> None:
        assert await far.older.ask("find", "x" * 300_000, LONG) == SILENT
        asking = asyncio.create_task(far.older.ask("find", "short", LONG))
        said = await far.asked()
        assert said["query"] == "short"
        far.answer(said, found())
        assert await asking == NOBODY

    with_older(test)


def test_a_file_that_nobody_asked_for_is_closed() -> None:
    async def test(far: Far) -> None:
        asking = asyncio.create_task(far.older.ask("find", "{}", LONG))
        said = await far.asked()
        for number in (said["number"] + 7, None, "x"):
            far.link.say("answer", found(), number=number, sessions=9, silent=[])
        far.link.say("no such word", found())
        far.answer(said, found(), sessions=1)
        assert await asking == OlderAnswer(1)

    with_older(test)
