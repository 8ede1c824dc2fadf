"""worker/limits.py: what two workers count on one board, without clients."""

from __future__ import annotations

import gc
import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from harness.fds import open_fds

from spliceproxy.ipc import LimitsPlan, ListenerPlan
from spliceproxy.limits.clients import Clients, Place
from spliceproxy.limits.window import Rate
from spliceproxy.telemetry.board import Board, listener_handshakes
from spliceproxy.worker.limits import Limits, LimitsOfAll

PLAN = ListenerPlan("web", slot=7, pool="app", max_sessions=None, keep="off", sample=1.0)


@pytest.fixture
def board() -> Iterator[Board]:
    fd = Board.create(2)
    yield Board(fd, 2)
    os.close(fd)


def both(board: Board, limits: LimitsPlan, plan: ListenerPlan = PLAN) -> tuple[Limits, Limits]:
    """One listener's limits, as each of two workers has them."""
    board.planes.make_room(0 if limits.planes is None else limits.planes + 1)
    one, two = (LimitsOfAll(board, n).of(replace(plan, limits=limits)) for n in range(2))
    assert one is not None
    assert two is not None
    return one, two


def test_handshakes_of_both_workers_count_together(board: Board) -> None:
    one, two = both(board, LimitsPlan(handshakes=3))
    assert [one.enter_handshake(), two.enter_handshake(), one.enter_handshake()] == [True] * 3
    assert not one.enter_handshake()
    assert not two.enter_handshake()  # who is refused takes nothing
    two.leave_handshake()
    assert one.enter_handshake()
    assert not two.enter_handshake()
    for _ in range(3):
        one.leave_handshake()
    assert board.total(listener_handshakes(7)) == 0


def test_handshakes_of_two_listeners_count_apart(board: Board) -> None:
    one, _ = both(board, LimitsPlan(handshakes=1))
    other, _ = both(board, LimitsPlan(handshakes=1), replace(PLAN, slot=8))
    assert one.enter_handshake()
    assert other.enter_handshake()
    assert not one.enter_handshake()


def test_handshakes_of_a_dead_worker_count_no_more(board: Board) -> None:
    one, two = both(board, LimitsPlan(handshakes=2))
    assert one.enter_handshake()
    assert two.enter_handshake()
    board.clear_gauges(1)
    assert one.enter_handshake()
    assert not one.enter_handshake()


def test_handshakes_that_began_before_a_reload_count_and_end_after_it(board: Board) -> None:
    before, _ = both(board, LimitsPlan(rate=Rate(10, 10)))  # handshakes are counted, not limited
    assert all(before.enter_handshake() for _ in range(5))
    after, sibling = both(board, LimitsPlan(handshakes=6))
    assert after.enter_handshake()
    assert not sibling.enter_handshake()
    for _ in range(5):
        before.leave_handshake()
    after.leave_handshake()
    assert board.total(listener_handshakes(7)) == 0


def test_handshakes_that_come_and_go_in_any_order_never_exceed_the_limit(board: Board) -> None:
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    chance, live = random.Random(seed), list[Limits]()
    workers = both(board, LimitsPlan(handshakes=10))
    for _ in range(5000):
        if live and chance.random() < 0.45:
            live.pop(chance.randrange(len(live))).leave_handshake()
        else:
            one = chance.choice(workers)
            let_in = one.enter_handshake()
            assert let_in == (len(live) < 10)
            if let_in:
                live.append(one)
        assert board.total(listener_handshakes(7)) == len(live)


def test_the_answer_names_the_limit_that_forbids(board: Board) -> None:
    limits = LimitsPlan(rate=Rate(1, 8), client_rate=Rate(1, 4), client_sessions=3, v4=24, planes=0)
    workers = both(board, limits)

    def come(ip: str, times: int) -> Counter[str | None]:
        return Counter(workers[n % 2].enter(ip, 50.0)[0] for n in range(times))

    assert come("192.0.2.1", 5) == {None: 3, "client_limit": 2}
    for _, place in (workers[0].enter("198.51.100.1", 50.0) for _ in range(4)):
        if place is not None:
            workers[0].leave(place)
    # Four have come from there, of whom none stays; and seven in all.
    assert come("198.51.100.2", 2) == {"client_rate_limit": 2}
    assert come("203.0.113.1", 2) == {None: 1, "rate_limit": 1}
    assert come("", 1) == {"rate_limit": 1}


def test_one_rate_for_all_needs_no_planes_and_counts_on_the_board_alone(board: Board) -> None:
    size = board.planes.number
    one, two = both(board, LimitsPlan(rate=Rate(1, 5)))
    answers = [limits.enter(f"192.0.2.{n}", 9.0)[0] for n in range(4) for limits in (one, two)]
    assert answers == [None] * 5 + ["rate_limit"] * 3
    assert board.planes.number == size == 0


def test_planes_are_mapped_once_and_given_up_with_the_last_session_that_needs_them(
    board: Board,
) -> None:
    board.planes.make_room(1)
    limits = LimitsOfAll(board, 0)
    plan = replace(PLAN, limits=LimitsPlan(client_sessions=5, planes=0))
    gc.collect()  # what other tests left closes its fds now, and not amid this one
    fds = len(open_fds())
    before = limits.of(plan)
    assert before is not None
    _, place = before.enter("192.0.2.1", 1.0)
    after = limits.of(replace(plan, name="renamed"))
    assert after is not None
    assert len(open_fds()) == fds + 1
    assert [after.enter("192.0.2.1", 1.0)[0] for _ in range(5)] == [None] * 4 + ["client_limit"]
    assert place is not None
    before.leave(place)
    assert after.enter("192.0.2.1", 1.0)[0] is None
    del before, after
    gc.collect()
    assert len(open_fds()) == fds


@pytest.mark.parametrize("seed", range(5))
def test_whoever_only_looks_foresees_what_each_worker_says(seed: int, board: Board) -> None:
    chance = random.Random(seed)
    plan = LimitsPlan(rate=Rate(15, 20), client_rate=Rate(2, 4), client_sessions=3, v4=24, planes=0)
    workers = both(board, plan)
    looks = Limits(plan, PLAN.slot, board, 0, Clients(board.planes.of(0), None, board.key))
    taken: list[tuple[Limits, Place]] = []
    said: Counter[str | None] = Counter()
    now = 100.0
    for _ in range(1500):
        now += chance.expovariate(30)
        ip, worker = f"192.0.{chance.randrange(9)}.{chance.randrange(255)}", chance.choice(workers)
        foreseen = looks.look(ip, now)
        assert looks.look(ip, now) == foreseen
        why, place = worker.enter(ip, now)
        assert foreseen == why
        said[why] += 1
        if place is not None:
            taken.append((worker, place))
        if len(taken) > 12:
            owner, place = taken.pop(chance.randrange(len(taken)))
            owner.leave(place)
    assert said.keys() == {None, "client_limit", "client_rate_limit", "rate_limit"}, said
