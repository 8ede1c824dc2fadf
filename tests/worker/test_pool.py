"""Which upstreams a pool lets be chosen: by state, tier, panic and max_sessions. A real board."""

from __future__ import annotations

import gc
import inspect
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest
from harness.lines import lines_run
from hypothesis import given, settings
from hypothesis import strategies as st

from spliceproxy.control.hash_tables import plan_tables
from spliceproxy.ipc import (
    PoolPlan,
    RelayPlan,
    Snapshot,
    TcpPlan,
    UpstreamPlan,
)
from spliceproxy.ipc.sealed import at_once, seal, unseal, unseal_in_steps
from spliceproxy.telemetry.board import DOWN, DRAINING, EJECTED, FLAGS, Board, with_held_back
from spliceproxy.worker.pool import LOOKS, Pool, client_key, make_upstreams

SEED = random.randrange(2**32)
POLICIES = ["round_robin", "random", "power_of_two", "least_sessions", "source_hash"]
POOL_SLOT = 60_000


@pytest.fixture
def board() -> Iterator[Board]:
    fd = Board.create(2)
    yield Board(fd, 2)
    os.close(fd)


def upstream(slot: int, **keys: Any) -> UpstreamPlan:
    return UpstreamPlan(f"10.0.{slot >> 8}.{slot & 255}:80", 2, ("127.0.0.1", 1), slot=slot, **keys)


def pool(
    board: Board, *plans: UpstreamPlan, balance: str = "round_robin", worker: int = 0, **keys: Any
) -> Pool:
    plan = PoolPlan(
        "app", balance, plans, 2, 5.0, 60.0, 60.0, None, TcpPlan(), slot=POOL_SLOT,
        tables=plan_tables(plans) if balance == "source_hash" else {}, **keys,
    )  # fmt: skip
    upstreams = at_once(make_upstreams(plan, range(0)))
    return Pool(plan, 0.0, upstreams, board.upstreams, worker)


def takes(pool: Pool, number: int, tried: tuple[int, ...] = ()) -> Counter[int | None]:
    """The slots of so many sessions, one after another."""
    found: Counter[int | None] = Counter()
    for turn in range(number):
        taken = pool.take(tried, b"%d" % turn)
        found[None if taken is None else taken.slot] += 1
        if taken is not None:
            pool.give_back(taken)
    return found


@pytest.mark.parametrize("balance", POLICIES)
def test_healthy_ones_of_the_lowest_tier_first_then_the_next_then_ejected_then_nobody(
    board: Board, balance: str
) -> None:
    plans = [upstream(0), upstream(1), upstream(2, tier=1), upstream(3, tier=5)]
    app = pool(board, *plans, balance=balance)
    states = board.upstreams
    assert set(takes(app, 100)) == {0, 1}
    states.set_state(0, EJECTED)
    assert set(takes(app, 20)) == {1}
    states.set_state(1, DOWN)
    assert set(takes(app, 20)) == {2}
    states.set_state(2, DRAINING)
    assert set(takes(app, 20)) == {3}
    states.set_state(3, EJECTED)
    assert set(takes(app, 20)) == {0}
    states.set_state(0, EJECTED | DOWN)
    assert set(takes(app, 20)) == {3}
    states.set_state(3, EJECTED | DRAINING)
    assert set(takes(app, 20)) == {None}
    for slot in range(4):
        states.set_state(slot, 0)
    assert set(takes(app, 100)) == {0, 1}


def test_a_further_try_goes_to_the_next_tier_where_the_first_has_nobody_else(board: Board) -> None:
    app = pool(board, upstream(0), upstream(1), upstream(2, tier=1))
    assert set(takes(app, 10, tried=(0,))) == {1}
    assert set(takes(app, 10, tried=(0, 1))) == {2}
    assert set(takes(app, 10, tried=(0, 1, 2))) == {None}


@pytest.mark.parametrize("balance", POLICIES)
def test_panic_spreads_first_tries_over_all_and_further_ones_over_the_healthy(
    board: Board, balance: str
) -> None:
    app = pool(board, *map(upstream, range(10)), balance=balance, panic=0.3)
    states = board.upstreams
    for slot in range(7):
        states.set_state(slot, DOWN)
    assert set(takes(app, 200)) == {7, 8, 9}  # 30 % are left
    states.set_state(7, DRAINING)
    states.set_state(8, EJECTED)
    assert set(takes(app, 400)) == {0, 1, 2, 3, 4, 5, 6, 8, 9}
    assert set(takes(app, 50, tried=(0,))) == {9}
    assert set(takes(app, 50, tried=(0, 9))) == {8}
    assert set(takes(app, 400, tried=(0, 9, 8))) == {1, 2, 3, 4, 5, 6}
    states.set_state(8, DOWN)
    states.set_state(9, DOWN)
    assert set(takes(app, 400)) == {0, 1, 2, 3, 4, 5, 6, 8, 9}


def test_without_panic_nobody_that_is_down_is_chosen(board: Board) -> None:
    app = pool(board, upstream(0), upstream(1))
    board.upstreams.set_state(0, DOWN)
    board.upstreams.set_state(1, DOWN)
    assert set(takes(app, 10)) == {None}


def test_a_healthy_higher_tier_comes_before_a_lower_one_in_panic(board: Board) -> None:
    app = pool(board, upstream(0), upstream(1), upstream(2, tier=1), panic=0.5)
    board.upstreams.set_state(0, DOWN)
    board.upstreams.set_state(1, DOWN)
    assert set(takes(app, 20)) == {2}
    assert set(takes(app, 20, tried=(2,))) == {0, 1}


def test_a_weight_of_zero_is_never_chosen_not_even_in_panic(board: Board) -> None:
    app = pool(board, upstream(0, weight=0), upstream(1), panic=1.0)
    board.upstreams.set_state(1, DOWN)
    assert set(takes(app, 20)) == {1}
    board.upstreams.set_state(0, EJECTED)
    board.upstreams.set_state(0, 0)
    assert set(takes(app, 20)) == {1}


@pytest.mark.parametrize("balance", POLICIES)
def test_a_full_upstream_is_not_chosen_until_a_session_of_any_worker_ends(
    board: Board, balance: str
) -> None:
    plans = [upstream(0, max_sessions=3), upstream(1, max_sessions=2), upstream(2, tier=1)]
    mine = pool(board, *plans, balance=balance)
    other = pool(board, *plans, balance=balance, worker=1)
    taken = [mine.take((), b"%d" % n) for n in range(4)]
    theirs = other.take()
    assert theirs is not None
    assert sorted(each.slot for each in [*taken, theirs] if each) == [0, 0, 0, 1, 1]
    assert set(takes(mine, 5)) == set(takes(other, 5)) == {2}
    other.give_back(theirs)  # no event tells `mine` of it
    assert set(takes(mine, 5)) == {theirs.slot}
    first = taken[0]
    assert first is not None
    mine.give_back(first)
    for one in (mine, other):
        seen = set(takes(one, 100))
        assert seen
        assert seen <= {theirs.slot, first.slot}  # both, or the one with fewer sessions


def test_a_pool_s_own_limit_holds_over_all_workers(board: Board) -> None:
    mine = pool(board, upstream(0), upstream(1), max_sessions=3)
    other = pool(board, upstream(0), upstream(1), max_sessions=3, worker=1)
    first = mine.take()
    assert first is not None
    assert mine.take() is not None
    assert other.take() is not None
    assert (mine.take(), other.take()) == (None, None)
    mine.give_back(first)
    assert other.take() is not None
    assert (mine.take(), other.take()) == (None, None)


def test_the_pool_s_own_limit_holds_for_a_further_try_that_waited(board: Board) -> None:
    app = pool(board, upstream(0), upstream(1), max_sessions=1)
    first = app.take()
    assert first is not None
    assert app.take_turn((1,), b"") is None
    assert app.is_full((1,))
    assert not app.is_full((0, 1))
    app.give_back(first)
    taken = app.take_turn((1,), b"")
    assert taken is not None
    assert taken.slot == 0


def test_many_full_ones_are_looked_at_a_few_at_a_time(board: Board) -> None:
    size = 1000
    app = pool(board, *(upstream(slot, max_sessions=1) for slot in range(size)))
    taken = [app.take() for _ in range(size)]
    assert app.take() is None
    board.upstreams.sessions[0][567] = 0  # as if another worker's session had ended
    looked = next(n for n in range(size) if app.take() is not None)
    assert looked <= size // LOOKS + 1
    board.upstreams.sessions[0][567] = 1
    last = taken[3]
    assert last is not None
    app.give_back(last)  # one's own end is known at once
    assert set(takes(app, 3)) == {last.slot}


steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("state"),
            st.integers(0, 7),
            st.builds(with_held_back, st.integers(0, 7), st.sampled_from([0, 45, 90])),
        ),
        st.tuples(st.just("take"), st.sets(st.integers(0, 7), max_size=3), st.just(0)),
        st.tuples(st.just("end"), st.integers(0, 99), st.just(0)),
    ),
    max_size=80,
)


@pytest.mark.parametrize("balance", POLICIES)
@settings(max_examples=40, deadline=None)
@given(steps=steps, data=st.data())
def test_whatever_happens_the_choice_is_what_the_order_says_and_counts_come_back_to_zero(
    balance: str, steps: list[Any], data: st.DataObject
) -> None:
    fd = Board.create(1)
    board = Board(fd, 1)
    os.close(fd)
    panic = data.draw(st.sampled_from([None, 0.3, 1.0]))
    plans = [
        upstream(slot, weight=slot % 3, tier=slot // 4, max_sessions=2 + slot if slot < 6 else None)
        for slot in range(8)
    ]
    slow_start = data.draw(st.booleans())
    app = pool(board, *plans, balance=balance, panic=panic, slow_start=slow_start)
    open_sessions = []
    for what, value, state in steps:
        if what == "state":
            board.upstreams.set_state(value, state)
        elif what == "end" and open_sessions:
            app.give_back(open_sessions.pop(value % len(open_sessions)))
        elif what == "take":
            allowed = expected(board, plans, panic, value)
            taken = app.take(tuple(value), b"key")
            assert (None if taken is None else taken.slot) in (allowed or {None})
            if taken is None:
                usable = set().union(*order_of(board, plans, panic, value))
                assert app.is_full(value) == bool(usable - value)
            if taken is not None:
                open_sessions.append(taken)
                assert board.upstreams.live(POOL_SLOT) == len(open_sessions)
    for each in open_sessions:
        app.give_back(each)
    assert not any(board.upstreams.sessions[0][slot] for slot in (*range(8), POOL_SLOT))


def expected(
    board: Board, plans: list[UpstreamPlan], panic: float | None, tried: set[int]
) -> set[int]:
    """The slots that may be chosen."""

    def free(slot: int) -> bool:
        limit = plans[slot].max_sessions
        return slot not in tried and (limit is None or board.upstreams.live(slot) < limit)

    groups = order_of(board, plans, panic, tried)
    return next(filter(None, ({s for s in group if free(s)} for group in groups)), set())


def order_of(
    board: Board, plans: list[UpstreamPlan], panic: float | None, tried: set[int]
) -> list[list[int]]:
    """The groups of slots that may be chosen, were nobody full, in the words of the manual."""

    def state(slot: int) -> int:
        return board.upstreams.state(slot) & FLAGS

    of_tier: dict[int, list[int]] = {}
    for plan in plans:
        if plan.weight:
            of_tier.setdefault(plan.tier, []).append(plan.slot)
    healthy = {tier: [s for s in of_tier[tier] if not state(s)] for tier in of_tier}
    everyone = {tier: [s for s in of_tier[tier] if not state(s) & DRAINING] for tier in of_tier}
    panicking = [
        tier
        for tier in of_tier
        if panic is not None and everyone[tier] and len(healthy[tier]) < panic * len(everyone[tier])
    ]
    order = [
        *healthy.values(),
        *([s for s in of_tier[tier] if state(s) == EJECTED] for tier in of_tier),
        *(everyone[tier] for tier in panicking),
    ]
    in_use = next((tier for tier in of_tier if healthy[tier]), None)
    if in_use in panicking and not tried:
        order.insert(0, everyone[in_use])
    return order


@pytest.mark.parametrize("balance", POLICIES)
def test_a_session_among_ten_thousand_upstreams_costs_little_more_than_among_ten(
    board: Board, balance: str
) -> None:
    def cost(size: int) -> int:
        app = pool(board, *map(upstream, range(size)), balance=balance)
        takes(app, 50)
        return max(lines_run(lambda: takes(app, 1)) for _ in range(50))

    few, many = cost(10), cost(10_000)
    print(f"{balance}: {few} lines among 10, {many} among 10,000")
    assert many <= 3 * few


def test_a_new_configuration_is_followed_in_steps_that_do_not_grow_with_the_pool() -> None:
    def longest_step(size: int) -> tuple[int, int]:
        """The lines of the longest step, and how many there are."""
        plan = PoolPlan(
            "app",
            "round_robin",
            tuple(map(upstream, range(size))),
            2,
            5.0,
            60.0,
            60.0,
            None,
            TcpPlan(),
        )
        relay = RelayPlan("adaptive", 65536, 2, None)
        fd = seal(Snapshot((), (plan,), relay, None, 10, "stdout", "info", "json"))
        lines = []
        for steps in (unseal_in_steps(fd), make_upstreams(plan, range(0))):
            over = False
            while not over:
                lines.append(lines_run(lambda steps=steps: list(islice(steps, 1))))
                over = inspect.getgeneratorstate(steps) == inspect.GEN_CLOSED
        assert unseal(fd).pools == (plan,)
        os.close(fd)
        return max(lines), len(lines)

    (few, some), (many, more) = longest_step(1000), longest_step(10_000)
    print(f"{few} lines in the longest of {some} steps for 1,000; {many} of {more} for 10,000")
    assert many <= few + 100
    assert more >= 5 * some


def test_a_pool_that_was_replaced_is_freed_at_once(board: Board) -> None:
    """A circle would leave 10,000 upstreams to the collector, which then takes its time."""
    for balance in POLICIES:
        app = pool(board, upstream(0), upstream(1, tier=1), balance=balance, panic=0.5)
        takes(app, 5)
        one = app.upstreams[0]
        gc.disable()
        try:
            del app
            assert sys.getrefcount(one) == 2, balance  # this name, and the argument
        finally:
            gc.enable()


@pytest.mark.parametrize("balance", POLICIES)
def test_ten_thousand_upstreams_are_followed_without_a_pause(board: Board, balance: str) -> None:
    app = pool(board, *map(upstream, range(10_000)), balance=balance, panic=0.5)
    takes(app, 1)
    board.upstreams.set_state(77, DOWN)
    once = seconds(lambda: takes(app, 1))
    for slot in range(0, 10_000, 4):
        board.upstreams.set_state(slot, DOWN)
    quarter = seconds(lambda: takes(app, 1))
    print(f"{balance}: one state {once * 1000:.1f} ms, 2,500 states {quarter * 1000:.1f} ms")
    assert 77 not in takes(app, 200)


def seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def test_a_client_is_known_by_its_ip_address_alone() -> None:
    assert client_key(("10.1.2.3", 4711)) == client_key(("10.1.2.3", 9)) == b"10.1.2.3"
    assert client_key(("::ffff:10.1.2.3", 1, 0, 0)) == b"10.1.2.3"
    assert client_key(("::ffff:1", 1, 0, 0)) == b"::ffff:1"
    assert client_key("") == client_key(b"\0name") == b""
