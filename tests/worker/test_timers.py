"""The wheel: never early, late by a tick at the most, cheap, and against a plain model."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spliceproxy.worker.timers import AT_ONCE, COARSE, COARSE_AFTER, TICK, Wheel

ROUNDING = 1e-6
"""Seconds that floating point may add or take."""


class Ring:
    """A timer that notes when it rang, and then does what it was given."""

    def __init__(self, then: Callable[[float], None] = lambda _now: None) -> None:
        self.slot = 0
        self.rang: list[float] = []
        self.then = then

    def on_deadline(self, now: float) -> None:
        self.rang.append(now)
        self.then(now)


def fail(owner: object, error: Exception) -> None:
    raise AssertionError(f"{owner} failed") from error


def latest(now: float, deadline: float) -> float:
    """When a timer must have rung: a tick late, or at a whole second where it is far away."""
    coarse = COARSE * TICK if deadline - now > COARSE_AFTER else 0.0
    return max(deadline, now) + TICK + coarse + ROUNDING


def until_next(wheel: Wheel, now: float) -> float | None:
    """Seconds until the wheel has something to do; None: never."""
    return None if wheel.next == inf else max(0.0, wheel.next - now)


@pytest.mark.parametrize("now", [0.0, 5.0, 12345.678, 1e6 + 0.02])
@pytest.mark.parametrize("delay", [0.0, 0.001, TICK, 0.1, 0.149999, 1.0, 9.99, 10.1, 61.3, 3600.0])
def test_a_timer_is_never_early_and_late_by_a_tick_at_the_most(now: float, delay: float) -> None:
    wheel, timer = Wheel(), Ring()
    deadline = now + delay
    wheel.arm(timer, now, deadline)
    wait = until_next(wheel, now)
    assert wait is not None
    assert deadline - ROUNDING <= now + wait <= latest(now, deadline)
    wheel.expire(deadline - 2 * ROUNDING, fail)
    assert not timer.rang, "early"
    wheel.expire(now + wait + ROUNDING, fail)
    assert timer.rang
    assert timer.slot == 0
    assert until_next(wheel, now) is None


def test_a_deadline_in_the_past_rings_at_the_next_tick() -> None:
    wheel, timer = Wheel(), Ring()
    wheel.arm(timer, 100.0, 3.0)
    wait = until_next(wheel, 100.0)
    assert wait is not None
    assert 0 < wait <= TICK + ROUNDING
    wheel.expire(100.0 + wait + ROUNDING, fail)
    assert timer.rang


def test_an_earlier_deadline_moves_a_timer_and_a_later_one_does_not() -> None:
    wheel, timer = Wheel(), Ring()
    wheel.arm(timer, 0.0, 5.0)
    wheel.arm(timer, 0.0, 8.0)
    wheel.expire(5.1, fail)
    assert timer.rang == [5.1]
    wheel.arm(timer, 6.0, 9.0)
    wheel.arm(timer, 6.0, 7.0)
    wheel.expire(7.1, fail)
    assert timer.rang == [5.1, 7.1]
    wheel.expire(20.0, fail)
    assert timer.rang == [5.1, 7.1], "it rang again at the deadline that it had before"


def test_a_timer_that_rings_may_arm_itself_again() -> None:
    wheel = Wheel()
    timer = Ring(lambda now: wheel.arm(timer, now, now + 1.0))
    wheel.arm(timer, 0.0, 1.0)
    for step in range(1, 101):
        wheel.expire(step * 0.1, fail)
    assert 7 <= len(timer.rang) <= 9
    gaps = [after - before for before, after in zip(timer.rang, timer.rang[1:], strict=False)]
    assert min(gaps) >= 1.0 - ROUNDING


def test_timers_armed_in_the_past_while_others_expire_are_not_lost() -> None:
    wheel, late = Wheel(), Ring()
    timer = Ring(lambda now: wheel.arm(late, now, now - 50.0))
    wheel.arm(timer, 100.0, 100.01)
    wheel.expire(101.0, fail)
    assert timer.rang
    assert not late.rang, "a timer that arms itself in the past would keep the loop"
    wheel.expire(101.0 + TICK + ROUNDING, fail)
    assert late.rang
    assert until_next(wheel, 102.0) is None


def test_a_timer_disarmed_by_another_one_of_its_slot_does_not_ring() -> None:
    wheel = Wheel()
    timers: list[Ring] = []

    def disarm_others(_now: float) -> None:
        for timer in timers:
            wheel.disarm(timer)

    timers += [Ring(disarm_others) for _ in range(5)]
    for timer in timers:
        wheel.arm(timer, 0.0, 1.0)
    wheel.expire(2.0, fail)
    assert sum(len(timer.rang) for timer in timers) == 1
    assert until_next(wheel, 2.0) is None


def test_a_failing_timer_does_not_lose_the_others_of_its_slot() -> None:
    def raise_error(_now: float) -> None:
        raise ValueError("no")

    failed: list[object] = []
    wheel = Wheel()
    timers = [Ring(raise_error if number % 2 else lambda _now: None) for number in range(10)]
    for timer in timers:
        wheel.arm(timer, 0.0, 1.0)
    wheel.expire(2.0, lambda owner, _error: failed.append(owner))
    assert all(timer.rang for timer in timers)
    assert set(failed) == set(timers[1::2])


def test_thousands_of_one_slot_are_called_a_few_at_a_time_and_none_is_forgotten() -> None:
    wheel, later = Wheel(), Ring()
    timers = [Ring() for _ in range(10 * AT_ONCE)]
    for timer in timers:
        wheel.arm(timer, 0.0, 1.0)
    wheel.arm(later, 0.0, 1.5)
    for turn in range(1, 10):
        wheel.expire(2.0, fail)
        assert sum(len(timer.rang) for timer in timers) == turn * AT_ONCE
        assert until_next(wheel, 2.0) == 0.0, "the loop would sleep, and timers are left"
    waiting = [timer for timer in timers if not timer.rang]
    wheel.disarm(waiting[0])
    wheel.arm(waiting[1], 2.0, 1.0)  # armed for an earlier time already: it stays there
    wheel.expire(2.0, fail)
    assert [len(timer.rang) for timer in waiting] == [0] + [1] * (AT_ONCE - 1)
    assert later.rang, "what came due behind them has its turn as well"
    assert until_next(wheel, 2.0) is None


def test_nothing_keeps_a_disarmed_timer_alive() -> None:
    wheel = Wheel()
    timers = [Ring() for _ in range(100)]
    for number, timer in enumerate(timers):
        wheel.arm(timer, 0.0, 1.0 + number)
    gone = [weakref.ref(timer) for timer in timers]
    for timer in timers:
        wheel.disarm(timer)
        wheel.disarm(timer)  # not armed: nothing to do
    gc.disable()  # by reference count alone
    try:
        del timer, timers
        assert not any(ref() for ref in gone)
    finally:
        gc.enable()
    wheel.expire(1e6, fail)  # the emptied slots are looked at once
    assert until_next(wheel, 1e6) is None


class Counting(Ring):
    """Counts how often it is hashed: each touch of a set is one."""

    hashed = 0

    def __hash__(self) -> int:
        Counting.hashed += 1
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


def test_fifty_thousand_timers_cost_nothing_while_their_deadlines_move(seed: int) -> None:
    wheel, rng = Wheel(), random.Random(seed)
    timers = [Counting() for _ in range(50_000)]
    Counting.hashed = 0
    for timer in timers:
        wheel.arm(timer, 0.0, 3600.0 + rng.random())
    assert Counting.hashed == len(timers)
    for timer in timers:
        wheel.arm(timer, 10.0, 3700.0)  # silence moved on: found at the old deadline
    assert Counting.hashed == len(timers)
    before = until_next(wheel, 0.0)
    for now in range(1, 1000):
        assert until_next(wheel, float(now)) == before - now  # type: ignore[operator]
        wheel.expire(float(now), fail)
    assert Counting.hashed == len(timers)
    for timer in timers:
        wheel.disarm(timer)
    assert Counting.hashed == 2 * len(timers)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["arm", "arm", "disarm", "pass"]),
            st.integers(0, 7),
            st.floats(-1.0, 40.0),
        ),
        max_size=60,
    )
)
def test_the_wheel_rings_what_a_plain_list_of_deadlines_would_ring(
    actions: list[tuple[str, int, float]],
) -> None:
    wheel = Wheel()
    timers = [Ring() for _ in range(8)]
    due: dict[int, tuple[float, float]] = {}
    """Timer to (not before, not after)."""
    now = 1000.0
    for name, index, amount in actions:
        timer = timers[index]
        if name == "arm":
            deadline = now + amount
            wheel.arm(timer, now, deadline)
            earliest, last = due.get(index, (inf, inf))  # the earlier deadline holds
            due[index] = min(earliest, deadline), min(last, latest(now, deadline))
        elif name == "disarm":
            wheel.disarm(timer)
            due.pop(index, None)
        else:
            now += max(amount, 0.0)
            wheel.expire(now, fail)
            for number, ring in enumerate(timers):
                if ring.rang:
                    earliest, _last = due.pop(number)
                    assert now >= earliest - ROUNDING, "early"
                    ring.rang.clear()
            assert all(last >= now - ROUNDING for _, last in due.values()), "late"
        wait = until_next(wheel, now)
        if due:  # an emptied slot is looked at once more, so there may be a wait without a timer
            assert wait is not None
            assert now + wait <= min(last for _, last in due.values()) + ROUNDING
    wheel.expire(now + 100.0, fail)
    assert {number for number, ring in enumerate(timers) if ring.rang} == set(due)
