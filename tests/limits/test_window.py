"""limits/window.py: how many a sliding window lets in, and what a cell says."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from spliceproxy.limits.window import MOST, Arrivals, Rate, cell_of, counted


class Door:
    """One cell, and who is let in by it."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.cell = 0
        self.entered: list[float] = []

    def come(self, now: float) -> bool:
        number, weight = self.rate.window(now)
        current, previous = counted(self.cell, number)
        if current + weight * previous >= self.rate.burst:
            return False
        self.cell = cell_of(number, current + 1, previous)
        self.entered.append(now)
        return True


rates = st.builds(Rate, st.integers(1, 50), st.integers(1, 50))
pauses = st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.1, 0.5, 1.0, 3.7]), min_size=1, max_size=150)
starts = st.floats(0, 1e6)


@given(rates, starts, pauses)
def test_no_stretch_of_time_sees_more_than_a_token_bucket_grants(
    rate: Rate, start: float, pauses: list[float]
) -> None:
    door, now = Door(rate), start
    for pause in pauses:
        now += pause
        door.come(now)
    entered = door.entered
    for first in range(len(entered)):
        for last in range(first, len(entered)):
            seconds = entered[last] - entered[first]
            granted = rate.burst + rate.per_second * seconds + 1
            assert last - first + 1 <= granted + 1e-6, (entered[first], entered[last])


@given(rates, starts)
def test_all_of_burst_is_let_in_at_once_after_a_quiet_time(rate: Rate, start: float) -> None:
    door = Door(rate)
    later = start + 3 * rate.burst / rate.per_second
    for now in (start, later):
        assert [door.come(now) for _ in range(rate.burst + 5)].count(True) == rate.burst


@given(rates, starts)
def test_who_comes_again_and_again_is_let_in_as_often_as_per_second_says(
    rate: Rate, start: float
) -> None:
    door, windows = Door(rate), 20
    seconds = windows * rate.burst / rate.per_second
    tries = 40 * rate.burst * windows // 10
    for n in range(tries):
        door.come(start + seconds * n / tries)
    wanted = windows * rate.burst
    assert wanted * 0.9 - 2 <= len(door.entered) <= wanted + rate.burst + 1


@given(st.integers(1, 1000), st.integers(1, 1000), starts)
def test_who_comes_evenly_and_no_faster_than_per_second_is_never_refused(
    per_second: int, burst: int, start: float
) -> None:
    door = Door(Rate(per_second, burst))
    step = 1.001 / per_second
    assert all(door.come(start + n * step) for n in range(300))


@given(st.integers(0, (1 << 24) - 1), st.integers(0, MOST), st.integers(0, MOST))
def test_a_cell_tells_its_window_the_next_one_and_no_other(
    number: int, current: int, previous: int
) -> None:
    cell = cell_of(number, current, previous)
    numbers = 1 << 24
    assert 0 <= cell < 1 << 64
    assert counted(cell, number) == (current, previous)
    assert counted(cell, (number + 1) % numbers) == (0, current)
    assert counted(cell, (number - 1) % numbers) == (previous, 0)  # the writer's clock was ahead
    for far in (2, 3, numbers // 2, numbers - 2):
        assert counted(cell, (number + far) % numbers) == (0, 0)


def test_a_full_cell_stays_full() -> None:
    assert counted(cell_of(7, MOST + 1, 3), 7) == (MOST, 3)


def test_windows_are_as_long_as_burst_lasts() -> None:
    rate = Rate(20, 50)
    assert rate.window(0.0) == (0, 1.0)
    assert rate.window(2.5) == (1, 1.0)
    number, weight = rate.window(2.5 * (2**24 + 3) + 0.625)
    assert (number, round(Fraction(weight), 6)) == (3, Fraction(3, 4))


def test_arrivals_of_all_workers_count_together_and_each_writes_its_own_cell() -> None:
    rate, regions = Rate(10, 20), [memoryview(bytearray(8 * 8)).cast("Q") for _ in range(3)]
    arrivals = [Arrivals(regions, worker, 5) for worker in range(3)]
    entered = 0
    for n in range(60):
        one = arrivals[n % 3]
        if one.one_more(rate, 5.0):
            one.came(rate, 5.0)
            entered += 1
    assert entered == 20
    assert all(region[5] for region in regions)
    assert not any(region[n] for region in regions for n in range(8) if n != 5)
    assert arrivals[0].one_more(rate, 6.5)
