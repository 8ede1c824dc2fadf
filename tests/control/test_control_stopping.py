"""control/supervisor.py: a stop takes the drain time and a little more, whoever does not end."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from spliceproxy.control import supervisor
from spliceproxy.control.supervisor import Supervisor

DRAIN = 30.0


class Clock:
    """Time that passes only where something is waited for."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    async def first_of(self, *events: asyncio.Event, timeout: float | None = None) -> None:
        """Wait to the end, unless an event is set already."""
        if not any(event.is_set() for event in events):
            assert timeout is not None, "a wait without an end"
            self.now += timeout


class HangingFleet:
    """Workers that obey nothing but SIGKILL."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    def retire(self) -> None:
        pass

    def stop(self, drain: float | None) -> None:
        pass

    def kill(self, _reason: str) -> None:
        self.gone.set()


def test_workers_and_an_older_process_that_hang_are_waited_for_at_the_same_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, fleet = Clock(), HangingFleet()
    monkeypatch.setattr(supervisor, "time", clock)
    monkeypatch.setattr(supervisor, "first_of", clock.first_of)
    stopping = Supervisor.__new__(Supervisor)
    vars(stopping).update(
        _drain=DRAIN,
        _hurry=asyncio.Event(),
        _fleet=fleet,
        _service=SimpleNamespace(closed=asyncio.Event(), close=lambda: None),
        _succession=SimpleNamespace(older_gone=asyncio.Event(), stop_older=lambda _drain: None),
    )
    asyncio.run(asyncio.wait_for(stopping._retire_and_drain(), 60))
    assert fleet.gone.is_set()
    assert DRAIN <= clock.now - 1000.0 < DRAIN + 10
