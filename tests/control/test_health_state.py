"""What results mean, and when the next check is due: no socket, no clock."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spliceproxy.control.health.schedule import CpuBudget, Schedule
from spliceproxy.control.health.state import HealthState


def results(state: HealthState, text: str, rise: int = 2, fall: int = 3) -> str:
    """Feed passes `+` and failures `-`; the state after each: `u` or `d`, capital where told."""
    told = ""
    for one in text:
        news = state.observe(one == "+", rise, fall)
        letter = "u" if state.up else "d"
        told += letter.upper() if news else letter
    return told


def test_the_first_result_decides_alone_whatever_rise_and_fall_are() -> None:
    assert results(HealthState(up=True), "+") == "u"
    assert results(HealthState(up=True), "-") == "D"
    assert results(HealthState(up=False), "+") == "U"
    assert results(HealthState(up=False), "-") == "D"


def test_later_it_takes_fall_failures_and_rise_passes_in_a_row() -> None:
    assert results(HealthState(up=True), "+---") == "uuuD"
    assert results(HealthState(up=True), "+--+--+---") == "uuuuuuuuuD"
    assert results(HealthState(up=True), "-++") == "DdU"
    assert results(HealthState(up=True), "-+-+-++") == "DdddddU"
    assert results(HealthState(up=True), "+-+", rise=1, fall=1) == "uDU"


@given(st.lists(st.booleans()), st.booleans(), st.integers(1, 5), st.integers(1, 5))
def test_a_state_changes_only_after_a_whole_row_of_results_against_it(
    passes: list[bool], up: bool, rise: int, fall: int
) -> None:
    state = HealthState(up=up)
    for n, passed in enumerate(passes):
        before = state.up
        state.observe(passed, rise, fall)
        if n and state.up != before:
            needed = rise if state.up else fall
            assert passes[n + 1 - needed : n + 1] == [state.up] * needed


def test_checks_come_faster_while_a_state_is_changing() -> None:
    state = HealthState(up=True)
    results(state, "+")
    assert state.pause(2.0) == 2.0
    results(state, "-")
    assert state.pause(2.0) == 1.0
    assert state.pause(0.3) == 0.2
    assert state.pause(0.1) == 0.1
    results(state, "--")
    assert not state.up
    assert state.pause(2.0) == 2.0


def test_checks_wait_when_they_used_their_share_of_a_cpu() -> None:
    budget = CpuBudget(share=0.5, reserve=0.2)
    assert budget.wait(0.0, 7.0) == 0.0
    assert budget.wait(0.1, 7.1) == 0.0
    assert budget.wait(0.2, 7.4) == pytest.approx((0.1 + 0.001) / 0.5)
    assert budget.wait(0.5, 7.4) == 0.0
    assert budget.wait(100.0, 7.4) == 0.0
    assert budget.wait(100.0, 7.7) > 0.0, "more than the reserve was saved up"


def test_no_more_than_the_limit_run_at_once_and_the_longest_due_comes_first() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        gate = asyncio.Semaphore(0)
        order: list[int] = []
        running: set[int] = set()

        async def one(item: int, late: float) -> float:
            assert late >= 0
            order.append(item)
            running.add(item)
            assert len(running) <= 3
            await gate.acquire()
            running.discard(item)
            return loop.time() + 1000

        schedule = Schedule(one, most=3)
        for item in range(50):
            schedule.add(item, loop.time() - 50 + item)
        while len(order) < 3:
            await asyncio.sleep(0)
        assert order == [0, 1, 2]
        for _ in range(50):
            gate.release()
        async with asyncio.timeout(10):
            while len(order) < 50 or running:
                await asyncio.sleep(0)
        assert order == list(range(50))
        await schedule.close()

    asyncio.run(test())


def test_what_is_removed_runs_no_more() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        ran: list[str] = []
        cancelled = asyncio.Event()

        async def one(item: str, _late: float) -> float:
            ran.append(item)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise
            return 0.0

        schedule = Schedule(one)
        schedule.add("runs", loop.time())
        schedule.add("waits", loop.time() + 0.05)
        schedule.add("witness", loop.time() + 0.06)
        while not ran:
            await asyncio.sleep(0)
        schedule.remove("runs")
        schedule.remove("waits")
        async with asyncio.timeout(5):
            await cancelled.wait()
            while "witness" not in ran:
                await asyncio.sleep(0.001)
        assert ran == ["runs", "witness"]
        await schedule.close()

    asyncio.run(test())
