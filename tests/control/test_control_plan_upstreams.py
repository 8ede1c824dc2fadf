"""What workers are told of upstreams: places on the board, tiers, limits, and tables."""

from __future__ import annotations

import os
import time
from collections import Counter

import pytest
from harness.found import find_upstreams

from spliceproxy import config
from spliceproxy.control import hash_tables
from spliceproxy.control.machine import Machine
from spliceproxy.control.plan import make_snapshot
from spliceproxy.control.slots import UpstreamSlots
from spliceproxy.ipc import PoolPlan, Snapshot
from spliceproxy.ipc.sealed import seal, unseal
from spliceproxy.telemetry.board import Board

ROOMY = Machine(1_000_000, 65535, 28_000, None, None)


def snapshot(pool: str, slots: UpstreamSlots | None = None) -> Snapshot:
    loaded = config.loads(
        f"listeners: {{web: {{bind: '127.0.0.1:0', pool: app}}}}\npools: {{app: {{{pool}}}}}\n",
        "test.yaml",
    )
    return make_snapshot(loaded, find_upstreams(loaded), ROOMY, 1, 0, slots or UpstreamSlots())


def plan(pool: str) -> PoolPlan:
    return snapshot(pool).pools[0]


def test_the_keys_of_balancing_reach_the_plan() -> None:
    app = plan(
        "balance: power_of_two, max_sessions: 9, panic: 30%, upstreams: "
        "[127.0.0.1:1, {address: 127.0.0.1:2, weight: 4, tier: 1, max_sessions: 7}]"
    )
    assert (app.balance, app.max_sessions, app.panic, dict(app.tables)) == (
        "power_of_two",
        9,
        0.3,
        {},
    )
    first, second = app.upstreams
    assert (first.weight, first.tier, first.max_sessions) == (1, 0, None)
    assert (second.weight, second.tier, second.max_sessions) == (4, 1, 7)
    assert len({first.slot, second.slot, app.slot}) == 3


@pytest.mark.parametrize(
    ("one", "other", "tier", "limit"),
    [
        ("tier: 2, max_sessions: 5", "tier: 1", 1, 5),
        ("tier: 0", "tier: 3, max_sessions: 8", 0, 8),
        ("max_sessions: 9", "max_sessions: 4", 0, 4),
        ("weight: 1", "weight: 1", 0, None),
    ],
)
def test_where_two_names_meet_the_lower_tier_and_the_lower_limit_hold(
    one: str, other: str, tier: int, limit: int | None
) -> None:
    app = plan(f"upstreams: [{{address: 127.0.0.1:80, {one}}}, {{address: localhost:80, {other}}}]")
    [merged] = [each for each in app.upstreams if each.name == "127.0.0.1:80"]
    assert (merged.tier, merged.max_sessions, merged.weight) == (tier, limit, 2)


def test_each_tier_of_a_pool_with_source_hash_has_a_table_that_reaches_the_worker() -> None:
    told = snapshot(
        "balance: source_hash, upstreams: [{address: 127.0.0.1:1, tier: 3}, 127.0.0.1:2, "
        "{address: 127.0.0.1:3, weight: 2}, {address: 127.0.0.1:4, weight: 0}]"
    )
    fd = seal(told)
    try:
        tables = unseal(fd).pools[0].tables
    finally:
        os.close(fd)
    assert set(tables) == {0, 3}
    assert set(tables[3]) == {0}
    places = Counter(tables[0])
    assert set(places) == {1, 2}
    assert places[2] == pytest.approx(2 * places[1], rel=0.01)


def test_a_table_is_not_made_again_while_its_upstreams_stay() -> None:
    text = "upstreams: [" + ", ".join(f"10.0.{n >> 8}.{n & 255}:80" for n in range(1000)) + "]"
    hash_tables._table.cache_clear()
    began = time.process_time()
    first = plan(f"balance: source_hash, {text}")
    once = time.process_time() - began
    again = plan(f"balance: source_hash, retries: 1, {text}")
    print(f"made with its configuration in {once * 1000:.0f} ms")
    assert again.tables == first.tables
    assert hash_tables._table.cache_info()[:2] == (1, 1)  # hits, misses


def test_a_pool_keeps_its_place_on_the_board_for_as_long_as_it_has_upstreams() -> None:
    fd = Board.create(1)
    upstreams = Board(fd, 1).upstreams
    os.close(fd)
    slots = UpstreamSlots()
    app, other = slots.pool_slot("app"), slots.pool_slot("other")
    kept = slots.slot("app", "10.0.0.1:80")
    slots.slot("other", "10.0.0.2:80")
    slots.forget({("app", "10.0.0.1:80")}, upstreams)
    assert (slots.pool_slot("app"), slots.slot("app", "10.0.0.1:80")) == (app, kept)
    fresh = {slots.slot("new", "a:1"), slots.slot("new", "b:1")}
    assert other in fresh  # the place of a pool that is gone is somebody else's
    assert app not in fresh


def test_the_place_of_a_pool_for_which_clients_wait_is_nobody_else_s() -> None:
    fd = Board.create(1)
    upstreams = Board(fd, 1).upstreams
    os.close(fd)
    slots = UpstreamSlots()
    gone = slots.pool_slot("gone")
    upstreams.waiting[0][gone] = 1
    slots.forget(set(), upstreams)
    assert slots.pool_slot("new") != gone
    upstreams.waiting[0][gone] = 0
    slots.forget({("new", "a:1")}, upstreams)
    assert slots.pool_slot("newer") == gone
