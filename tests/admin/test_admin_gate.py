"""admin/gate.py: what must hold whichever of two things comes first."""

from __future__ import annotations

import asyncio

import pytest

from spliceproxy.admin.gate import Bounds, Crowd, Gate

BOUNDS = Bounds(request_time=60, listen_time=60, parting_time=60, most_said=10)


class Line(asyncio.Transport):
    """A connection that remembers what became of it."""

    def __init__(self) -> None:
        super().__init__()
        self.said = b""
        self.ended = False
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.said += bytes(data)

    def write_eof(self) -> None:
        self.ended = True

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.aborted

    def close(self) -> None:
        self.aborted = True

    abort = close


def refusal(status: int, _text: str) -> bytes:
    return b"%d" % status


def entered(crowd: Crowd) -> tuple[Gate, Line]:
    gate, line = Gate(crowd, asyncio.Protocol(), refusal, BOUNDS), Line()
    gate.connection_made(line)
    return gate, line


def test_what_was_told_already_is_not_answered_a_second_time() -> None:
    async def live() -> None:
        gate, line = entered(Crowd(1))
        gate.data_received(b"x" * 11)
        assert (line.said, line.ended) == (b"413", True)

        async def answer() -> None:
            async with gate.answering():
                line.write(b"200")

        answering = asyncio.create_task(answer())
        await asyncio.sleep(0)
        assert not answering.done(), "it would close the connection before that was heard"
        gate.connection_lost(None)
        with pytest.raises(ConnectionResetError):
            await answering
        assert line.said == b"413"

    asyncio.run(live())


def test_places_are_given_up_once_and_those_that_part_go_first() -> None:
    async def live() -> None:
        crowd = Crowd(2)
        (busy, busy_line), (told, told_line) = entered(crowd), entered(crowd)
        async with busy.answering():
            told.data_received(b"x" * 11)
            third, third_line = entered(crowd)
            assert (busy_line.aborted, told_line.aborted) == (False, True)
            told.connection_lost(None)  # its place is the third one's by now
            async with third.answering():
                fourth, fourth_line = entered(crowd)
                assert (fourth_line.said, fourth_line.aborted) == (b"503", True)
                fourth.connection_lost(None)
            assert not third_line.aborted
        for gate in (busy, third):
            assert not crowd.empty.is_set()
            gate.connection_lost(None)
        assert crowd.empty.is_set()

    asyncio.run(live())


def test_who_was_answered_is_closed_first_and_who_is_new_is_answered_once() -> None:
    async def live() -> None:
        crowd = Crowd(3)
        (kept, kept_line), (new, new_line) = entered(crowd), entered(crowd)
        async with kept.answering():
            pass
        crowd.see_out()
        assert (kept_line.aborted, new_line.aborted) == (True, False)
        late, late_line = entered(crowd)
        assert late.unwanted.is_set()
        assert crowd.new_ones
        async with new.answering(), late.answering():
            pass
        assert not crowd.new_ones
        crowd.send_home()
        assert (new_line.aborted, late_line.aborted) == (True, True)

    asyncio.run(live())
