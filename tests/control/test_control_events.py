"""control/events.py: the last lines of the log, and those who follow it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from harness.upstreams import named
from live_wing import live_wing, tapped_log

from spliceproxy.control.events import KEPT, WAITING, Events, EventSubscription

_log = structlog.get_logger()


@pytest.fixture
def events() -> Iterator[Events]:
    """Events that are fed by this process's log, of which only errors are written."""
    with tapped_log("error") as events:
        yield events


async def some(subscription: EventSubscription, number: int) -> list[dict[str, Any]]:
    """The next lines, as soon as there are so many."""
    async with asyncio.timeout(10):
        return [await anext(subscription) for _ in range(number)]


async def all_of(subscription: EventSubscription) -> list[dict[str, Any]]:
    """The lines up to the close."""
    return [line async for line in subscription]


def test_the_last_lines_are_remembered_oldest_first(events: Events) -> None:
    _log.debug("too small")
    for number in range(KEPT + 7):
        _log.info("upstream up", number=number)
    numbers = [line["number"] for line in events.recent()]
    assert numbers == list(range(7, KEPT + 7))


def test_who_follows_is_told_of_what_comes_and_not_of_what_was(events: Events) -> None:
    async def follow() -> None:
        _log.info("before")
        one, other = events.subscribe(), events.subscribe()
        _log.info("upstream down", pool="app")
        _log.info("upstream up", pool="app")
        assert [line["event"] for line in await some(one, 2)] == ["upstream down", "upstream up"]
        one.close()
        _log.info("worker died")
        assert [line["event"] for line in await some(other, 3)][2:] == ["worker died"]
        assert await all_of(one) == []
        other.close()

    asyncio.run(follow())


def test_a_wait_ends_with_the_next_line_or_the_close(events: Events) -> None:
    async def follow() -> None:
        subscription = events.subscribe()
        first = asyncio.create_task(anext(subscription))
        await asyncio.sleep(0)
        _log.info("ready")
        async with asyncio.timeout(10):
            assert (await first)["event"] == "ready"
        rest = asyncio.create_task(all_of(subscription))
        await asyncio.sleep(0)
        subscription.close()
        async with asyncio.timeout(10):
            assert await rest == []

    asyncio.run(follow())


def test_who_is_slow_loses_the_oldest_lines_and_is_told_how_many(events: Events) -> None:
    async def follow() -> None:
        slow = events.subscribe()
        for number in range(WAITING + 30):
            _log.info("flood", number=number)
        lines = await some(slow, WAITING)
        assert [line["number"] for line in lines] == list(range(30, WAITING + 30))
        assert slow.lost == 30
        slow.close()

    asyncio.run(follow())


def test_lines_of_other_threads_wake_who_waits(events: Events) -> None:
    async def follow() -> None:
        subscription = events.subscribe()
        waiting = asyncio.create_task(some(subscription, 200))
        threads = [
            threading.Thread(target=lambda: [_log.info("x", n=n) for n in range(100)])
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        lines = await waiting
        for thread in threads:
            thread.join()
        assert sorted(line["n"] for line in lines) == sorted([*range(100), *range(100)])
        subscription.close()

    asyncio.run(follow())


def test_what_a_worker_warns_of_is_told_too() -> None:
    """Its session records go to a full disk."""

    async def follow() -> None:
        keys = {
            "health": "off",
            "log": {"level": "error", "sessions": {"to": "file:/dev/full"}},
            "listeners": {"web": {"bind": "127.0.0.1:0", "pool": "app"}},
        }
        with named("x") as upstream:
            text = json.dumps({**keys, "pools": {"app": {"upstreams": upstream.address}}})
            async with live_wing(text) as wing:
                subscription = wing.events.subscribe()
                await wing.shares(3)
                [line] = await some(subscription, 1)
                assert (line["event"], line["level"]) == ("session records dropped", "warning")
                assert (line["worker"], line["reason"]) == (0, "No space left on device")
                subscription.close()

    asyncio.run(follow())


def test_a_loop_that_is_closed_keeps_no_line_from_being_logged(events: Events) -> None:
    async def follow() -> EventSubscription:
        return events.subscribe()

    asyncio.run(follow())
    _log.info("after the end")
    assert events.recent()[-1]["event"] == "after the end"
