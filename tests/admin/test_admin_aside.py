"""What takes long to tell is made in a thread: the event loop has health checks to look after."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from harness.counted import CONFIG, CountedProxy, run

from spliceproxy.admin import reading as module
from spliceproxy.admin.asking import Answer, Asked
from spliceproxy.admin.reading import Reading
from spliceproxy.admin.status import Report, Statuses
from spliceproxy.control.house import House

MANY = [f"10.0.{n >> 8}.{n & 255}:80" for n in range(200)]


class ToldOf:
    """Statuses that say in which thread they were asked."""

    def __init__(self) -> None:
        self.threads: dict[str, threading.Thread] = {}

    def status(self, *, writable: bool) -> Report:
        self.threads["status"] = threading.current_thread()
        return {"writable": writable}

    def listeners(self) -> list[Report]:
        self.threads["listeners"] = threading.current_thread()
        return []

    def pools(self, _in_force: object) -> list[Report]:
        self.threads["pools"] = threading.current_thread()
        return [{"name": "app", "upstreams": [{"name": name} for name in MANY]}]


def _ask(
    ask: Callable[[Reading], Awaitable[Answer]], upstreams: list[str]
) -> dict[str, threading.Thread]:
    """In which threads the parts of an answer were made; `loop` is the event loop's."""
    statuses = ToldOf()

    async def test(proxy: CountedProxy) -> None:
        proxy.apply({**CONFIG, "pools": {"app": {"upstreams": upstreams}}})
        proxy.now += 1
        proxy.traffic.traffic()
        house: Any = SimpleNamespace(in_force=lambda: proxy.in_force, files=lambda: ())
        reading = Reading(cast(House, house), proxy.traffic, dict)
        reading._statuses = cast(Statuses, statuses)
        statuses.threads["loop"] = threading.current_thread()
        assert (await ask(reading)).status == 200

    run(test)
    return statuses.threads


@pytest.mark.parametrize(
    "ask",
    [
        lambda reading: reading.status(Asked()),
        lambda reading: reading.pools(Asked()),
        lambda reading: reading.pool(Asked(name="app")),
        lambda reading: reading.upstreams(Asked()),
    ],
    ids=["status", "pools", "pool", "upstreams"],
)
def test_many_upstreams_are_told_of_in_a_thread(
    ask: Callable[[Reading], Awaitable[Answer]],
) -> None:
    threads = _ask(ask, MANY)
    assert threads["pools"] is not threads["loop"]
    assert threads.get("status", threads["loop"]) is threads["loop"]


def test_a_configuration_is_put_into_words_once_and_in_a_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[threading.Thread] = []
    in_words = module.in_words

    def watched(*configuration: Any) -> Any:
        made.append(threading.current_thread())
        return in_words(*configuration)

    monkeypatch.setattr(module, "in_words", watched)

    async def thrice(reading: Reading) -> Answer:
        first, *others = [await reading.config(Asked()) for _ in range(3)]
        assert all(other.body == first.body for other in others)
        return first

    threads = _ask(thrice, MANY)
    assert len(made) == 1
    assert made[0] is not threads["loop"]


def test_however_many_ask_a_reload_has_a_thread() -> None:
    async def test(proxy: CountedProxy) -> None:
        proxy.apply({**CONFIG, "pools": {"app": {"upstreams": MANY}}})
        proxy.now += 1
        proxy.traffic.traffic()
        begin = threading.Event()
        asked = [asyncio.create_task(proxy.traffic.aside(begin.wait)) for _ in range(100)]
        await asyncio.sleep(0)
        try:
            assert await asyncio.to_thread(lambda: "reloaded") == "reloaded"
            assert not any(task.done() for task in asked)
        finally:
            begin.set()
        await asyncio.wait(asked)

    run(test)
