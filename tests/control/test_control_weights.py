"""control/weights.py: weights that somebody set, what workers do by them, how long they hold."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from harness.upstreams import named
from harness.wait import wait_until
from live_wing import LiveWing, live_wing

from spliceproxy.control.draining import TargetError, UnknownTargetError
from spliceproxy.control.plan_weights import SetWeights
from spliceproxy.control.weights import WeightSet
from spliceproxy.ipc import UpstreamPlan
from spliceproxy.telemetry.tap import Line

POLICIES = ["round_robin", "random", "power_of_two", "least_sessions", "source_hash"]


@pytest.fixture
def upstreams() -> Iterator[list[str]]:
    """Addresses of three upstreams, who say a, b and c."""
    with ExitStack() as stack:
        yield [stack.enter_context(named(name)).address for name in "abc"]


def yaml(*upstreams: object, balance: str = "round_robin", **more: object) -> str:
    pool = {"upstreams": list(upstreams), "balance": balance, **more}
    web = {"bind": "127.0.0.1:0", "pool": "app"}
    return json.dumps({"health": "off", "listeners": {"web": web}, "pools": {"app": pool}})


def orders(wing: LiveWing) -> list[Line]:
    """What the log says of weights."""
    return [line for line in wing.events.recent() if line["event"].startswith("weight")]


def test_shares_are_those_of_the_weights_that_were_set(upstreams: list[str]) -> None:
    async def live() -> None:
        a, b, c = upstreams
        async with live_wing(yaml(a, b, {"address": c, "weight": 2})) as wing:
            assert await wing.shares(40) == {b"a": 10, b"b": 10, b"c": 20}
            target = f"pool/app/{a}"
            assert await wing.weights.set(target, 5) == WeightSet(target, 5, 1, changed=True)
            assert await wing.shares(80) == {b"a": 50, b"b": 10, b"c": 20}
            assert await wing.weights.set(target, 5) == WeightSet(target, 5, 1, changed=False)
            assert await wing.weights.set(target, 0) == WeightSet(target, 0, 1, changed=True)
            assert await wing.shares(30) == {b"b": 10, b"c": 20}
            assert await wing.weights.set(target, None) == WeightSet(target, 1, 1, changed=True)
            assert await wing.shares(40) == {b"a": 10, b"b": 10, b"c": 20}

            told = [(line["event"], line["weight"], line["configured"]) for line in orders(wing)]
            assert told == [
                ("weight set", 5, 1),
                ("weight set", 0, 1),
                ("weight as configured again", 1, 1),
            ]
            assert {line["target"] for line in orders(wing)} == {target}

    asyncio.run(live())


@pytest.mark.parametrize("balance", POLICIES)
def test_who_has_no_weight_gets_no_session_whatever_the_policy(
    balance: str, upstreams: list[str]
) -> None:
    async def live() -> None:
        a, b, _c = upstreams
        async with live_wing(yaml(a, b, balance=balance)) as wing:
            [used] = (await wing.shares(1)).keys()
            mine, other = (a, b"b") if used == b"a" else (b, b"a")
            await wing.weights.set(f"pool/app/{mine}", 0)
            assert await wing.shares(20) == {other: 20}
            await wing.weights.set(f"pool/app/{mine}", None)
            assert used in await wing.shares(20)

    asyncio.run(live())


def test_a_pool_is_a_target_and_so_are_those_who_come_to_it_later(upstreams: list[str]) -> None:
    async def live() -> None:
        a, b, c = upstreams
        async with live_wing(yaml(a, {"address": b, "weight": 2})) as wing:
            await wing.weights.set(f"pool/app/{a}", 9)
            assert await wing.weights.set("pool/app", 3) == WeightSet("pool/app", 3, None, True)
            assert wing.weights_in_force() == {a: 3, b: 3}
            one = f"pool/app/{b}"
            assert await wing.weights.set(one, None) == WeightSet(one, 2, 2, changed=True)
            assert wing.weights_in_force() == {a: 3, b: 2}
            await wing.reload(yaml(a, {"address": b, "weight": 4}, c))
            assert wing.weights_in_force() == {a: 3, b: 4, c: 3}
            assert await wing.weights.set("pool/app", None) == WeightSet(
                "pool/app", None, None, True
            )
            assert wing.weights_in_force() == {a: 1, b: 4, c: 1}

    asyncio.run(live())


def test_all_of_a_pool_may_have_no_weight_and_then_nobody_is_served(upstreams: list[str]) -> None:
    async def live() -> None:
        async with live_wing(yaml(*upstreams)) as wing:
            await wing.weights.set("pool/app", 0)
            with pytest.raises(ConnectionResetError):
                await wing.shares(1)
            await wing.weights.set("pool/app", None)
            assert sum((await wing.shares(9)).values()) == 9

    asyncio.run(live())


def test_what_is_set_holds_over_reloads_and_for_who_comes_back(upstreams: list[str]) -> None:
    async def live() -> None:
        a, b, c = upstreams
        async with live_wing(yaml(a, b)) as wing:
            await wing.weights.set(f"pool/app/{a}", 7)
            await wing.reload(yaml({"address": a, "weight": 2}, b, c))
            assert wing.weights_in_force() == {a: 7, b: 1, c: 1}
            assert [wing.weights.configured("app", one) for one in (a, b)] == [2, 1]
            await wing.reload(yaml(b, c))
            with pytest.raises(UnknownTargetError):
                await wing.weights.set(f"pool/app/{a}", 1)
            await wing.reload(yaml(a, b))
            assert wing.weights_in_force() == {a: 7, b: 1}
            assert [wing.weights.configured("app", one) for one in (a, b)] == [1, 1]

    asyncio.run(live())


def test_another_process_goes_on_with_what_was_set(upstreams: list[str]) -> None:
    async def live() -> None:
        a, b, _c = upstreams
        async with live_wing(yaml(a, b)) as wing:
            await wing.weights.set("pool/app", 6)
            await wing.weights.set(f"pool/app/{b}", None)
            await wing.weights.set(f"pool/app/{a}", 2)
            knowledge = json.loads(json.dumps(wing.weights.knowledge()))
        async with live_wing(yaml(a, b), learned=knowledge) as wing:
            assert wing.weights_in_force() == {a: 2, b: 1}
            assert await wing.shares(30) == {b"a": 20, b"b": 10}
            await wing.weights.set("pool/app", None)
            assert wing.weights_in_force() == {a: 1, b: 1}

    asyncio.run(live())


def test_upstreams_of_a_list_keep_what_was_set_while_the_list_changes(
    upstreams: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "app.yaml"

    def write(*entries: object) -> None:
        new = tmp_path / "new"
        new.write_text(json.dumps(list(entries)))
        new.rename(file)

    async def live() -> None:
        a, b, c = upstreams
        write(a, b)
        async with live_wing(yaml(f"file:{file}")) as wing:

            async def found(expected: dict[str, int]) -> None:
                await asyncio.to_thread(
                    wait_until, lambda: wing.weights_in_force() == expected, 10, f"{expected}"
                )

            await found({a: 1, b: 1})
            await wing.weights.set(f"pool/app/{a}", 4)
            await found({a: 4, b: 1})
            write({"address": a, "weight": 3}, b, c)
            await found({a: 4, b: 1, c: 1})
            assert wing.weights.configured("app", a) == 3
            assert await wing.shares(60) == {b"a": 40, b"b": 10, b"c": 10}
            lines = [line.get("changes", []) for line in wing.events.recent()]
            [changes] = [changes for changes in lines if f"+ {c}" in changes]
            assert sorted(changes) == [f"+ {c}", f"~ {a}: weight 1 → 3"], "what the list said"

    asyncio.run(live())


def test_what_is_no_target_or_no_weight_changes_nothing(upstreams: list[str]) -> None:
    async def live() -> None:
        a, b, _c = upstreams
        async with live_wing(yaml(a, b)) as wing:
            for target, weight, said in (
                ("app", 1, r"^app: write pool/NAME or pool/NAME/UPSTREAM; did you mean pool/app"),
                ("web", 1, "^web: write pool/NAME or pool/NAME/UPSTREAM$"),
                ("listener/web", 1, "write pool/NAME"),
                ("all", 1, "write pool/NAME"),
                (f"pool/app/{a}", -1, "a weight is from 0 to 256"),
                ("pool/app", 257, "a weight is from 0 to 256"),
            ):
                with pytest.raises(TargetError, match=said):
                    await wing.weights.set(target, weight)
            for target, said in (
                ("pool/ap", "there is no pool ap; did you mean app"),
                (f"pool/app/{a}x", f"has no upstream {a}x; did you mean {a}?"),
            ):
                with pytest.raises(UnknownTargetError, match=said):
                    await wing.weights.set(target, 1)
            assert wing.weights.knowledge() == []
            assert wing.weights_in_force() == {a: 1, b: 1}
            assert orders(wing) == []

    asyncio.run(live())


@contextmanager
def no_fds() -> Iterator[None]:
    """A process that may open nothing more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_weight_that_cannot_be_put_in_force_is_not_set(upstreams: list[str]) -> None:
    async def live() -> None:
        a, b, _c = upstreams
        async with live_wing(yaml(a, b)) as wing:
            await wing.weights.set(f"pool/app/{a}", 3)
            with no_fds(), pytest.raises(OSError, match="Too many open files"):
                await wing.weights.set(f"pool/app/{b}", 3)
            assert wing.weights.knowledge() == [("app", a, 3)]
            assert wing.weights_in_force() == {a: 3, b: 1}
            await wing.weights.set(f"pool/app/{b}", 3)
            assert await wing.shares(20) == {b"a": 10, b"b": 10}

    asyncio.run(live())


def test_what_is_set_twice_or_undone_without_need_is_no_change() -> None:
    weights = SetWeights()
    assert not weights.put("app", "a", None)
    assert not weights.put("app", None, None)
    assert weights.put("app", "a", 3)
    assert not weights.put("app", "a", 3)
    assert weights.put("app", None, 3), "now also for those that come"
    assert not weights.put("app", None, 3)
    assert weights.put("app", "a", None)
    assert not weights.put("app", "a", None)
    assert weights.put("app", None, None)
    assert weights.names() == []


def test_a_pool_of_which_nothing_is_set_costs_nothing() -> None:
    plans = tuple(UpstreamPlan(f"10.0.0.{n}:80", 2, (f"10.0.0.{n}", 80)) for n in range(3))
    weights = SetWeights()
    weights.put("other", None, 5)
    assert weights.obeyed("app", plans) is plans
