"""The whole proxy: states are obeyed at once, sessions are counted, and limits hold."""

from __future__ import annotations

import os
import random
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest
from harness import upstreams
from harness.load import read_to_end
from harness.proxy import Proxy
from harness.serving import reset
from harness.wait import wait_until
from session_support import board_of, exchange, expect_refusal, proxy_yaml, running_proxy

from spliceproxy.telemetry.board import DOWN, DRAINING, EJECTED

SEED = random.randrange(2**32)


def visits(proxy: Proxy, number: int) -> Counter[str]:
    """The names of the upstreams that served so many sessions."""
    names: Counter[str] = Counter()
    for _ in range(number):
        with proxy.connect("web") as client:
            names[read_to_end(client).decode()] += 1
    return names


@pytest.mark.parametrize("workers", [1, 2])
def test_a_state_on_the_board_is_obeyed_by_the_next_session(workers: int) -> None:
    with ExitStack() as stack:
        served = [stack.enter_context(upstreams.named(name)).address for name in "abc"]
        text = proxy_yaml(served[0], served[1], {"address": served[2], "tier": 1})
        proxy = stack.enter_context(running_proxy(text, workers=workers))
        states = stack.enter_context(board_of(proxy, workers)).upstreams
        assert set(visits(proxy, 10)) == {"a", "b"}
        states.set_state(0, DOWN)
        assert visits(proxy, 10) == {"b": 10}
        states.set_state(1, EJECTED)
        assert visits(proxy, 10) == {"c": 10}
        states.set_state(2, DRAINING)
        assert visits(proxy, 10) == {"b": 10}
        states.set_state(1, DRAINING)
        expect_refusal(proxy)
        [record] = [record for record in proxy.wait_records(41) if record["why"] != "done"]
        assert (record["why"], record["upstream"], record["phase"]) == (
            "no_upstream",
            None,
            "connect",
        )
        states.set_state(0, 0)
        assert visits(proxy, 10) == {"a": 10}


def test_a_session_goes_on_whatever_becomes_of_its_upstream() -> None:
    with ExitStack() as stack:
        echo = stack.enter_context(upstreams.echo())
        proxy = stack.enter_context(running_proxy(proxy_yaml(echo.address)))
        states = stack.enter_context(board_of(proxy, 1)).upstreams
        client = stack.enter_context(proxy.connect("web"))
        assert exchange(client, b"before") == b"before"
        states.set_state(0, DRAINING | DOWN)
        expect_refusal(proxy)
        assert exchange(client, b"after") == b"after"
        assert states.live(0) == 1


def test_with_panic_the_down_ones_are_tried_and_the_healthy_one_serves() -> None:
    with ExitStack() as stack:
        good = stack.enter_context(upstreams.named("good")).address
        dead = [stack.enter_context(upstreams.refuse()).address for _ in range(3)]
        text = proxy_yaml(good, *dead, pool={"panic": "50%", "retries": 1})
        proxy = stack.enter_context(running_proxy(text))
        board = stack.enter_context(board_of(proxy, 1))
        for slot in (1, 2, 3):
            board.upstreams.set_state(slot, DOWN)
        assert visits(proxy, 40) == {"good": 40}
        retries = [record["retries"] for record in proxy.wait_records(40)]
        assert Counter(retries) == {0: 10, 1: 30}


def test_after_a_thousand_sessions_with_failures_no_upstream_has_one() -> None:
    print(f"seed {SEED}")
    with ExitStack() as stack:
        ok = stack.enter_context(upstreams.echo()).address
        resets = stack.enter_context(upstreams.resets()).address
        refused = stack.enter_context(upstreams.refuse()).address
        refused_at_once = stack.enter_context(upstreams.refuse("unix")).address
        silent = stack.enter_context(upstreams.blackhole()).address
        text = proxy_yaml(
            *(ok, resets, refused, refused_at_once, silent),
            pool={"timeouts": {"connect": "50ms"}, "retries": 1},
        )
        proxy = stack.enter_context(running_proxy(text, workers=2))
        board = stack.enter_context(board_of(proxy, 2))

        def client(number: int) -> None:
            rng = random.Random(SEED + number)
            with suppress(OSError), proxy.connect("web") as sock:
                if rng.random() < 0.2:
                    reset(sock)  # perhaps while the proxy is still connecting
                    return
                sock.sendall(b"x")
                if rng.random() < 0.5:
                    sock.recv(1)
                if rng.random() < 0.5:
                    sock.shutdown(socket.SHUT_WR)
                    sock.recv(1)

        with ThreadPoolExecutor(32) as pool:
            list(pool.map(client, range(1000)))
        records = proxy.wait_records(1000, 30)
        print(Counter(record["why"] for record in records))
        assert len({record["why"] for record in records}) >= 4
        counts = board.upstreams
        assert [counts.live(slot) for slot in range(6)] == [0] * 6


def held(proxy: Proxy, number: int, stack: ExitStack) -> list[socket.socket]:
    """Connect so many clients at once; those that are served, and stay until the stack ends."""

    def connect() -> socket.socket | None:
        with suppress(OSError):
            sock = proxy.connect("web")
            with suppress(OSError):
                if exchange(sock, b"hello") == b"hello":
                    return sock
            sock.close()
        return None

    with ThreadPoolExecutor(number) as pool:
        socks = [task.result() for task in [pool.submit(connect) for _ in range(number)]]
    return [stack.enter_context(sock) for sock in socks if sock is not None]


@pytest.mark.parametrize("balance", ["round_robin", "least_sessions"])
def test_max_sessions_of_upstreams_holds_over_two_workers(balance: str) -> None:
    workers, limit = 2, 5
    with ExitStack() as stack:
        echoes = [stack.enter_context(upstreams.echo()) for _ in range(2)]
        text = proxy_yaml(
            *({"address": echo.address, "max_sessions": limit} for echo in echoes),
            pool={"balance": balance},
        )
        proxy = stack.enter_context(running_proxy(text, workers=workers))
        counts = stack.enter_context(board_of(proxy, workers)).upstreams
        with ExitStack() as clients:
            served = held(proxy, 40, clients)
            print(f"{len(served)} served, {[echo.open_connections for echo in echoes]}")
            assert 2 * limit <= len(served) <= 2 * (limit + workers - 1)
            for slot, echo in enumerate(echoes):
                assert limit <= counts.live(slot) <= limit + workers - 1
                assert echo.open_connections == counts.live(slot)
            whys = [r["why"] for r in proxy.wait_records(40 - len(served))]
            assert set(whys) == {"no_upstream"}
        wait_until(lambda: not counts.live(0) + counts.live(1), 10, "the sessions' end")
        with ExitStack() as clients:
            assert len(held(proxy, 2 * limit, clients)) == 2 * limit


def test_max_sessions_of_a_pool_holds_over_two_workers() -> None:
    workers, limit = 2, 7
    with ExitStack() as stack:
        echoes = [stack.enter_context(upstreams.echo()) for _ in range(3)]
        text = proxy_yaml(*(echo.address for echo in echoes), pool={"max_sessions": limit})
        proxy = stack.enter_context(running_proxy(text, workers=workers))
        counts = stack.enter_context(board_of(proxy, workers)).upstreams
        for _ in range(3):
            with ExitStack() as clients:
                served = held(proxy, 30, clients)
                assert limit <= len(served) <= limit + workers - 1
                assert counts.live(3) == len(served)
            wait_until(lambda: not counts.live(3), 10, "the sessions' end")


def test_a_dead_worker_s_sessions_count_no_more() -> None:
    with upstreams.echo() as echo, ExitStack() as stack:
        text = proxy_yaml({"address": echo.address, "max_sessions": 3})
        proxy = stack.enter_context(running_proxy(text))
        counts = stack.enter_context(board_of(proxy, 1)).upstreams
        assert len(held(proxy, 3, stack)) == 3
        expect_refusal(proxy)
        [pid] = proxy.worker_pids()
        os.kill(pid, 9)
        wait_until(lambda: not counts.live(0), 10, "the count of the dead worker is cleared")
        assert len(held(proxy, 3, stack)) == 3


def test_least_sessions_sees_the_sessions_of_all_workers() -> None:
    workers = 2
    with ExitStack() as stack:
        echoes = [stack.enter_context(upstreams.echo()) for _ in range(3)]
        text = proxy_yaml(*(e.address for e in echoes), pool={"balance": "least_sessions"})
        proxy = stack.enter_context(running_proxy(text, workers=workers))
        board = stack.enter_context(board_of(proxy, workers))
        for _ in range(30):
            sock = stack.enter_context(proxy.connect("web"))
            assert exchange(sock, b"hello") == b"hello"
        assert [echo.open_connections for echo in echoes] == [10, 10, 10]
        by_worker = [sum(counts[:3]) for counts in board.upstreams.sessions]
        print(f"sessions of the workers: {by_worker}")
        assert sum(by_worker) == 30


def test_two_proxies_send_the_same_client_to_the_same_upstream() -> None:
    with ExitStack() as stack:
        served = [stack.enter_context(upstreams.named(name)).address for name in "abcde"]
        seen: list[dict[str, set[str]]] = []
        for order in (served, served[::-1]):
            text = proxy_yaml(*order, pool={"balance": "source_hash"})
            proxy = stack.enter_context(running_proxy(text, workers=2))
            homes: dict[str, set[str]] = {}
            for number in range(120):
                ip = f"127.0.1.{1 + number % 40}"
                with socket.create_connection(proxy.address("web"), 10, (ip, 0)) as client:
                    homes.setdefault(ip, set()).add(read_to_end(client).decode())
            seen.append(homes)
        assert seen[0] == seen[1]
        assert all(len(names) == 1 for names in seen[0].values())
        assert len(set.union(*seen[0].values())) >= 4


@pytest.mark.parametrize("balance", ["round_robin", "least_sessions", "source_hash"])
def test_ten_thousand_upstreams_serve_and_follow_their_states(balance: str) -> None:
    size = 10_000
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("0.0.0.0", 0), backlog=128))
        port = listening.getsockname()[1]
        addresses = [f"127.1.{n >> 8}.{n & 255}:{port}" for n in range(size)]
        began = time.monotonic()
        text = proxy_yaml(*addresses, pool={"balance": balance})
        proxy = stack.enter_context(running_proxy(text, workers=2))
        print(f"ready after {time.monotonic() - began:.2f} s")
        states = stack.enter_context(board_of(proxy, 2)).upstreams

        def visit() -> str:
            with proxy.connect("web") as client:
                served, _client = listening.accept()
                with served:
                    name = served.getsockname()[0]
                client.recv(1)
                return str(name)

        seen = {visit() for _ in range(100)}
        if balance == "source_hash":
            assert len(seen) == 1
        else:  # each worker goes from one to the next, and begins where it likes
            assert len(seen) >= 50
        for slot in range(size - 3):
            states.set_state(slot, DOWN)
        left = {f"127.1.{n >> 8}.{n & 255}" for n in range(size - 3, size)}
        assert {visit() for _ in range(20)} <= left
