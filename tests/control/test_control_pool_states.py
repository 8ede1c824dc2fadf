"""control/pool_states.py: what the log says of a pool as a whole."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

from harness.found import find_upstreams
from harness.health import MACHINE
from structlog.testing import capture_logs

from spliceproxy import config
from spliceproxy.control.parts import InForce, UpstreamStates
from spliceproxy.control.plan import make_snapshot
from spliceproxy.control.plan_weights import SetWeights
from spliceproxy.control.pool_states import PoolStates
from spliceproxy.control.slots import UpstreamSlots
from spliceproxy.telemetry.board import DOWN, DRAINING, EJECTED, Board

A, B, C = (f"127.0.0.1:{port}" for port in (9001, 9002, 9003))
SECOND = {"address": B, "tier": 1}
DOWN_LINE = "pool down: none of its upstreams can be used"


class Rig:
    """The part, a board, and the lines of the log that were not looked at so far."""

    def __init__(self, lines: list[Any]) -> None:
        fd = Board.create(1)
        self.board = Board(fd, 1)
        os.close(fd)
        self.states = UpstreamStates(self.board.upstreams)
        self.part = PoolStates(self.states)
        self.weights = SetWeights()
        self._slots = UpstreamSlots()
        self._lines = lines

    def apply(self, *upstreams: object, pool: str = "app") -> None:
        """Put one pool of these upstreams in force."""
        web = {"bind": "127.0.0.1:0", "pool": pool}
        pools = {pool: {"upstreams": list(upstreams)}}
        loaded = config.loads(json.dumps({"listeners": {"web": web}, "pools": pools}), "x.yaml", {})
        found = find_upstreams(loaded) if upstreams[0] != "name.test:80" else {}
        snapshot = make_snapshot(loaded, found, MACHINE, 1, 0, self._slots, weights=self.weights)
        self.part.apply(InForce(loaded, snapshot))

    def mark(self, address: str, flag: int, on: bool) -> None:
        self.states.mark(self._slots.slot("app", address), flag, on)

    async def told(self) -> list[tuple[object, ...]]:
        """What was logged since the last call: level, event, and tier where there is one."""
        await asyncio.sleep(0)
        lines, self._lines[:] = list(self._lines), []
        keys = ("log_level", "event", "tier")
        return [tuple(line[key] for key in keys if key in line) for line in lines]


def run(test: Callable[[Rig], Awaitable[None]]) -> None:
    async def main() -> None:
        with capture_logs() as lines:
            rig = Rig(lines)
            await test(rig)
            await rig.part.close()

    asyncio.run(main())


def test_a_pool_is_down_with_its_last_upstream_and_up_with_the_first() -> None:
    async def test(it: Rig) -> None:
        it.apply(A, B)
        assert await it.told() == []
        it.mark(A, DOWN, True)
        assert await it.told() == []
        it.mark(B, DRAINING, True)
        assert await it.told() == [("error", DOWN_LINE)]
        it.mark(B, DOWN, True)
        it.mark(B, DRAINING, False)
        assert await it.told() == []
        it.mark(A, DOWN, False)
        assert await it.told() == [("info", "pool up", 0)]

    run(test)


def test_ejected_ones_are_used_where_there_are_no_others() -> None:
    async def test(it: Rig) -> None:
        it.apply(A, B)
        it.mark(A, EJECTED, True)
        it.mark(B, EJECTED, True)
        assert await it.told() == []
        it.apply(A, SECOND)
        it.mark(A, EJECTED, False)
        it.mark(B, EJECTED, False)
        assert await it.told() == []
        it.mark(A, EJECTED, True)
        assert await it.told() == [("warning", "pool on another tier", 1)]
        it.mark(B, DOWN, True)
        assert await it.told() == [("info", "pool on another tier", 0)]

    run(test)


def test_a_change_of_tier_is_told_both_ways() -> None:
    async def test(it: Rig) -> None:
        it.apply(A, SECOND)
        assert await it.told() == []
        it.mark(A, DOWN, True)
        assert await it.told() == [("warning", "pool on another tier", 1)]
        it.mark(A, DOWN, False)
        assert await it.told() == [("info", "pool on another tier", 0)]

    run(test)


def test_what_is_over_before_sessions_could_see_it_is_not_told() -> None:
    async def test(it: Rig) -> None:
        it.apply(A)
        assert await it.told() == []
        it.mark(A, DOWN, True)
        it.mark(A, DOWN, False)
        assert await it.told() == []
        it.mark(A, DOWN, True)
        it.apply(B)  # in the same moment, by a reload
        assert await it.told() == []

    run(test)


def test_weights_that_were_set_count() -> None:
    async def test(it: Rig) -> None:
        it.apply(A, SECOND)
        assert await it.told() == []
        it.weights.put("app", A, 0)
        it.apply(A, SECOND)
        assert await it.told() == [("warning", "pool on another tier", 1)]
        it.weights.put("app", None, 0)
        it.apply(A, SECOND)
        assert await it.told() == [("error", DOWN_LINE)]
        it.weights.put("app", None, None)
        it.apply(A, SECOND)
        assert await it.told() == [("info", "pool up", 0)]

    run(test)


def test_a_pool_that_is_new_is_told_of_only_if_it_is_down() -> None:
    async def test(it: Rig) -> None:
        it.mark(A, DOWN, True)
        it.apply(A)
        assert await it.told() == [("error", DOWN_LINE)]
        it.apply(C, pool="other")
        assert await it.told() == []
        it.apply(A)
        assert await it.told() == [("error", DOWN_LINE)]

    run(test)


def test_a_pool_whose_upstreams_are_not_found_yet_is_up_with_the_first() -> None:
    async def test(it: Rig) -> None:
        it.apply("name.test:80")
        assert await it.told() == []
        it.apply(A)
        assert await it.told() == [("info", "pool up", 0)]

    run(test)
