"""Weighted round robin: exact shares, even spread, exclusion, and its cost."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spliceproxy.balance.round_robin import RoundRobin

weight_lists = st.lists(st.integers(0, 20), min_size=1, max_size=12).filter(any)
starts = st.floats(0.0, 1.0, exclude_max=True)


def moments(weights: list[int], start: Fraction, count: int) -> list[tuple[Fraction, int]]:
    """The first `count` moments at which somebody is due, from `start` on, in exact arithmetic."""
    every = []
    for index, weight in enumerate(weights):
        phase = Fraction(2 * index + 1, 2 * len(weights))
        for turn in range(weight and weight * (count // sum(weights) + 3)):
            every.append(((turn + phase) / weight, index))
    return sorted(moment for moment in every if moment[0] >= start)[:count]


@given(weight_lists, starts)
def test_each_cycle_gives_everyone_exactly_its_weight(weights: list[int], start: float) -> None:
    picker = RoundRobin(weights, start)
    for _ in range(5):
        cycle = Counter(picker.choose() for _ in range(sum(weights)))
        assert cycle == {index: weight for index, weight in enumerate(weights) if weight}


@given(weight_lists, st.integers(0, 999))
def test_the_order_is_that_of_the_exact_moments(weights: list[int], thousandths: int) -> None:
    # Between two thousandths, so that no moment is so near that rounding would decide.
    start = Fraction(thousandths, 1000) + Fraction(1, 1_000_003)
    count = 3 * sum(weights)
    picker = RoundRobin(weights, float(start))
    expected = moments(weights, start, count)
    chosen = [picker.choose() for _ in range(count)]
    of_each = {i: iter([m for m in expected if m[1] == i]) for i in range(len(weights))}
    # Those that are due at the very same moment may come in either order.
    assert [next(of_each[index])[0] for index in chosen if index is not None] == [
        moment for moment, _ in expected
    ]


@given(weight_lists, starts)
def test_the_picks_of_one_upstream_are_spread_evenly(weights: list[int], start: float) -> None:
    picker = RoundRobin(weights, start)
    total = sum(weights)
    chosen = [picker.choose() for _ in range(4 * total)]
    for index, weight in enumerate(weights):
        for begin in range(0, 3 * total, max(1, total // 7)):
            window = chosen[begin : begin + total]
            assert abs(window.count(index) - weight) <= 1


def test_equal_ones_take_turns_in_order() -> None:
    picker = RoundRobin([1, 1, 1, 1], 0.0)
    assert [picker.choose() for _ in range(8)] == [0, 1, 2, 3, 0, 1, 2, 3]


def test_a_heavy_one_is_not_bunched() -> None:
    picker = RoundRobin([5, 1, 1], 0.0)
    chosen = [picker.choose() for _ in range(70)]
    longest = max(len(run) for run in "".join(map(str, chosen)).replace("2", "1").split("1"))
    assert longest <= 4


@pytest.mark.parametrize("start", [0.0, 0.3, 0.999])
def test_a_weight_of_zero_is_never_chosen(start: float) -> None:
    picker = RoundRobin([0, 3, 0, 1], start)
    assert {picker.choose() for _ in range(100)} == {1, 3}
    assert RoundRobin([0, 0], start).choose() is None
    assert RoundRobin([], start).choose() is None


@given(weight_lists, starts, st.lists(st.sets(st.integers(0, 11)), max_size=40))
def test_an_excluded_one_is_passed_over_and_nothing_else_changes(
    weights: list[int], start: float, exclusions: list[set[int]]
) -> None:
    picker = RoundRobin(weights, start)
    usable = {index for index, weight in enumerate(weights) if weight}
    taken: Counter[int] = Counter()
    for excluded in exclusions:
        index = picker.choose(excluded)
        if usable <= excluded:
            assert index is None
        else:
            assert index is not None
            assert index in usable - excluded
            taken[index] += 1
    # Nobody gains or loses by it: after some whole cycles the shares are exact again.
    total, cycles = sum(weights), len(exclusions) + 2
    for _ in range(total * cycles - taken.total()):
        index = picker.choose()
        assert index is not None
        taken[index] += 1
    assert taken == {index: weights[index] * cycles for index in usable}


def test_one_that_was_passed_over_is_next() -> None:
    picker = RoundRobin([1, 1, 1], 0.0)
    assert picker.choose({0}) == 1
    assert picker.choose() == 0
    assert picker.choose() == 2


def test_begun_at_random_places_everyone_is_the_first_by_its_share() -> None:
    weights = [1, 2, 5]
    count = 8000
    first = Counter(RoundRobin(weights, place / count).choose() for place in range(count))
    for index, weight in enumerate(weights):
        share = count * weight / sum(weights)
        assert first[index] == pytest.approx(share, rel=0.5), first
    equal = Counter(RoundRobin([3] * 10, place / count).choose() for place in range(count))
    assert all(abs(equal[index] - count // 10) <= 2 for index in range(10)), equal


class Moment(float):
    """Counts comparisons."""

    compared = 0

    def __lt__(self, other: float) -> bool:
        Moment.compared += 1
        return float.__lt__(self, other)

    def __eq__(self, other: object) -> bool:
        Moment.compared += 1
        return float.__eq__(self, other)

    __hash__ = float.__hash__


class Counting(RoundRobin):
    """The policy with moments that count how often they are compared."""

    def _moment(self, index: int, turn: int) -> float:
        return Moment(super()._moment(index, turn))


def test_a_choice_among_ten_thousand_compares_a_few_dozen_times() -> None:
    picker = Counting([1 + index % 7 for index in range(10_000)], 0.5)
    choices = 2000
    Moment.compared = 0
    for _ in range(choices):
        picker.choose()
    # A heap of 10,000 is 14 levels deep; each compares two children, for equality and for order.
    assert Moment.compared / choices <= 14 * 4
    Moment.compared = 0
    picker.choose(set(range(0, 10_000, 100)))
    assert Moment.compared <= 14 * 4 * 8
