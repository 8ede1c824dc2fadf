"""control/sessions.py: the answers of all workers, put together."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from spliceproxy.control.fleet import Fleet
from spliceproxy.control.sessions import MOST_QUESTIONS, LiveSessions
from spliceproxy.errors import SpliceproxyError
from spliceproxy.ipc import Find, Found, Reset, WasReset
from spliceproxy.ipc.queries import SessionQuery, encode_found
from spliceproxy.ipc.sealed import memfd_of


class Workers:
    """Workers with ten idle sessions each, who answer one after the other."""

    def __init__(self, order: list[int]) -> None:
        """`order`: who answers first."""
        self.on_answer: Any = None
        self._order = order
        self._asked: dict[int, Find] = {}

    def workers(self) -> list[Any]:
        def send(index: int, find: Find) -> None:
            self._asked[index] = find
            if len(self._asked) == len(self._order):
                asyncio.get_running_loop().call_soon(self._answer)

        return [
            SimpleNamespace(index=n, ready=True, send=lambda find, n=n: send(n, find))
            for n in sorted(self._order)
        ]

    def _answer(self) -> None:
        for index in self._order:
            find = self._asked[index]
            query = SessionQuery.decode(find.query)
            sign = -1 if query.sort.startswith("-") else 1
            keys = [(0.0, -100.0 - fd // 3, index, fd) for fd in range(10)]
            keys = sorted(keys, reverse=sign > 0)[: query.limit]
            sessions = [orjson.dumps({"session": f"{index}-{key[3]}"}) for key in keys]
            file = memfd_of(encode_found(keys, sessions))
            worker = SimpleNamespace(index=index)
            self.on_answer(worker, Found(find.request, 10), [file.fileno()])


@pytest.mark.parametrize("sort", ["bytes", "-bytes"])
def test_the_parts_of_an_answer_fit_together_whoever_answers_first(sort: str) -> None:
    async def parts() -> list[str]:
        found = []
        for number, offset in enumerate(range(0, 20, 3)):
            order = [0, 1] if number % 2 else [1, 0]
            live = LiveSessions(cast(Fleet, Workers(order)))
            answer = await live.find(SessionQuery(sort=sort, offset=offset, limit=3))
            assert answer.number == 20
            found += [session["session"] for session in answer.sessions]
        return found

    found = asyncio.run(asyncio.wait_for(parts(), 60))
    assert len(found) == 20
    assert len(set(found)) == 20, "a session is in two parts, and another one in none"


def test_many_who_ask_are_turned_away_and_keep_no_order_waiting() -> None:
    """As many as a door has places could ask again and again, one after the other."""
    told: list[Find | Reset] = []

    async def ask() -> None:
        silent = SimpleNamespace(index=0, ready=True, send=told.append)
        fleet = SimpleNamespace(on_answer=None, workers=lambda: [silent])
        live = LiveSessions(cast(Fleet, fleet))
        asking = [asyncio.create_task(live.find(SessionQuery())) for _ in range(MOST_QUESTIONS)]
        await asyncio.sleep(0)
        with pytest.raises(SpliceproxyError, match="too many ask"):
            await live.find(SessionQuery())
        order = asyncio.create_task(live.reset(["0-eb810881-1"]))
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
        while not any(isinstance(one, Reset) for one in told):
            await asyncio.sleep(0)
        fleet.on_answer(silent, WasReset(told[-1].request, 1), [])
        assert (await order).number == 1

    asyncio.run(asyncio.wait_for(ask(), 60))
