"""What holds for every policy: its shares, whom it never chooses, and what a choice costs."""

from __future__ import annotations

import math
import random
from array import array
from collections import Counter
from collections.abc import Collection, Sequence
from functools import lru_cache

import pytest
from harness.lines import lines_run
from hypothesis import given, settings
from hypothesis import strategies as st

from spliceproxy.balance.at_random import PowerOfTwo, Random
from spliceproxy.balance.least_sessions import LOOKS, LeastSessions
from spliceproxy.balance.maglev import TABLE_SIZE, SourceHash, build_table
from spliceproxy.balance.policy import Policy
from spliceproxy.balance.round_robin import RoundRobin
from spliceproxy.balance.shares import Shares

SEED = random.randrange(2**32)
CHOICES = 100_000

NAMES = ["round_robin", "random", "power_of_two", "least_sessions", "source_hash"]
COUNTING = ["power_of_two", "least_sessions"]


@lru_cache
def table(weights: tuple[int, ...], size: int) -> array[int]:
    return build_table([f"10.0.0.{n}:80" for n in range(len(weights))], weights, size)


def make(
    name: str,
    weights: Sequence[int],
    live: Sequence[int],
    rng: random.Random,
    table_size: int = TABLE_SIZE,
) -> Policy:
    """A policy over `weights`, which counts its sessions in `live`."""
    match name:
        case "random":
            return Random(weights, rng.random)
        case "power_of_two":
            return PowerOfTwo(weights, live.__getitem__, rng.random)
        case "least_sessions":
            return LeastSessions(weights, live.__getitem__, rng.random())
        case "source_hash":
            return SourceHash(table(tuple(weights), table_size), weights)
    return RoundRobin(weights, rng.random())


def key_of(number: int) -> bytes:
    """The address of one of many clients."""
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}".encode()


def check_shares(chosen: Counter[int | None], weights: Sequence[int]) -> None:
    """Each within 2 % of its share, or within what chance does once in a billion runs."""
    for index, weight in enumerate(weights):
        share = chosen[index] / chosen.total()
        right = weight / sum(weights)
        chance = 6 * math.sqrt(right * (1 - right) / chosen.total())
        assert chance < 0.01 or chosen.total() < CHOICES
        assert abs(share - right) <= max(0.02 * right, chance), (SEED, index, share, right)
        assert weight or not chosen[index]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weights", [[1, 1, 1, 1], [3, 1], [5, 0, 2, 1], [200, 100, 50, 50]])
def test_the_shares_of_100_000_choices_are_within_2_percent_of_the_weights(
    name: str, weights: list[int]
) -> None:
    policy = make(name, weights, [0] * len(weights), random.Random(SEED))
    chosen = Counter(policy.choose((), key_of(number)) for number in range(CHOICES))
    check_shares(chosen, weights)


@pytest.mark.parametrize("name", COUNTING)
def test_the_shares_are_those_of_the_weights_also_while_sessions_last(name: str) -> None:
    weights = [5, 0, 3, 2]
    live = [0] * 4
    rng = random.Random(SEED)
    policy = make(name, weights, live, rng)
    open_sessions: list[int] = []
    chosen: Counter[int | None] = Counter()
    for _ in range(CHOICES):
        index = policy.choose()
        assert index is not None
        chosen[index] += 1
        live[index] += 1
        open_sessions.append(index)
        if len(open_sessions) > 300:
            place = rng.randrange(len(open_sessions))
            open_sessions[place], open_sessions[-1] = open_sessions[-1], open_sessions[place]
            ended = open_sessions.pop()
            live[ended] -= 1
            policy.changed(ended)
    check_shares(chosen, weights)
    for index, weight in enumerate(weights):
        assert live[index] == pytest.approx(300 * weight / 10, abs=15), (SEED, live)


@pytest.mark.parametrize("name", COUNTING)
def test_one_with_long_sessions_gets_fewer_new_ones(name: str) -> None:
    live = [50, 0, 0]
    policy = make(name, [1, 1, 1], live, random.Random(SEED))
    chosen = Counter(policy.choose() for _ in range(3000))
    # Two lots never come down on the fullest one, but where only it is left.
    assert chosen[0] == 0
    assert policy.choose({1, 2}) == 0


def test_the_least_sessions_are_found_in_a_pool_of_any_size() -> None:
    rng = random.Random(SEED)
    for size in (1, 2, 3, 7, 64, 257):
        weights = [rng.randint(0, 5) for _ in range(size - 1)] + [1]
        live = [rng.randint(0, 40) for _ in range(size)]
        policy = LeastSessions(weights, live.__getitem__, 0.0)
        for _ in range(3 * size):
            index = policy.choose()
            assert index is not None
            least = min(live[n] / weights[n] for n in range(size) if weights[n])
            assert live[index] / weights[index] == least, (SEED, size)
            live[index] += 1
            ended = rng.randrange(size)
            live[ended] = max(0, live[ended] - 2)
            policy.changed(ended)


def test_a_count_that_fell_unseen_is_found_after_some_choices() -> None:
    size = 400
    live = [9] * size
    policy = LeastSessions([1] * size, live.__getitem__, 0.0)
    live[123] = 1  # another worker's sessions ended: nobody says so
    chosen = [policy.choose() for _ in range(size // LOOKS + 1)]
    assert 123 in chosen


def test_one_that_waited_long_is_not_stormed() -> None:
    live = [5, 0]
    policy = LeastSessions([1, 1], live.__getitem__, 0.0)
    for _ in range(1000):
        assert policy.choose() == 1
    live[0] = 0
    chosen = Counter(policy.choose() for _ in range(100))
    assert abs(chosen[0] - chosen[1]) <= 2, chosen


weight_lists = st.lists(st.integers(0, 20), min_size=1, max_size=12).filter(any)
steps = st.lists(
    st.one_of(
        st.sets(st.integers(0, 11)),  # choose, with these excluded
        st.tuples(st.integers(0, 11), st.integers(0, 20)),  # set a weight
    ),
    max_size=60,
)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(weights=weight_lists, steps=steps, seed=st.integers(0, 2**32))
def test_who_is_excluded_or_has_no_weight_is_never_chosen_and_somebody_is_if_there_is_one(
    name: str,
    weights: list[int],
    steps: list[set[int] | tuple[int, int]],
    seed: int,
) -> None:
    rng = random.Random(seed)
    live = [rng.randrange(5) for _ in weights]
    now = list(weights)
    policy = make(name, weights, live, rng, table_size=251)
    for step in steps:
        if isinstance(step, tuple):
            index, weight = step[0] % len(now), step[1]
            # The table of source_hash knows the upstreams that had a weight when it was made.
            now[index] = weight if name != "source_hash" or weights[index] else 0
            policy.set_weight(index, now[index])
            continue
        excluded = {index for index in step if index < len(now)}
        possible = {index for index, weight in enumerate(now) if weight} - excluded
        chosen = policy.choose(excluded, rng.randbytes(4))
        assert (chosen in possible) if possible else chosen is None
        if chosen is not None:
            live[chosen] += 1


@pytest.mark.parametrize("name", NAMES)
def test_nobody_is_chosen_where_there_is_nobody(name: str) -> None:
    for weights in ([], [0], [0, 0, 0]):
        policy = make(name, weights, [0, 0, 0], random.Random(SEED))
        assert policy.choose((), b"key") is None


@pytest.mark.parametrize("name", NAMES)
def test_one_that_left_and_came_back_has_its_share_again(name: str) -> None:
    weights = [2, 1, 1]
    policy = make(name, weights, [0] * 3, random.Random(SEED))
    policy.set_weight(0, 0)
    without = Counter(policy.choose((), key_of(number)) for number in range(20_000))
    check_shares(without, [0, 1, 1])
    policy.set_weight(0, 2)
    check_shares(Counter(policy.choose((), key_of(number)) for number in range(20_000)), weights)


@pytest.mark.parametrize("name", NAMES)
def test_no_policy_is_built_anew_or_grows_when_an_upstream_comes_and_goes(name: str) -> None:
    policy = make(name, [1] * 10, [0] * 10, random.Random(SEED))
    for turn in range(2000):
        policy.set_weight(turn % 10, 0)
        policy.set_weight(turn % 10, 1)
    sizes = [len(value) for value in vars(policy).values() if isinstance(value, list)]
    assert max(sizes, default=0) <= 10 * 2 + 17
    chosen = Counter(policy.choose((), key_of(number)) for number in range(10_000))
    assert min(chosen[index] for index in range(10)) > 800, chosen


def test_round_robin_goes_on_where_it_was_when_another_one_leaves() -> None:
    policy = RoundRobin([1] * 5, 0.0)
    assert [policy.choose() for _ in range(3)] == [0, 1, 2]
    policy.set_weight(1, 0)
    assert [policy.choose() for _ in range(4)] == [3, 4, 0, 2]
    policy.set_weight(1, 1)
    assert [policy.choose() for _ in range(7)] == [3, 4, 0, 1, 2, 3, 4]
    policy.set_weight(4, 0)
    policy.set_weight(4, 1)  # no second turn for who has just had one
    assert policy.choose() == 0


@given(weight_lists, st.lists(st.tuples(st.integers(0, 11), st.integers(0, 9)), max_size=20))
def test_every_point_lies_in_the_stretch_of_its_owner(
    weights: list[int], changes: list[tuple[int, int]]
) -> None:
    shares = Shares(weights)
    for place, weight in changes:
        index = place % len(weights)
        weights[index] = weight
        shares.set(index, weight)
    assert (shares.weights, shares.total) == (weights, sum(weights))
    owners = [index for index, weight in enumerate(weights) for _ in range(weight)]
    for point, owner in enumerate(owners):
        assert shares.find(point) == (owner, owners.index(owner))


def cost(name: str, size: int, excluded: Collection[int]) -> int:
    """Lines of the dearest of a hundred choices."""
    weights = [1 + index % 7 for index in range(size)]
    live = [0] * size
    policy = make(name, weights, live, random.Random(SEED))

    def session(number: int) -> None:
        index = policy.choose(excluded, key_of(number))
        assert index is not None
        live[index] += 1

    for number in range(100):
        session(number)
    return max(lines_run(lambda number=number: session(number)) for number in range(100, 200))


@pytest.mark.parametrize("excluded", [(), (1, 2, 3)])
@pytest.mark.parametrize("name", NAMES)
def test_a_choice_among_ten_thousand_costs_little_more_than_among_ten(
    name: str, excluded: tuple[int, ...]
) -> None:
    few, many = cost(name, 10, excluded), cost(name, 10_000, excluded)
    print(f"{name}, {len(excluded)} excluded: {few} lines among 10, {many} among 10,000")
    # Trees of 10,000 have 14 levels, those of 10 have 4: at most so many times as much.
    assert many <= 4 * few + 20
    assert many <= 2500
