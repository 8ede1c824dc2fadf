"""Passive ejection: who is passed over and for how long, and a whole proxy that does it."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from harness.proxy import Proxy, running_proxy
from harness.serving import Upstream as Serving
from harness.serving import serving
from harness.wait import wait_until
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from spliceproxy import config, ipc
from spliceproxy.config import Eject
from spliceproxy.control.ejection import Ejection, PoolEjection
from spliceproxy.control.parts import InForce, UpstreamStates
from spliceproxy.telemetry.board import DOWN, EJECTED, MAX_UPSTREAMS, Upstreams

Members = Sequence[tuple[str, int]]
"""Names and slots of a pool's upstreams."""


def rules(at_most: str = "50%", time: str = "10s") -> Eject:
    return Eject.model_validate({"at_most": at_most, "time": time})


def pool_of(size: int, **keys: str) -> PoolEjection:
    return PoolEjection(rules(**keys), range(size))


def test_ejection_is_on_unless_somebody_says_off() -> None:
    web = "listeners: {web: {bind: ':0', pool: app}}\n"
    text = f"{web}pools: {{app: {{upstreams: 'a:1'}}, none: {{upstreams: 'a:1', eject: off}}}}\n"
    pools = config.loads(text, "test.yaml").pools
    assert pools["none"].eject is None
    eject = pools["app"].eject
    assert eject is not None
    assert (eject.on, eject.after, eject.time, eject.at_most) == (("connect",), 5, 10.0, 0.5)


# --- pure: no clock but the numbers of the test


@pytest.mark.parametrize(
    ("size", "at_most", "allowed"),
    [
        (1, "100%", 0),
        (2, "50%", 1),
        (2, "1%", 1),
        (2, "100%", 2),
        (3, "50%", 1),
        (100, "29%", 29),
        (10, "0%", 0),
    ],
)
def test_a_share_of_the_pool_may_be_ejected_and_one_of_two_but_never_the_only_one(
    size: int, at_most: str, allowed: int
) -> None:
    pool = pool_of(size, at_most=at_most)
    assert pool.allowed() == allowed
    ejected = [pool.eject(slot, 0.0) for slot in range(size)]
    assert ejected == [10.0] * allowed + [None] * (size - allowed)


def comes_back(pool: PoolEjection, slot: int) -> float:
    """The end of the wait, when the upstream is let in again."""
    return pool.waiting.pop(slot)


def test_the_wait_doubles_with_each_repeat_up_to_16_times() -> None:
    pool, now, waits = pool_of(2), 100.0, []
    for _ in range(7):
        waits.append(pool.eject(0, now))
        now = comes_back(pool, 0) + 1.0
    assert waits == [10, 20, 40, 80, 160, 160, 160]


@pytest.mark.parametrize(
    ("quiet", "wait"), [(159, 160), (161, 80), (321, 40), (481, 20), (641, 10), (100_000, 10)]
)
def test_the_wait_is_halved_for_each_quiet_while(quiet: float, wait: float) -> None:
    pool, now = pool_of(2), 0.0
    for _ in range(5):
        pool.eject(0, now)
        now = comes_back(pool, 0)
    assert pool.eject(0, now + quiet) == wait


def test_who_waits_is_not_made_to_wait_longer() -> None:
    pool = pool_of(4)
    assert pool.eject(1, 0.0) == 10
    assert pool.eject(1, 5.0) is None
    assert pool.waiting == {1: 10.0}


def test_a_stranger_is_not_ejected() -> None:
    assert pool_of(4).eject(4, 0.0) is None


def test_where_fewer_may_wait_those_come_back_who_would_have_been_first() -> None:
    pool = pool_of(8)
    for slot in (3, 5, 1):
        pool.eject(slot, float(slot))
    assert sorted(pool.follow(rules("25%"), range(8))) == [1]
    assert sorted(pool.follow(rules("25%"), {3, 5, 6})) == [3]
    assert pool.follow(rules("0%"), {3, 5, 6}) == [5]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("fails"), st.integers(0, 11), st.floats(0, 300)),
        st.tuples(st.just("follows"), st.integers(1, 12), st.integers(0, 100)),
        st.tuples(st.just("waits"), st.just(0), st.floats(0, 3000)),
    ),
    max_size=60,
)


@given(STEPS)
def test_never_more_than_at_most_wait_each_between_time_and_16_times_that(
    steps: list[tuple[str, int, float]],
) -> None:
    pool, now, size, share = pool_of(6), 0.0, 6, 50.0
    for what, number, value in steps:
        if what == "follows":
            size, share = number, value
            pool.follow(rules(f"{share:g}%"), range(size))
        else:
            now += value
        for slot, until in list(pool.waiting.items()):
            if until <= now:
                comes_back(pool, slot)
        if what == "fails":
            may = number < size and number not in pool.waiting
            may = may and len(pool.waiting) < pool.allowed()
            wait = pool.eject(number, now)
            assert wait in ((10, 20, 40, 80, 160) if may else (None,))
        most = 0 if size < 2 or not share else max(1, size * share / 100)
        assert len(pool.waiting) <= most
        assert set(pool.waiting) <= set(range(size))


# --- the part, on a board, with the event loop's clock


class Rig:
    """An Ejection, the states that it writes, and what it is told."""

    def __init__(self) -> None:
        words = memoryview(bytearray(8 * (1 + 2 * MAX_UPSTREAMS))).cast("Q")
        self.states = UpstreamStates(Upstreams(words, 1))
        self.part = Ejection(self.states)

    def apply(self, eject: str, **pools: Members) -> None:
        text = "".join(
            f"  {name}: {{upstreams: {[member[0] for member in members]}, eject: {eject}}}\n"
            for name, members in pools.items()
        )
        text = f"listeners: {{web: {{bind: ':0', pool: {next(iter(pools))}}}}}\npools:\n{text}"
        self.part.apply(InForce(config.loads(text, "test.yaml"), snapshot(pools)))

    def ejected(self) -> list[int]:
        return [slot for slot in range(20) if self.states.has(slot, EJECTED)]


def snapshot(pools: dict[str, Members]) -> ipc.Snapshot:
    return ipc.Snapshot(
        listeners=(),
        pools=tuple(
            ipc.PoolPlan(
                name=name,
                balance="round_robin",
                upstreams=tuple(
                    ipc.UpstreamPlan(upstream, 2, ("127.0.0.1", 9), slot=slot)
                    for upstream, slot in members
                ),
                retries=2,
                connect_timeout=None,
                idle_timeout=None,
                half_close_timeout=None,
                session_timeout=None,
                tcp=ipc.TcpPlan(),
            )
            for name, members in pools.items()
        ),
        relay=ipc.RelayPlan("adaptive", 4096, 2, None),
        max_sessions=None,
        worker_sessions=10,
        sessions_to="stdout",
        log_level="info",
        log_format="json",
    )


APP: Members = [("a:1", 11), ("b:1", 12), ("c:1", 13), ("d:1", 14)]


async def at_rest(rig: Rig, seconds: float = 5.0) -> None:
    """Until nobody is ejected any more."""
    async with asyncio.timeout(seconds):
        while rig.ejected():
            await asyncio.sleep(0.005)


def run(scenario: Callable[[Rig], Any]) -> list[Any]:
    """Run a coroutine with a rig of its own; returns what was logged."""

    async def with_rig() -> None:
        rig = Rig()
        try:
            await scenario(rig)
        finally:
            await rig.part.close()

    with capture_logs() as lines:
        asyncio.run(with_rig())
    return [{key: line[key] for key in line if key != "log_level"} for line in lines]


def test_an_upstream_that_fails_is_flagged_for_its_time_and_both_are_logged_once() -> None:
    async def scenario(rig: Rig) -> None:
        rig.apply("{time: 50ms}", app=APP)
        rig.states.mark(12, DOWN, True)
        for _ in range(3):
            rig.part.on_failing(12, "connect_refused")
        assert rig.ejected() == [12]
        await at_rest(rig)
        assert rig.states.has(12, DOWN), "the flag of another part"

    about = {"pool": "app", "upstream": "b:1"}
    assert run(scenario) == [
        {"event": "upstream ejected", **about, "reason": "connect_refused", "seconds": 0.05},
        {"event": "upstream back", **about},
    ]


def test_an_upstream_that_fails_again_waits_twice_as_long() -> None:
    async def scenario(rig: Rig) -> None:
        rig.apply("{time: 20ms}", app=APP)
        for _ in range(3):
            rig.part.on_failing(12, "connect_timeout")
            await at_rest(rig)

    waits = [line["seconds"] for line in run(scenario) if line["event"] == "upstream ejected"]
    assert waits == [0.02, 0.04, 0.08]


def test_the_same_rules_again_change_nothing() -> None:
    async def scenario(rig: Rig) -> None:
        rig.apply("{time: 1h}", app=APP)
        rig.part.on_failing(12, "connect_refused")
        rig.apply("{time: 1h}", app=APP)
        assert rig.ejected() == [12]

    assert [line["event"] for line in run(scenario)] == ["upstream ejected"]


@pytest.mark.parametrize("eject", ["off", "{at_most: 0%}"])
def test_where_ejection_is_switched_off_all_are_let_in_at_once(eject: str) -> None:
    async def scenario(rig: Rig) -> None:
        rig.apply("{time: 1h}", app=APP)
        rig.part.on_failing(11, "connect_refused")
        rig.part.on_failing(13, "connect_refused")
        rig.apply(eject, app=APP)
        assert rig.ejected() == []
        rig.part.on_failing(11, "connect_refused")
        assert rig.ejected() == []

    events = Counter(line["event"] for line in run(scenario))
    assert events == {"upstream ejected": 2, "upstream back": 2}


def test_an_upstream_that_leaves_is_forgotten_and_whoever_gets_its_slot_begins_anew() -> None:
    async def scenario(rig: Rig) -> None:
        rig.apply("{time: 1h}", app=APP)
        rig.part.on_failing(12, "connect_refused")
        rig.apply("{time: 1h}", app=[("a:1", 11), ("new:1", 12), ("c:1", 13)])
        assert rig.ejected() == []
        rig.part.on_failing(12, "connect_refused")
        assert rig.ejected() == [12]
        rig.apply("{time: 1h}", other=[("x:1", 1), ("y:1", 2)])
        assert rig.ejected() == []
        rig.part.on_failing(12, "connect_refused")
        assert rig.ejected() == []

    lines = run(scenario)
    assert [(line["upstream"], line["seconds"]) for line in lines] == [
        ("b:1", 3600),
        ("new:1", 3600),
    ]


# --- a whole proxy

CLIENTS = 4
EJECTED_LINE, BACK_LINE = "upstream ejected", "upstream back"


def pools_yaml(upstreams: Sequence[str], eject: str) -> str:
    return (
        "listeners: {web: {bind: '127.0.0.1:0', pool: app}}\n"
        f"pools: {{app: {{upstreams: {list(upstreams)}, eject: {eject}}}}}\n"
    )


def _hello(sock: Any, _upstream: Serving) -> None:
    sock.sendall(b"hello")


class Load:
    """Clients that come one after the other, until the end; what each of them read."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.seen: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with self._proxy.connect("web") as client:
                    said = client.recv(100).decode()
            except OSError as error:
                said = str(error)
            with self._lock:
                self.seen[said] += 1

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(15)
            assert not thread.is_alive(), "a client hangs"


@contextmanager
def load(proxy: Proxy) -> Iterator[Load]:
    crowd = Load(proxy)
    try:
        yield crowd
    finally:
        crowd.end()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_upstream_killed_under_load_is_ejected_and_comes_back_and_no_client_fails(
    workers: int,
) -> None:
    with serving("v4", _hello) as one, serving("v4", _hello) as two:
        yaml = pools_yaml([one.address, two.address], "{time: 500ms}")
        with running_proxy(yaml, workers=workers) as proxy, load(proxy) as crowd:
            proxy.wait_records(100)
            one.stop()
            line = proxy.wait_log("upstream ejected")
            assert line["pool"] == "app"
            assert line["upstream"] == one.address
            assert line["reason"] == "connect_refused"
            assert line["seconds"] == 0.5
            one.start()
            back = proxy.wait_log("upstream back")
            assert (back["pool"], back["upstream"]) == ("app", one.address)
            accepted = one.accepted
            wait_until(lambda: one.accepted > accepted + 20, 10, "sessions on who is back")
            crowd.end()
            told = [e["event"] for e in proxy.log() if e["event"] in (EJECTED_LINE, BACK_LINE)]
            records = proxy.records()
    failed = sum(record["retries"] for record in records)
    print(f"{dict(crowd.seen)}; {failed} connects failed, and another upstream served")
    assert not [record for record in records if record["phase"] == "connect"]
    # Each client may have had a session that was cut when the upstream was killed.
    assert crowd.seen.total() - crowd.seen["hello"] <= CLIENTS
    assert told == [EJECTED_LINE, BACK_LINE]


def test_five_failures_in_a_row_eject_and_the_next_time_it_is_for_twice_as_long() -> None:
    with serving("v4", _hello) as one, serving("v4", _hello) as two:
        yaml = pools_yaml([one.address, two.address], "{time: 200ms}")
        with running_proxy(yaml) as proxy:
            one.stop()
            for count in (1, 2):
                while len(proxy.log("upstream back")) < count:
                    with proxy.connect("web") as client:
                        assert client.recv(100) == b"hello"
            ejected = proxy.log("upstream ejected")
            assert [line["seconds"] for line in ejected[:2]] == [0.2, 0.4]


def test_without_ejection_nobody_is() -> None:
    with (
        serving("v4", _hello) as one,
        serving("v4", _hello) as two,
        running_proxy(pools_yaml([one.address, two.address], "off")) as proxy,
    ):
        one.stop()
        for _ in range(40):
            with proxy.connect("web") as client:
                assert client.recv(100) == b"hello"
        proxy.terminate()
        assert proxy.wait() == 0
        assert sum(record["retries"] for record in proxy.records()) > 10
        assert not proxy.log("upstream ejected")
