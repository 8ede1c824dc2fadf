"""control/log_level.py: another level of the log at run time, in the supervisor and all workers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Sequence

import pytest
import structlog
from harness.upstreams import named
from harness.wait import wait_until
from live_wing import LiveWing, live_wing

from spliceproxy.control.log_level import LogLevelError
from spliceproxy.telemetry.board import HEARTBEAT

_log = structlog.get_logger()

DROPPED = "session records dropped"
"""The warning of a worker whose records go to a full disk."""


def yaml(upstream: str, level: str, **log: object) -> str:
    keys = {
        "health": "off",
        "log": {"level": level, "sessions": {"to": "file:/dev/full"}, **log},
        "listeners": {"web": {"bind": "127.0.0.1:0", "pool": "app"}},
        "pools": {"app": {"upstreams": upstream}},
    }
    return json.dumps(keys)


class Written:
    """What this process and its workers write to standard error."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd
        self._events: list[dict[str, object]] = []

    def events(self, event: str) -> list[dict[str, object]]:
        """All lines of an event so far."""
        lines = self._capfd.readouterr().err.splitlines()
        self._events += [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in self._events if line["event"] == event]

    async def wait(self, event: str, number: int = 1) -> None:
        await asyncio.to_thread(
            wait_until, lambda: len(self.events(event)) >= number, 10, f"{number} times {event}"
        )


@pytest.fixture
def written(capfd: pytest.CaptureFixture[str]) -> Written:
    return Written(capfd)


async def worker_warns(wing: LiveWing, written: Written) -> bool:
    """Whether a worker writes its warning of a record that was lost.

    A record more is lost for each beat of its heart, a second; two beats are enough.
    """
    before = len(written.events(DROPPED))
    for _ in range(2):
        await wing.shares(1)
        await asyncio.to_thread(wait_for_beat, wing.board.regions[0])
    return len(written.events(DROPPED)) > before


def wait_for_beat(region: Sequence[int]) -> None:
    """Until the worker's heart beats once more."""
    last = region[HEARTBEAT]
    wait_until(lambda: region[HEARTBEAT] != last, 10, "a heartbeat")


def test_a_level_that_is_set_holds_here_and_in_all_workers_at_once(written: Written) -> None:
    async def live() -> None:
        with named("x") as upstream:
            async with live_wing(yaml(upstream.address, "error")) as wing:
                assert not await worker_warns(wing, written)
                _log.warning("too small")
                assert wing.setup.log_level.set("warning") == "error"
                assert wing.setup.log_level.level == "warning"
                _log.warning("large enough")
                await wing.obeyed()
                assert await worker_warns(wing, written)
                assert wing.setup.log_level.set("error") == "warning"
                await wing.obeyed()
                assert not await worker_warns(wing, written)

    asyncio.run(live())
    assert len(written.events("large enough")) == 1
    assert not written.events("too small")


def test_a_worker_that_starts_later_has_the_level_that_was_set(written: Written) -> None:
    async def live() -> None:
        with named("x") as upstream:
            async with live_wing(yaml(upstream.address, "error")) as wing:
                wing.setup.log_level.set("warning")
                await wing.obeyed()
                [first] = wing.fleet.workers()
                os.kill(first.pid, signal.SIGKILL)

                def replaced() -> bool:
                    return any(one.ready and one is not first for one in wing.fleet.workers())

                await asyncio.to_thread(wait_until, replaced, 15, "another worker")
                assert await worker_warns(wing, written)

    asyncio.run(live())


def test_what_is_set_holds_until_a_reload_brings_another_level(written: Written) -> None:
    async def live() -> None:
        with named("x") as upstream:
            async with live_wing(yaml(upstream.address, "warning")) as wing:
                level = wing.setup.log_level
                level.set("error")
                await wing.reload(yaml(upstream.address, "warning", sessions={"keep": "errors"}))
                assert (level.level, wing.told_level) == ("error", "error")
                await wing.reload(yaml(upstream.address, "info"))
                assert (level.level, wing.told_level) == ("info", "info")
                _log.info("small enough")
                level.set("debug")
                await wing.obeyed()
                assert (level.level, wing.told_level) == ("debug", "debug")
                await wing.reload(yaml(upstream.address, "error"))
                _log.info("not any more")
                assert (level.level, wing.told_level) == ("error", "error")

    asyncio.run(live())
    assert len(written.events("small enough")) == 1
    assert not written.events("not any more")


def test_the_change_is_told_by_a_line_that_is_seen(written: Written) -> None:
    async def live() -> None:
        with named("x") as upstream:
            async with live_wing(yaml(upstream.address, "info")) as wing:
                for level in ("warning", "debug", "debug"):
                    wing.setup.log_level.set(level)

    asyncio.run(live())
    lines = written.events("log level set")
    assert [(one["before"], one["now"]) for one in lines] == [
        ("info", "warning"),
        ("warning", "debug"),
    ]


def test_there_are_four_levels() -> None:
    async def live() -> None:
        with named("x") as upstream:
            async with live_wing(yaml(upstream.address, "info")) as wing:
                said = "^loud: there is no such level; write debug, info, warning, error$"
                with pytest.raises(LogLevelError, match=said):
                    wing.setup.log_level.set("loud")
                assert wing.setup.log_level.level == "info"

    asyncio.run(live())
