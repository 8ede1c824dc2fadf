"""`limits:` of listeners, as clients and records see them, and what is left on the board."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from harness import upstreams
from harness.fds import open_fds
from harness.proxy import Proxy
from harness.wait import wait_until
from limits_support import all_back, come, counted, limited, limits, reload
from session_support import (
    board_of,
    check_record,
    exchange,
    expect_refusal,
    one_record,
    proxy_yaml,
    read_until_reset,
    running_proxy,
)


def test_a_client_has_as_many_sessions_as_it_may_with_both_workers_together() -> None:
    with limited(max_sessions=6) as (proxy, board), ExitStack() as stack:
        assert [come(proxy, "127.0.0.2", stack) for _ in range(20)].count(True) == 6
        assert come(proxy, "127.0.0.3", stack)
        stack.close()
        all_back(board)
        with ExitStack() as again:
            assert [come(proxy, "127.0.0.2", again) for _ in range(6)] == [True] * 6
        records = proxy.wait_records(21)
        assert {record["worker"] for record in records} == {0, 1}
        assert {record["why"] for record in records} == {"done", "client_limit"}


def test_the_record_of_who_has_too_many_says_client_limit_and_no_pool() -> None:
    with limited(1, max_sessions=1) as (proxy, _), ExitStack() as stack:
        assert come(proxy, "127.0.0.1", stack)
        expect_refusal(proxy)
        check_record(
            one_record(proxy),
            phase="accept",
            closed_by="proxy",
            how="reset",
            why="client_limit",
            pool=None,
            upstream=None,
        )


def test_on_refuse_close_holds_for_limits_too() -> None:
    listener = {**limits({"per_second": 1, "burst": 1}), "on_refuse": "close"}
    with limited(1, listener) as (proxy, _):
        assert come(proxy, "127.0.0.1")
        with proxy.connect("web") as client:
            assert client.recv(1) == b""
        ends = {(record["how"], record["why"]) for record in proxy.wait_records(2)}
    assert ends == {("fin", "done"), ("close", "rate_limit")}


def test_addresses_of_one_network_count_together() -> None:
    with limited(v4="/30", max_sessions=2) as (proxy, board), ExitStack() as stack:
        assert come(proxy, "127.0.0.4", stack)
        assert come(proxy, "127.0.0.7", stack)
        assert not come(proxy, "127.0.0.5")
        assert come(proxy, "127.0.0.8", stack)
        stack.close()
        all_back(board)


def test_addresses_of_ipv6_count_by_networks_of_their_own() -> None:
    listener = {"bind": ["127.0.0.1:0", "[::1]:0"], **limits(max_sessions=1)}
    with limited(1, listener) as (proxy, board):
        with proxy.connect("web", 1) as six, proxy.connect("web", 0) as four:
            assert exchange(six, b"6") == b"6"
            assert exchange(four, b"4") == b"4"
            with suppress(ConnectionResetError), proxy.connect("web", 1) as further:
                assert read_until_reset(further) == b""
        all_back(board)
        whys = Counter(record["why"] for record in proxy.wait_records(3))
    assert whys == {"done": 2, "client_limit": 1}


def test_who_finds_no_upstream_gives_the_place_back() -> None:
    with (
        upstreams.refuse() as upstream,
        running_proxy(
            proxy_yaml(upstream.address, listener=limits(max_sessions=1), workers=2)
        ) as proxy,
        board_of(proxy, 2) as board,
    ):
        for _ in range(10):
            expect_refusal(proxy)
            all_back(board)
        whys = Counter(record["why"] for record in proxy.wait_records(10))
    assert set(whys) == {"connect_refused"}


def test_a_killed_worker_s_sessions_count_no_more_and_its_sibling_s_still_do() -> None:
    with limited(max_sessions=40) as (proxy, board), ExitStack() as stack:
        assert sum(come(proxy, "127.0.0.2", stack) for _ in range(40)) == 40
        own = counted(board)
        assert sum(own) == 40
        assert all(own)
        [victim] = [e["pid"] for e in proxy.log("worker started") if e["worker"] == 0]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(proxy.log("worker started")) == 3, 10, "a new worker")
        assert counted(board) == [0, own[1]]
        assert sum(come(proxy, "127.0.0.2", stack) for _ in range(own[0] + 10)) == own[0]
        stack.close()
        all_back(board)


def test_sessions_give_their_places_back_over_reloads_that_change_and_remove_limits() -> None:
    with limited(max_sessions=3) as (proxy, board), ExitStack() as stack:
        assert all(come(proxy, "127.0.0.2", stack) for _ in range(3))
        assert reload(proxy, max_sessions=5, v4="/24") == [
            "~ listener web: limits.per_client.v4 /32 → /24",
            "~ listener web: limits.per_client.max_sessions 3 → 5",
        ]
        with ExitStack() as others:  # another network: those of before are in one of their own
            assert [come(proxy, "127.0.0.2", others) for _ in range(7)].count(True) == 5
            reload(proxy, rate={"per_second": 1000, "burst": 1000})
            assert all(come(proxy, "127.0.0.2", others) for _ in range(10))
            reload(proxy, max_sessions=4)
            assert come(proxy, "127.0.0.2", others)
            assert not come(proxy, "127.0.0.2")
        wait_until(lambda: sum(counted(board)) == 3, 10, "the first three alone")
        stack.close()
        all_back(board)


def test_a_client_comes_as_often_as_it_may_with_both_workers_together() -> None:
    rate = {"per_second": 1, "burst": 20}  # one window is 20 s
    with limited(listener={"limits": {"per_client": {"rate": rate}}}) as (proxy, _):
        began = time.monotonic()
        served = sum(come(proxy, "127.0.0.2") for _ in range(60))
        lasted = time.monotonic() - began
        assert 20 <= served <= 20 + lasted + 2
        assert come(proxy, "127.0.0.3")
        whys = Counter(record["why"] for record in proxy.wait_records(61))
        assert whys == {"done": served + 1, "client_rate_limit": 60 - served}


def test_everybody_comes_as_often_as_the_rate_says_in_the_long_run() -> None:
    rate = {"per_second": 100, "burst": 50}
    with limited(rate=rate) as (proxy, _):
        end = time.monotonic() + 3
        began = time.monotonic()
        served, refused = [0] * 4, [0] * 4

        def attack(number: int) -> None:
            while time.monotonic() < end:
                if come(proxy, f"127.0.0.{number + 2}"):
                    served[number] += 1
                else:
                    refused[number] += 1

        threads = [threading.Thread(target=attack, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lasted = time.monotonic() - began
        print(f"{served} served and {refused} refused in {lasted:.2f} s")
        assert sum(served) <= 50 + 100 * lasted + 3
        assert sum(served) >= 0.75 * 100 * lasted or not any(refused)  # a slow machine


def test_who_is_refused_by_one_limit_uses_up_no_other() -> None:
    listener = {
        "limits": {
            "rate": {"per_second": 1, "burst": 30},
            "per_client": {"max_sessions": 1, "rate": {"per_second": 1, "burst": 10}},
        }
    }
    with limited(1, listener) as (proxy, _), ExitStack() as stack:
        assert come(proxy, "127.0.0.2", stack)
        assert not any(come(proxy, "127.0.0.2") for _ in range(50))
        assert all(come(proxy, f"127.0.1.{n}") for n in range(1, 25))
        stack.close()
        wait_until(lambda: come(proxy, "127.0.0.2"), 10, "its place is free")


def test_of_a_unix_client_only_the_rate_of_all_is_asked(tmp_path: Path) -> None:
    listener = limits({"per_second": 1, "burst": 3}, max_sessions=1)
    text = partial(proxy_yaml, bind=f"unix:{tmp_path}/socket", listener=listener)
    with upstreams.echo() as upstream, running_proxy(text(upstream.address)) as proxy:
        with ExitStack() as stack:
            for _ in range(3):
                client = stack.enter_context(proxy.connect("web"))
                assert exchange(client, b"hello") == b"hello"
            refused = stack.enter_context(proxy.connect("web"))
            assert refused.recv(1) == b""
        whys = Counter(record["why"] for record in proxy.wait_records(4))
    assert whys == {"done": 3, "rate_limit": 1}


def test_two_listeners_count_apart() -> None:
    listener = {"bind": "127.0.0.1:0", "pool": "app", **limits(max_sessions=1)}
    with (
        upstreams.echo() as upstream,
        running_proxy(
            proxy_yaml(upstream.address, listeners={"web": listener, "other": listener})
        ) as proxy,
        proxy.connect("web") as one,
        proxy.connect("other") as two,
    ):
        assert exchange(one, b"1") == b"1"
        assert exchange(two, b"2") == b"2"
        expect_refusal(proxy)
        expect_refusal(proxy, "other")


def test_thousands_of_refused_and_served_clients_leave_fds_and_counts_as_before() -> None:
    with limited(1, max_sessions=2) as (proxy, board):
        [pid] = proxy.worker_pids()
        assert come(proxy, "127.0.0.2")
        all_back(board)
        fds = len(open_fds(pid))
        for _ in range(200):
            with ExitStack() as stack:
                assert sum(come(proxy, "127.0.0.2", stack) for _ in range(5)) == 2
            all_back(board)
        wait_until(lambda: len(open_fds(pid)) == fds, 10, "as many fds as before")


def test_a_crowd_from_many_addresses_never_has_more_than_it_may_and_leaves_nothing_counted() -> (
    None
):
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    most, live, worst, failures = 3, Counter[str](), Counter[str](), list[BaseException]()
    lock = threading.Lock()

    def be_clients(chance: random.Random, proxy: Proxy) -> None:
        with ExitStack() as stack:
            here: list[tuple[str, ExitStack]] = []
            for _ in range(150):
                ip, own = f"127.0.{chance.randrange(3)}.{chance.randrange(1, 6)}", ExitStack()
                if come(proxy, ip, stack.enter_context(own)):
                    here.append((ip, own))
                    with lock:
                        live[ip] += 1
                        worst[ip] = max(worst[ip], live[ip])
                while len(here) > 5 or (here and chance.random() < 0.4):
                    ip, own = here.pop(chance.randrange(len(here)))
                    with lock:
                        live[ip] -= 1
                    own.close()
            with lock:
                live.subtract(ip for ip, _ in here)

    def run(chance: random.Random, proxy: Proxy) -> None:
        try:
            be_clients(chance, proxy)
        except BaseException as error:
            failures.append(error)

    with limited(max_sessions=most) as (proxy, board):
        threads = [
            threading.Thread(target=run, args=(random.Random(seed + n), proxy)) for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        all_back(board)
        whys = Counter(record["why"] for record in proxy.wait_records(8 * 150))
        print(f"{dict(whys)}, at most {max(worst.values())} at once")
        assert set(whys) == {"done", "client_limit"}
        # Two workers that look at the same moment let in one too many at most.
        assert most <= max(worst.values()) <= most + 1
