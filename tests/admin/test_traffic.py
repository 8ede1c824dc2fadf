"""What /traffic tells: of now, of the last ten seconds, and of the last minute."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest
from harness.counted import CONFIG, DONE, A, B, CountedProxy, run
from harness.wait import wait_until

from spliceproxy.telemetry.counters import (
    ACTIVE,
    BUSY,
    CPU,
    EVENTS,
    LAG,
    PIPES_MADE,
    TLS_FAILED,
    TLS_OK,
    WAKES,
)

IDLE = ("proxy", "reset", "idle_timeout")
NO_VALUES = {"p50": None, "p99": None, "count": 0}


def after(proxy: CountedProxy, seconds: float) -> None:
    """Let time pass, with a sample every five seconds."""
    end = proxy.now + seconds
    while proxy.now + 5 <= end:
        proxy.now += 5
        proxy.traffic.sample()
    proxy.now = end


def test_counts_are_told_of_the_whole_and_of_each_part() -> None:
    def test(proxy: CountedProxy) -> None:
        after(proxy, 5)
        proxy.session(A, up=100, down=5000, spliced=200, retries=1)
        proxy.session(B, worker=1, up=1, down=2, end=IDLE, times=2)
        proxy.connect_failures(B, "connect_refused", 3)
        proxy.live("web", 7)
        proxy.board.upstreams.sessions[0][proxy.slot("app", A)] = 4
        proxy.board.upstreams.sessions[1][proxy.slot("app")] = 5
        region = proxy.regions[0]
        region.slots[region.cell("web").at + TLS_OK] += 9
        after(proxy, 10)
        told = proxy.traffic.traffic()
        assert json.loads(json.dumps(told)) == told
        whole = {
            "sessions": 7,
            "ended": 3,
            "errors": 2,
            "retries": 1,
            "bytes_up": 102,
            "bytes_down": 5004,
            "spliced_up": 100,
            "spliced_down": 200,
            "connect_failures": {"connect_refused": 3},
            "tls_ok": 9,
            "tls_failed": 0,
            "rates": {
                "ended": 0.3,
                "errors": 0.2,
                "bytes_up": 10.2,
                "bytes_down": 500.4,
                "connect_failures": 0.3,
            },
            "connect_ms": NO_VALUES,
            "first_byte_ms": NO_VALUES,
            "duration_ms": NO_VALUES,
        }
        assert told["total"] == told["listeners"]["web"] == whole
        assert told["pools"]["app"] == {**whole, "sessions": 5, "tls_ok": 0}
        ours, theirs = (told["upstreams"]["app"][name] for name in (A, B))
        assert (ours["sessions"], ours["ended"], ours["errors"]) == (4, 1, 0)
        assert (theirs["sessions"], theirs["ended"], theirs["bytes_down"]) == (0, 2, 4)
        assert theirs["connect_failures"] == {"connect_refused": 3}
        assert ours["connect_failures"] == {}

    run(test)


def test_rates_are_those_of_the_last_ten_seconds_however_often_somebody_asks() -> None:
    def test(proxy: CountedProxy) -> None:
        after(proxy, 60)
        for _ in range(40):
            proxy.session(A, up=200)
            after(proxy, 2)
            rates = proxy.traffic.traffic()["total"]["rates"]
        assert rates["ended"] == pytest.approx(0.5, abs=0.1)
        assert rates["bytes_up"] == pytest.approx(100, abs=20)
        after(proxy, 20)
        assert set(proxy.traffic.traffic()["total"]["rates"].values()) == {0.0}

    run(test)


def test_rates_right_after_the_start_are_not_made_of_a_moment() -> None:
    def test(proxy: CountedProxy) -> None:
        proxy.session(A)
        proxy.regions[0].slots[CPU] = proxy.regions[0].slots[BUSY] = 900_000
        proxy.now += 0.6
        found = proxy.traffic.traffic()
        assert found["total"]["rates"]["ended"] == 1.0
        assert (found["workers"][0]["cpu"], found["workers"][0]["busy"]) == (0.9, 0.9)

    run(test)


def test_quantiles_are_those_of_the_last_minute() -> None:
    def test(proxy: CountedProxy) -> None:
        proxy.session(A, connect=2_000_000, first_byte=3_000_000, duration=4_000_000)
        after(proxy, 70)
        assert proxy.traffic.traffic()["pools"]["app"]["connect_ms"] == NO_VALUES
        proxy.session(A, connect=300, first_byte=1000, duration=20_000, times=98)
        proxy.session(B, connect=50_000, first_byte=60_000, duration=70_000, times=2)
        after(proxy, 50)
        found = proxy.traffic.traffic()
        connect = found["total"]["connect_ms"]
        assert connect["count"] == 100
        assert 0.256 <= connect["p50"] <= 0.512
        assert 32.768 <= connect["p99"] <= 65.536
        first_byte = found["upstreams"]["app"][A]["first_byte_ms"]
        assert 0.512 <= first_byte["p50"] <= first_byte["p99"] <= 1.024
        assert found["listeners"]["web"]["duration_ms"]["count"] == 100
        after(proxy, 20)
        assert proxy.traffic.traffic()["pools"]["app"]["duration_ms"] == NO_VALUES

    run(test)


def test_an_upstream_that_came_a_moment_ago_has_quantiles_of_what_it_did() -> None:
    def test(proxy: CountedProxy) -> None:
        new = "127.0.0.1:9003"
        after(proxy, 60)
        proxy.apply({**CONFIG, "pools": {"app": {"upstreams": [A, new]}}})
        proxy.session(new, connect=300)
        proxy.now += 1
        found = proxy.traffic.traffic()["upstreams"]["app"]
        assert set(found) == {A, new}
        assert found[new]["connect_ms"]["count"] == 1

    run(test)


def test_an_upstream_that_comes_back_is_not_told_to_do_at_once_what_it_did_before() -> None:
    def test(proxy: CountedProxy) -> None:
        proxy.session(B, up=10**9, connect=300, times=1000)
        after(proxy, 10)
        proxy.apply({**CONFIG, "pools": {"app": {"upstreams": [A]}}})
        after(proxy, 90)
        proxy.apply()
        proxy.session(B, up=10, connect=300)
        after(proxy, 5)
        found = proxy.traffic.traffic()["upstreams"]["app"][B]
        assert (found["ended"], found["rates"]["bytes_up"]) == (1001, 1.0)
        assert found["connect_ms"]["count"] == 1
        history = proxy.traffic.history()["upstreams"]["app"][B]["bytes_up"]
        assert history[-2:] == [None, 2.0]

    run(test)


def test_names_that_left_are_part_of_the_total_of_their_listener_and_of_ends() -> None:
    def test(proxy: CountedProxy) -> None:
        proxy.session(B, up=5, end=IDLE)
        proxy.session("127.0.0.1:1", pool="old", up=3)
        proxy.apply({**CONFIG, "pools": {"app": {"upstreams": [A]}}})
        proxy.now += 1
        found = proxy.traffic.traffic()
        assert found["total"]["bytes_up"] == found["listeners"]["web"]["bytes_up"] == 8
        assert set(found["upstreams"]["app"]) == {A}
        assert set(found["pools"]) == {"app"}
        assert {end["why"]: end["count"] for end in found["ends"]} == {"done": 1, "idle_timeout": 1}
        assert found["edges"] == []

    run(test)


def test_edges_tell_who_sends_to_whom() -> None:
    def test(proxy: CountedProxy) -> None:
        after(proxy, 10)
        proxy.session(A, up=10, down=20, times=5)
        proxy.session(A, worker=1, up=10, down=20, times=5)
        proxy.session(A, route="routes[0]", up=1)
        proxy.session("", pool="", end=("proxy", "reset", "access_denied"))
        region = proxy.regions[1]
        region.slots[region.cell("web", "", "app", A).at + ACTIVE] = 3
        gone = region.cell("web", "", "app", "127.0.0.1:1").at
        region.slots[gone + ACTIVE] = 1
        after(proxy, 10)
        edges = {
            (edge.pop("route"), edge.pop("pool"), edge.pop("upstream")): edge
            for edge in proxy.traffic.traffic()["edges"]
        }
        assert edges[None, "app", A] == {
            "listener": "web",
            "sessions": 3,
            "ended": 10,
            "bytes_up": 100,
            "bytes_down": 200,
            "rates": {"bytes_up": 10.0, "bytes_down": 20.0, "ended": 1.0},
        }
        assert edges["routes[0]", "app", A]["bytes_up"] == 1
        assert edges[None, None, None]["ended"] == 1
        assert edges[None, "app", "127.0.0.1:1"]["sessions"] == 1, "it left, and has one still"
        assert len(edges) == 4
        region.slots[gone + ACTIVE] = 0
        proxy.now += 1
        assert len(proxy.traffic.traffic()["edges"]) == 3

    run(test)


def test_ends_are_told_with_how_often_they_come() -> None:
    def test(proxy: CountedProxy) -> None:
        proxy.session(A, end=IDLE, times=2)
        after(proxy, 20)
        proxy.session(A, times=5)
        proxy.session(A, end=IDLE)
        after(proxy, 10)
        assert proxy.traffic.traffic()["ends"] == [
            {
                **dict(zip(("closed_by", "how", "why"), DONE, strict=True)),
                "error": False,
                "count": 5,
                "rate": 0.5,
            },
            {
                **dict(zip(("closed_by", "how", "why"), IDLE, strict=True)),
                "error": True,
                "count": 3,
                "rate": 0.1,
            },
        ]

    run(test)


def test_workers_are_told_by_what_they_did_in_the_last_ten_seconds() -> None:
    def test(proxy: CountedProxy) -> None:
        slots = proxy.regions[1].slots
        slots[CPU] = 50_000_000
        after(proxy, 20)
        slots[CPU] += 3_100_000
        slots[BUSY] += 3_000_000
        slots[WAKES] += 100
        slots[EVENTS] += 310
        slots[LAG] = 400
        slots[PIPES_MADE] = 12
        del proxy.seats[0]
        after(proxy, 10)
        idle, busy = proxy.traffic.traffic()["workers"]
        memory = busy.pop("memory_bytes")
        assert 2**20 < memory < 2**30
        assert busy == {
            "worker": 1,
            "cpu": 0.31,
            "busy": 0.3,
            "lag_ms": 0.4,
            "events_per_wake": 3.1,
            "pipes_lent": 0,
            "pipes_pooled": 0,
            "pipes_made": 12,
            "pipes_refused": 0,
            "accept_pauses": 0,
            "records": 0,
            "records_dropped": 0,
            "deaths": 0,
        }
        assert (idle["events_per_wake"], idle["memory_bytes"]) == (None, None)

    run(test)


def test_who_asks_within_half_a_second_is_told_of_the_same_moment() -> None:
    def test(proxy: CountedProxy) -> None:
        proxy.now += 1
        assert proxy.traffic.traffic()["total"]["ended"] == 0
        proxy.session(A)
        proxy.now += 0.4
        assert proxy.traffic.traffic()["total"]["ended"] == 0
        proxy.now += 0.2
        assert proxy.traffic.traffic()["total"]["ended"] == 1

    run(test)


def test_samples_are_taken_by_itself_from_the_first_configuration_on() -> None:
    async def test(proxy: CountedProxy) -> None:
        def enough() -> bool:
            return len(proxy.traffic.history()["times"]) >= 4

        await asyncio.to_thread(wait_until, enough, 10, "four samples")

    run(test, interval=0.01)


def test_failed_handshakes_are_told_of_their_listener() -> None:
    def test(proxy: CountedProxy) -> None:
        region = proxy.regions[1]
        region.slots[region.cell("web").at + TLS_FAILED] += 3
        proxy.now += 1
        assert proxy.traffic.failed_handshakes("web") == 3
        assert proxy.traffic.failed_handshakes("db") == 0

    run(test)


@pytest.mark.parametrize(("upstreams", "thread"), [(2, False), (200, True)])
def test_only_answers_that_take_long_are_made_in_a_thread(upstreams: int, thread: bool) -> None:
    async def test(proxy: CountedProxy) -> None:
        names = [f"10.0.0.{n}:80" for n in range(upstreams)]
        proxy.apply({**CONFIG, "pools": {"app": {"upstreams": names}}})
        proxy.now += 1
        proxy.traffic.sample()
        asked_in = await proxy.traffic.aside(threading.current_thread)
        assert (asked_in is not threading.main_thread()) is thread

    run(test)
