"""Slow start: who begins with a tenth, how it grows, and what sessions see of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType

import pytest
from harness import upstreams
from harness.found import find_upstreams
from harness.health import MACHINE
from harness.load import read_to_end
from harness.proxy import Proxy, running_proxy
from harness.wait import wait_until
from hypothesis import given
from hypothesis import strategies as st

from spliceproxy import config
from spliceproxy.control.parts import InForce, UpstreamStates
from spliceproxy.control.plan import make_snapshot
from spliceproxy.control.slots import UpstreamSlots
from spliceproxy.control.slow_start import SlowStart, held_after
from spliceproxy.ipc.sealed import at_once
from spliceproxy.telemetry.board import DOWN, DRAINING, EJECTED, Board, held_back
from spliceproxy.worker.pool import Pool, make_upstreams

POLICIES = ["round_robin", "random", "power_of_two", "least_sessions"]
A, B, C = (f"127.0.0.1:{port}" for port in (9001, 9002, 9003))


@given(st.floats(0, 2e6), st.floats(0.001, 1e6))
def test_a_share_grows_in_a_line_from_a_tenth_to_all(seconds: float, slow_start: float) -> None:
    given_by_now = 100 - held_after(seconds, slow_start)
    wanted = 10 + 90 * min(1.0, seconds / slow_start)
    assert wanted - 1 <= given_by_now <= wanted + 1e-6
    assert held_after(0.0, slow_start) == 90
    assert held_after(slow_start, slow_start) == 0


class Clock:
    """A clock that the test sets. Not the rig itself: in a circle the board's fd would live on."""

    now = 1000.0

    def read(self) -> float:
        return self.now


class Rig:
    """A SlowStart with a clock of the test's, a real board, and a worker's pool that follows it."""

    def __init__(self) -> None:
        self.clock = Clock()
        fd = Board.create(1)
        self.board = Board(fd, 1)
        os.close(fd)
        self.states = UpstreamStates(self.board.upstreams)
        self.part = SlowStart(self.states, self.clock.read)
        self.slots: dict[str, int] = {}
        self._slots = UpstreamSlots()
        self.pool: Pool

    def apply(
        self,
        *addresses: str,
        slow_start: str = "100s",
        balance: str = "round_robin",
        more: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        """Put a configuration in force: one pool of these upstreams, and `more` pools."""
        pool = {"upstreams": list(addresses), "slow_start": slow_start, "balance": balance}
        web = {"bind": "127.0.0.1:0", "pool": "app"}
        text = json.dumps({"listeners": {"web": web}, "pools": {"app": pool, **more}})
        loaded = config.loads(text, "test.yaml", {})
        places = find_upstreams(loaded)
        snapshot = make_snapshot(loaded, places, MACHINE, 1, 0, self._slots)
        in_force = InForce(loaded, snapshot)
        self.slots = {one.name: one.slot for _, one in in_force.upstreams()}
        members = at_once(make_upstreams(snapshot.pools[0], range(0)))
        self.pool = Pool(snapshot.pools[0], 0.0, members, self.board.upstreams, 0)
        self.part.apply(in_force)

    def mark(self, address: str, flag: int, on: bool) -> None:
        self.states.mark(self.slots[address], flag, on)

    def held(self) -> list[int]:
        """What is held back from each upstream, in percent."""
        state = self.board.upstreams.state
        return [held_back(state(slot)) for slot in self.slots.values()]

    def later(self, seconds: float) -> None:
        self.clock.now += seconds
        self.part.step()

    def shares(self, choices: int = 20_000) -> dict[str, float]:
        """The shares of so many choices, as a worker makes them."""
        seen: Counter[str] = Counter()
        for _ in range(choices):
            taken = self.pool.take()
            assert taken is not None
            seen[taken.name] += 1
            self.pool.give_back(taken)
        return {name: seen[name] / choices for name in self.slots}


def run(test: Callable[[Rig], None]) -> None:
    """Run a test within an event loop, whose timers are of no matter here."""

    async def main() -> None:
        made = Rig()
        test(made)
        await made.part.close()

    asyncio.run(main())


@pytest.mark.parametrize("balance", POLICIES)
@pytest.mark.parametrize("flag", [DOWN, EJECTED])
def test_who_came_back_has_a_tenth_and_more_with_time(balance: str, flag: int) -> None:
    def test(it: Rig) -> None:
        it.apply(A, B, C, balance=balance)
        assert it.held() == [0, 0, 0]  # all are of the start
        it.mark(B, flag, True)
        assert it.shares(300)[B] == 0
        assert it.held() == [0, 0, 0]
        it.mark(B, flag, False)
        for seconds, part in ((0, 0.1), (25, 0.325), (25, 0.55), (49, 0.991), (1, 1.0), (9, 1.0)):
            it.later(seconds)
            shares = it.shares()
            print(f"{balance} after {it.clock.now - 1000:g} s: {shares}")
            assert it.held()[1] == pytest.approx(100 - 100 * part, abs=1)
            assert shares[B] == pytest.approx(part / (2 + part), abs=0.02)
            assert shares[A] == pytest.approx(shares[C], abs=0.05)

    run(test)


def test_one_that_a_reload_brought_starts_slowly_and_those_of_the_start_do_not() -> None:
    def test(it: Rig) -> None:
        it.apply(A)
        it.apply(A, B)
        assert it.held() == [0, 90]
        assert it.shares(1100)[B] == pytest.approx(1 / 11, abs=0.01)
        it.later(50)
        it.apply(A, B, C)
        assert it.held() == [0, 45, 90]
        it.later(50)
        assert it.held() == [0, 0, 45]
        it.apply(A, C)  # with B's place free, and C in the middle of it
        assert it.held() == [0, 45]
        it.apply(A, B, C)
        assert it.held() == [0, 90, 45]

    run(test)


def test_one_that_is_new_and_not_checked_yet_begins_when_it_passed() -> None:
    def test(it: Rig) -> None:
        it.apply(A)
        slot = it.slots[A]
        it.states.mark(slot + 2, DOWN, True)  # as the monitor does first; slot + 1 is the pool's
        it.apply(A, B)
        assert it.slots[B] == slot + 2
        assert it.held() == [0, 0]
        it.later(500)
        it.mark(B, DOWN, False)
        assert it.held() == [0, 90]

    run(test)


def test_one_that_fails_again_begins_anew_and_a_drained_one_goes_on() -> None:
    def test(it: Rig) -> None:
        it.apply(A, B)
        it.mark(B, DOWN, True)
        it.mark(B, EJECTED, True)
        it.mark(B, DOWN, False)
        assert it.held() == [0, 0]  # still ejected
        it.mark(B, EJECTED, False)
        it.later(50)
        assert it.held() == [0, 45]
        it.mark(B, DRAINING, True)
        assert it.states.has(it.slots[B], DRAINING)
        assert it.shares(100)[B] == 0
        it.later(20)
        it.mark(B, DRAINING, False)
        assert it.held() == [0, 27]
        it.mark(B, DOWN, True)
        assert it.held() == [0, 0]
        it.mark(B, DOWN, False)
        assert it.held() == [0, 90]

    run(test)


def test_the_only_usable_one_takes_everything_however_slowly_it_starts() -> None:
    def test(it: Rig) -> None:
        it.apply(A, B)
        it.mark(B, DOWN, True)
        it.mark(B, DOWN, False)
        it.mark(A, DOWN, True)
        assert it.held() == [0, 90]
        assert it.shares(100) == {A: 0, B: 1}

    run(test)


def test_a_reload_may_change_the_time_and_end_it() -> None:
    def test(it: Rig) -> None:
        it.apply(A, B)
        it.mark(B, DOWN, True)
        it.mark(B, DOWN, False)
        it.later(10)
        assert it.held() == [0, 81]
        it.apply(A, B, slow_start="20s")
        assert it.held() == [0, 45]
        it.apply(A, B, slow_start="off")
        assert it.held() == [0, 0]
        it.mark(B, DOWN, True)
        it.mark(B, DOWN, False)
        assert it.held() == [0, 0]

    run(test)


def test_a_table_of_clients_knows_no_slow_start() -> None:
    def test(it: Rig) -> None:
        it.apply(A, B, balance="source_hash")
        it.mark(B, DOWN, True)
        it.mark(B, DOWN, False)
        assert it.held() == [0, 0]

    run(test)


@pytest.mark.alone
def test_the_timer_keeps_the_pace_of_the_shortest_and_ends() -> None:
    async def main() -> None:
        it = Rig()
        part = SlowStart(it.states)
        it.part, old = part, it.part
        await old.close()
        it.apply(A, B, slow_start="300ms", more={"slow": {"upstreams": C, "slow_start": "1h"}})
        for address in (C, B):
            it.mark(address, DOWN, True)
            it.mark(address, DOWN, False)
        seen = {it.held()[1]}
        while it.held()[1]:
            await asyncio.sleep(0.001)
            seen.add(it.held()[1])
        assert it.held() == [0, 0, 90]
        print(f"{len(seen)} steps: {sorted(seen, reverse=True)}")
        assert 5 <= len(seen) <= 22
        await part.close()

    asyncio.run(asyncio.wait_for(main(), 30))


# --- the whole proxy


def yaml(*addresses: str, more: str) -> str:
    return (
        "listeners: {web: {bind: '127.0.0.1:0', pool: app}}\n"
        f"pools: {{app: {{upstreams: [{', '.join(addresses)}], {more}}}}}\n"
    )


def visits(proxy: Proxy, number: int) -> Counter[str]:
    """Who served so many sessions, one after another."""
    seen: Counter[str] = Counter()
    for _ in range(number):
        with proxy.connect("web") as client:
            seen[read_to_end(client).decode()] += 1
    return seen


HEALTH = "health: {check: tcp, interval: 50ms, timeout: 300ms, rise: 1, fall: 1}\n"


def test_a_recovered_upstream_is_given_a_tenth_of_its_share_at_first() -> None:
    with upstreams.named("a") as a, upstreams.named("b") as b:
        text = HEALTH + yaml(a.address, b.address, more="slow_start: 24h, eject: off")
        with running_proxy(text) as proxy:
            assert visits(proxy, 20) == {"a": 10, "b": 10}
            b.stop()
            proxy.wait_log("upstream down")
            b.start()
            proxy.wait_log("upstream up")
            assert visits(proxy, 110)["b"] in (9, 10, 11)


def test_a_recovered_upstream_has_its_full_share_after_the_time() -> None:
    with upstreams.named("a") as a, upstreams.named("b") as b:
        text = HEALTH + yaml(a.address, b.address, more="slow_start: 200ms, eject: off")
        with running_proxy(text) as proxy:
            b.stop()
            proxy.wait_log("upstream down")
            b.start()
            proxy.wait_log("upstream up")
            wait_until(lambda: visits(proxy, 20) == {"a": 10, "b": 10}, 10, "equal shares")


def test_an_upstream_whose_ejection_ended_is_given_a_tenth_of_its_share_at_first() -> None:
    with upstreams.named("a") as a, upstreams.named("b") as b:
        more = "slow_start: 24h, eject: {after: 1, time: 200ms}"
        with running_proxy(yaml(a.address, b.address, more=more)) as proxy:
            b.stop()
            visits(proxy, 4)
            proxy.wait_log("upstream ejected")
            b.start()
            proxy.wait_log("upstream back")
            assert visits(proxy, 110)["b"] in (9, 10, 11)


@pytest.mark.parametrize("health", ["", HEALTH])
def test_an_upstream_that_a_reload_brought_is_given_a_tenth_of_its_share_at_first(
    health: str,
) -> None:
    with (
        upstreams.named("a") as a,
        upstreams.named("b") as b,
        running_proxy(health + yaml(a.address, more="slow_start: 24h")) as proxy,
    ):
        text = proxy.config.read_text()
        proxy.config.write_text(text.replace(a.address, f"{a.address}, {b.address}"))
        proxy.signal(signal.SIGHUP)
        proxy.wait_log("reloaded")
        wait_until(lambda: visits(proxy, 11)["b"], 10, "the new one's first session")
        assert visits(proxy, 110)["b"] in (9, 10, 11)
