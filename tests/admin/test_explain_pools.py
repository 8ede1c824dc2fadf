"""Whom `explain` names in a pool is whom a worker's own pool takes: states, tiers, weights, limits,
panic and live sessions at random, on a real board."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spliceproxy.admin.explain_pool import explain_pool
from spliceproxy.admin.scene import OnBoard
from spliceproxy.control.hash_tables import HASHES, plan_tables
from spliceproxy.ipc import PoolPlan, QueuePlan, TcpPlan, UpstreamPlan
from spliceproxy.ipc.sealed import at_once
from spliceproxy.telemetry.board import DOWN, DRAINING, EJECTED, Board, with_held_back
from spliceproxy.worker.pool import Pool, make_upstreams

POOL_SLOT = 100
POLICIES = ["round_robin", "random", "power_of_two", "least_sessions", "source_hash", "sni_hash"]


@dataclass(frozen=True)
class Here:
    """One upstream, and how it stands."""

    weight: int = 1
    tier: int = 0
    state: int = 0
    live: int = 0
    max_sessions: int | None = None


@contextmanager
def board_with(upstreams: list[Here]) -> Iterator[Board]:
    fd = Board.create(1)
    board = Board(fd, 1)
    for slot, one in enumerate(upstreams):
        board.upstreams.set_state(slot, one.state)
        board.upstreams.sessions[0][slot] = one.live
    board.upstreams.sessions[0][POOL_SLOT] = sum(one.live for one in upstreams)
    yield board
    os.close(fd)


def plan_of(upstreams: list[Here], balance: str, **more: Any) -> PoolPlan:
    plans = tuple(
        UpstreamPlan(
            f"10.0.0.{slot}:80",
            2,
            ("10.0.0.1", 80),
            weight=one.weight,
            slot=slot,
            tier=one.tier,
            max_sessions=one.max_sessions,
        )
        for slot, one in enumerate(upstreams)
    )
    tables = plan_tables(plans) if balance in HASHES else {}
    return PoolPlan(
        "app", balance, plans, 2, 5.0, 60.0, 60.0, None, TcpPlan(), POOL_SLOT, tables=tables, **more
    )


def told(board: Board, plan: PoolPlan, key: str | None = None) -> dict[str, Any]:
    return explain_pool(plan, OnBoard(board), key, 1.0, ())


def names(pool: dict[str, Any], mark: str) -> set[str]:
    return {one["name"] for one in pool["upstreams"] if one[mark]}


STANDING = st.builds(
    Here,
    weight=st.sampled_from([0, 1, 1, 2, 3]),
    tier=st.sampled_from([0, 0, 1, 2]),
    state=st.sampled_from(
        [0, 0, 0, DOWN, EJECTED, DRAINING, DOWN | EJECTED, with_held_back(0, 60)]
    ),
    live=st.integers(0, 4),
    max_sessions=st.sampled_from([None, None, 2, 4]),
)


@pytest.mark.parametrize("balance", POLICIES)
@given(
    upstreams=st.lists(STANDING, max_size=6),
    panic=st.sampled_from([None, 0.3, 0.8]),
    most=st.sampled_from([None, None, 6]),
    keys=st.lists(st.text("abc.1", min_size=1), min_size=1, max_size=5),
)
def test_whom_a_worker_takes_is_among_those_that_are_told(
    balance: str, upstreams: list[Here], panic: float | None, most: int | None, keys: list[str]
) -> None:
    plan = plan_of(upstreams, balance, panic=panic, max_sessions=most, slow_start=True)
    hashed = balance in HASHES
    if hashed:
        plan = replace(plan, slow_start=False)
    with board_with(upstreams) as board:
        pool = Pool(plan, 0.0, at_once(make_upstreams(plan, range(0))), board.upstreams, 0)
        for key in keys:
            said = told(board, plan, key if hashed else None)
            taken = set()
            for _ in range(1 if hashed else 8):
                one = pool.take((), key.encode())
                if one is not None:
                    pool.give_back(one)
                taken.add(None if one is None else one.name)
            if taken == {None}:
                assert not names(said, "candidate"), said
                assert said["upstream"] is None
                continue
            assert None not in taken
            assert taken <= names(said, "candidate"), (taken, said)
            if said["upstream"] is not None:
                assert taken == {said["upstream"]}, said
            if hashed:
                assert said["upstream"] is not None
            if balance == "least_sessions":
                assert taken <= names(said, "next"), (taken, said)


@given(upstreams=st.lists(STANDING, min_size=1, max_size=6))
def test_every_candidate_gets_its_share_in_turn(upstreams: list[Here]) -> None:
    plan = plan_of(upstreams, "round_robin", slow_start=True)
    with board_with(upstreams) as board:
        pool = Pool(plan, 0.0, at_once(make_upstreams(plan, range(0))), board.upstreams, 0)
        said = told(board, plan)
        counts: dict[str, int] = {}
        rounds = 2000
        for _ in range(rounds):
            one = pool.take()
            if one is not None:
                pool.give_back(one)
                counts[one.name] = counts.get(one.name, 0) + 1
        for one in said["upstreams"]:
            assert counts.get(one["name"], 0) == pytest.approx(one["share"] * rounds, abs=2)


@pytest.mark.parametrize(
    ("here", "why"),
    [
        (Here(state=DOWN), "down"),
        (Here(state=EJECTED), "ejected"),
        (Here(state=DRAINING | DOWN), "draining"),
        (Here(weight=0), "its weight is 0"),
        (Here(live=3, max_sessions=3), "full"),
        (Here(tier=1), "tier 1: tier 0 comes first"),
    ],
)
def test_why_one_is_not_chosen_is_told(here: Here, why: str) -> None:
    upstreams = [Here(), Here(), here]
    with board_with(upstreams) as board:
        said = told(board, plan_of(upstreams, "round_robin"))
    assert [one["why"] for one in said["upstreams"]] == ["", "", why]
    assert names(said, "candidate") == {"10.0.0.0:80", "10.0.0.1:80"}


QUEUE = QueuePlan(10, 5.0, when_down=False)


@pytest.mark.parametrize(
    ("here", "more", "text"),
    [
        (Here(state=DOWN), {}, "none can be used: it is refused (no_upstream)"),
        (Here(state=DOWN), {"queue": QUEUE}, "none can be used: it is refused (no_upstream)"),
        (
            Here(state=DOWN),
            {"queue": replace(QUEUE, when_down=True)},
            "none can be used: it waits in the pool's queue, for 5 s at the most",
        ),
        (
            Here(live=2, max_sessions=2),
            {"queue": QUEUE},
            "all that can be used are full: it waits in the pool's queue, for 5 s at the most",
        ),
        (Here(live=2), {"max_sessions": 2}, "the pool is full: it is refused (no_upstream)"),
    ],
)
def test_what_becomes_of_a_client_for_whom_there_is_nobody(
    here: Here, more: dict[str, Any], text: str
) -> None:
    with board_with([here]) as board:
        said = told(board, plan_of([here], "round_robin", **more))
    assert said["text"] == text


def test_a_client_whose_own_upstream_is_down_is_told_so() -> None:
    upstreams = [Here() for _ in range(4)]
    with board_with(upstreams) as board:
        plan = plan_of(upstreams, "source_hash")
        owner = told(board, plan, "10.1.2.3")["upstream"]
        slot = int(owner.split(".")[3].split(":")[0])
        board.upstreams.set_state(slot, DOWN)
        said = told(board, plan, "10.1.2.3")
    assert said["upstream"] not in (None, owner)
    assert said["text"] == (
        f"the place of 10.1.2.3 in the table is {owner}'s, which cannot be used: "
        "the next one on its path"
    )
