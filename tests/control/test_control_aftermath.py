"""What the supervisor tells its workers to end when upstreams go down, leave, or come back."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from harness.found import find_upstreams

from spliceproxy import config
from spliceproxy.control.aftermath import Aftermath
from spliceproxy.control.machine import Machine
from spliceproxy.control.parts import InForce, UpstreamStates
from spliceproxy.control.plan import make_snapshot
from spliceproxy.control.slots import UpstreamSlots
from spliceproxy.ipc import MOST_NAMED, End, Message
from spliceproxy.telemetry.board import DOWN, DRAINING, EJECTED, Board

MACHINE = Machine(
    nofile=4096, somaxconn=4096, ports=28232, pipe_max_size=None, pipe_user_pages=None
)
ONE, TWO, THREE = "127.0.0.1:9001", "127.0.0.1:9002", "127.0.0.1:9003"


class Rig:
    """An aftermath with a real board, whose workers are a list."""

    def __init__(self) -> None:
        fd = Board.create(1)
        self._upstreams = Board(fd, 1).upstreams
        os.close(fd)
        self.states = UpstreamStates(self._upstreams)
        self._slots = UpstreamSlots()
        self._told: list[Message] = []
        self.aftermath = Aftermath(self.states, self._told.append)

    def in_force(self, pools: Mapping[str, Any]) -> InForce:
        name = next(iter(pools))
        keys = {"listeners": {"web": {"bind": "127.0.0.1:0", "pool": name}}, "pools": pools}
        loaded = config.loads(json.dumps(keys), "test.yaml", {})
        places = find_upstreams(loaded)
        return InForce(loaded, make_snapshot(loaded, places, MACHINE, 1, 0, self._slots))

    async def apply(self, *upstreams: object, **pool: Any) -> list[tuple[str, list[str]]]:
        """Put a pool `app` in force, and what came of that."""
        self.aftermath.apply(self.in_force({"app": {"upstreams": list(upstreams), **pool}}))
        return await self.told()

    async def told(self) -> list[tuple[str, list[str]]]:
        """What the workers were told since the last time: why, and which upstreams."""
        await asyncio.sleep(0)
        names = {slot: key[1] for key, slot in self._slots._slots.items()}
        told = [one for one in self._told if isinstance(one, End)]
        assert len(told) == len(self._told)
        self._told.clear()
        assert all(one.over == 0 and not one.listeners for one in told)
        return [(one.why, sorted(names[slot] for slot in one.upstreams)) for one in told]

    async def mark(self, upstream: str, flag: int, on: bool) -> list[tuple[str, list[str]]]:
        self.states.mark(self._slots.slot("app", upstream), flag, on)
        return await self.told()


def run(test: Callable[[Rig], Awaitable[None]]) -> None:
    async def live() -> None:
        rig = Rig()
        await test(rig)
        await rig.aftermath.close()

    asyncio.run(asyncio.wait_for(live(), 30))


def test_an_upstream_found_down_loses_its_sessions_once() -> None:
    async def test(rig: Rig) -> None:
        assert await rig.apply(ONE, TWO, on_down="reset") == []
        assert await rig.mark(ONE, DOWN, True) == [("upstream_down", [ONE])]
        assert await rig.mark(ONE, DOWN, True) == []
        assert await rig.mark(ONE, EJECTED, True) == []
        assert await rig.mark(ONE, DOWN, False) == []
        assert await rig.mark(ONE, DOWN, True) == [("upstream_down", [ONE])]

    run(test)


def test_an_upstream_that_is_ejected_or_drained_keeps_its_sessions() -> None:
    async def test(rig: Rig) -> None:
        await rig.apply(ONE, TWO, on_down="reset", on_remove="reset", on_failback="reset")
        assert await rig.mark(ONE, EJECTED, True) == []
        assert await rig.mark(ONE, DRAINING, True) == []

    run(test)


def test_by_default_nobody_loses_anything() -> None:
    async def test(rig: Rig) -> None:
        backup = {"address": TWO, "tier": 1}
        await rig.apply(ONE, backup)
        assert await rig.mark(ONE, DOWN, True) == []
        assert await rig.mark(ONE, DOWN, False) == []
        assert await rig.apply(backup) == []

    run(test)


def test_an_upstream_that_left_loses_its_sessions_as_its_pool_said_before() -> None:
    async def test(rig: Rig) -> None:
        await rig.apply(ONE, TWO, THREE, on_remove="reset")
        assert await rig.apply(ONE, TWO, on_remove="keep") == [("removed", [THREE])]
        assert await rig.apply(ONE, on_remove="reset") == []
        assert await rig.apply(ONE, on_remove="reset", retries=0) == []

    run(test)


def test_the_upstreams_of_a_pool_that_left_lose_their_sessions() -> None:
    async def test(rig: Rig) -> None:
        both = {"app": {"upstreams": [ONE, TWO], "on_remove": "reset"}, "db": {"upstreams": ONE}}
        rig.aftermath.apply(rig.in_force(both))
        rig.aftermath.apply(rig.in_force({"db": {"upstreams": ONE}}))
        assert await rig.told() == [("removed", [ONE, TWO])]

    run(test)


def test_higher_tiers_lose_their_sessions_when_a_lower_one_is_usable_again() -> None:
    async def test(rig: Rig) -> None:
        second, third = {"address": TWO, "tier": 1}, {"address": THREE, "tier": 2}
        for flag in (DOWN, EJECTED, DRAINING):
            assert await rig.apply(ONE, second, third, on_failback="reset") == []
            assert await rig.mark(ONE, flag, True) == []
            assert await rig.mark(TWO, flag, True) == []
            assert await rig.mark(TWO, flag, False) == [("failback", [THREE])]
            assert await rig.mark(ONE, flag, False) == [("failback", [TWO, THREE])]

    run(test)


def test_one_more_usable_upstream_of_a_tier_that_had_one_ends_nobody() -> None:
    async def test(rig: Rig) -> None:
        await rig.apply(ONE, TWO, {"address": THREE, "tier": 1}, on_failback="reset")
        await rig.mark(ONE, DOWN, True)
        assert await rig.mark(ONE, DOWN, False) == []
        await rig.apply(
            {"address": ONE, "weight": 0}, {"address": THREE, "tier": 1}, on_failback="reset"
        )
        await rig.mark(ONE, DOWN, True)
        assert await rig.mark(ONE, DOWN, False) == [], "of weight 0: it serves nobody"

    run(test)


def test_a_lower_tier_that_the_configuration_brings_counts_when_it_passed_its_check() -> None:
    async def test(rig: Rig) -> None:
        backup = {"address": TWO, "tier": 1}
        await rig.apply(backup, on_failback="reset")
        pool = {"app": {"upstreams": [ONE, backup], "on_failback": "reset"}}
        in_force = rig.in_force(pool)
        rig.aftermath.apply(in_force)
        # The part that checks health applies after it, and a new upstream counts as down at first.
        assert await rig.mark(ONE, DOWN, True) == []
        assert await rig.mark(ONE, DOWN, False) == [("failback", [TWO])]

    run(test)


def test_thousands_that_go_down_at_once_fit_into_messages() -> None:
    async def test(rig: Rig) -> None:
        names = [f"127.0.{n // 250}.{n % 250 + 1}:9000" for n in range(MOST_NAMED + 10)]
        await rig.apply(*names, on_down="reset")
        for name in names[1:]:
            rig.states.mark(rig._slots.slot("app", name), DOWN, True)
        told = await rig.told()
        assert [len(upstreams) for _, upstreams in told] == [MOST_NAMED, 9]

    run(test)
