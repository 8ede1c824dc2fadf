"""telemetry/counts.py: long integers as vectors, and what histograms say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spliceproxy.telemetry.counters import BUCKETS, CONNECT, SLOTS, End, bucket, upper_bounds
from spliceproxy.telemetry.counts import Counts, Histogram

DONE, IDLE = End("client", "fin", "done"), End("proxy", "reset", "idle_timeout")
SLOT_VALUES = st.dictionaries(st.integers(0, SLOTS - 1), st.integers(0, 2**62))


def _counts(values: dict[int, int], ends: dict[End, int] | None = None) -> Counts:
    return Counts(sum(value << slot * 64 for slot, value in values.items()), ends or {})


def _histogram(*values: int) -> Histogram:
    buckets = [0] * BUCKETS
    for value in values:
        buckets[bucket(value)] += 1
    return Histogram(sum(values), buckets)


@given(SLOT_VALUES, SLOT_VALUES)
def test_adding_adds_each_slot_and_none_spills_into_its_neighbour(
    one: dict[int, int], other: dict[int, int]
) -> None:
    total = _counts(one, {DONE: 1})
    total.add(_counts(other, {DONE: 2, IDLE: 3}))
    assert total.values == [one.get(slot, 0) + other.get(slot, 0) for slot in range(SLOTS)]
    assert [total[slot] for slot in range(SLOTS)] == total.values
    assert total.slots(3, 5) == total.values[3:8]
    assert total.ends == {DONE: 3, IDLE: 3}


def test_an_end_that_is_no_normal_one_is_an_error() -> None:
    counts = Counts(0, {DONE: 5, IDLE: 2, End("proxy", "reset", "drained"): 1})
    assert (counts.ended, counts.errors) == (8, 2)


def test_a_histogram_begins_with_the_sum() -> None:
    found = _counts({CONNECT: 700, CONNECT + 1: 3, CONNECT + 2: 4}).histogram("connect")
    assert (found.sum, found.count, found.buckets[:2]) == (700, 7, [3, 4])


def test_what_came_since_is_the_difference() -> None:
    before = _histogram(*[100] * 98)
    after = _histogram(*[100] * 98, 5000, 6000)
    came = after.since(before)
    assert (came.count, came.sum) == (2, 11_000)


def test_a_histogram_that_lost_a_part_tells_nothing_of_it() -> None:
    came = _histogram(100, 9000).since(_histogram(100, 100, 5000))
    assert (came.count, came.sum) == (1, 3900)


@given(st.lists(st.integers(0, 2**38), min_size=1, max_size=50), st.floats(0.01, 1.0))
def test_a_quantile_is_guessed_within_the_bucket_where_it_lies(
    values: list[int], share: float
) -> None:
    values.sort()
    bounds = (0, *upper_bounds())
    found = _histogram(*values).quantiles(share)
    assert found is not None
    # The smallest value at or below which such a share of all lie.
    true = next(v for n, v in enumerate(values, 1) if n >= share * len(values) - 1e-9)
    number = min(bucket(true), len(bounds) - 2)
    assert bounds[number] <= found[0] <= bounds[number + 1]


def test_values_beyond_the_last_bound_are_as_large_as_it_at_the_least() -> None:
    assert _histogram(2**60).quantiles(0.5, 0.99) == [float(upper_bounds()[-1])] * 2


def test_without_values_there_are_no_quantiles() -> None:
    assert _histogram().quantiles(0.5) is None
