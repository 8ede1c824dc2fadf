"""Waiting for a place: order, places freed here and elsewhere, those who leave, and every end."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from harness import upstreams
from harness.door import request
from harness.fds import context_switches, cpu_seconds, same_fds
from harness.load import digest, pump, read_to_end
from harness.proxy import Proxy
from harness.serving import Upstream, reset, serving
from harness.wait import wait_until
from session_support import (
    board_of,
    check_record,
    exchange,
    expect_refusal,
    proxy_yaml,
    read_until_reset,
    running_proxy,
)

from spliceproxy.telemetry.board import DOWN, DRAINING, Upstreams

SEED = random.randrange(2**32)
LATE = 2000.0
"""Milliseconds by which a busy machine may be late."""


class Case:
    """A proxy whose pool has a queue, its board, and what its clients do."""

    def __init__(self, proxy: Proxy, board: Upstreams, pool_slot: int) -> None:
        self.proxy = proxy
        self.board = board
        self.pool_slot = pool_slot

    def queued(self) -> int:
        return self.board.queued(self.pool_slot)

    def wait_queued(self, number: int) -> None:
        wait_until(lambda: self.queued() == number, 10, f"{number} in the queue")

    def connect_and_wait(self, stack: ExitStack, said: bytes = b"") -> socket.socket:
        """A client that is in the queue now, after having sent something."""
        before = self.queued()
        client = stack.enter_context(self.proxy.connect("web"))
        client.sendall(said)
        self.wait_queued(before + 1)
        return client

    def hold(self, stack: ExitStack) -> socket.socket:
        """A client that is being served by an echo."""
        client = stack.enter_context(self.proxy.connect("web"))
        assert exchange(client, b"hold") == b"hold"
        return client


@contextmanager
def case(
    *upstream: object, workers: int = 1, bind: str = "127.0.0.1:0", **pool: Any
) -> Iterator[Case]:
    """A pool with a queue that waits long, unless `queue` says something else."""
    pool["queue"] = {"timeout": "60s", **pool.get("queue", {})}
    text = proxy_yaml(*upstream, bind=bind, pool=pool)
    with running_proxy(text, workers=workers) as proxy, board_of(proxy, workers) as board:
        yield Case(proxy, board.upstreams, len(upstream))


def one_at_a_time(address: str) -> dict[str, object]:
    return {"address": address, "max_sessions": 1}


def names(sock: socket.socket, _upstream: Upstream) -> bytes:
    """Returns what the client says first, when the client has ended."""
    name = sock.recv(100)
    assert sock.recv(100) == b""
    return name


@pytest.mark.parametrize("where", ["upstream", "pool"])
def test_clients_are_served_in_the_order_in_which_they_came(where: str) -> None:
    with serving("v4", names) as upstream, ExitStack() as stack:
        limited = one_at_a_time(upstream.address) if where == "upstream" else upstream.address
        keys = {"max_sessions": 1} if where == "pool" else {}
        app = stack.enter_context(case(limited, **keys))
        first = stack.enter_context(app.proxy.connect("web"))
        first.sendall(b"first")
        wait_until(lambda: upstream.accepted, 10, "the first client served")
        for number in range(30):
            app.connect_and_wait(stack, b"%d" % number).shutdown(socket.SHUT_WR)
        first.close()
        records = app.proxy.wait_records(31)
        assert app.queued() == 0
        assert upstream.results == [b"first", *(b"%d" % number for number in range(30))]
    waits = [record["queue_ms"] for record in records]
    assert waits[0] is None
    assert all(wait > 0 for wait in waits[1:])
    assert {record["phase"] for record in records} == {"relay"}


def test_nobody_overtakes_those_who_wait() -> None:
    """Somebody comes when the upstream is back, and before anybody in the queue could know."""
    with serving("v4", names) as upstream, ExitStack() as stack:
        limited = one_at_a_time(upstream.address)
        app = stack.enter_context(case(limited, queue={"when": "full_or_down"}))
        for number in range(0, 20, 2):
            app.board.set_state(0, DOWN)
            early = app.connect_and_wait(stack, b"%d" % number)
            early.shutdown(socket.SHUT_WR)
            app.board.set_state(0, 0)
            late = stack.enter_context(app.proxy.connect("web"))
            late.sendall(b"%d" % (number + 1))
            late.shutdown(socket.SHUT_WR)
            app.proxy.wait_records(number + 2)
        assert upstream.results == [b"%d" % number for number in range(20)]


def test_clients_that_come_one_after_another_are_served_so() -> None:
    with serving("v4", names) as upstream, ExitStack() as stack:
        app = stack.enter_context(case(one_at_a_time(upstream.address)))
        for number in range(100):
            client = stack.enter_context(app.proxy.connect("web"))
            client.sendall(b"%d" % number)
            client.shutdown(socket.SHUT_WR)
        app.proxy.wait_records(100)
        assert upstream.results == [b"%d" % number for number in range(100)]


@pytest.mark.alone
def test_a_place_that_another_worker_frees_is_seen_within_a_tick() -> None:
    with upstreams.echo() as echo, ExitStack() as stack:
        app = stack.enter_context(case(one_at_a_time(echo.address), workers=2))
        took: list[float] = []
        for _ in range(15):
            with ExitStack() as clients:
                holder = app.hold(clients)
                owner = 0 if app.board.sessions[0][0] else 1
                while True:
                    waiter = app.connect_and_wait(clients, b"x")
                    if app.board.waiting[1 - owner][1]:
                        break
                    reset(waiter)
                    app.wait_queued(0)
                began = time.monotonic()
                holder.close()
                assert waiter.recv(1) == b"x"
                took.append(time.monotonic() - began)
            wait_until(lambda: not app.board.live(0), 10, "the sessions' end")
        print("ms:", sorted(round(each * 1000) for each in took))
        assert statistics.median(took) < 0.08  # the tick, and a busy machine


@pytest.mark.alone
def test_a_place_that_is_freed_in_this_worker_is_taken_at_once() -> None:
    with upstreams.echo() as echo, ExitStack() as stack:
        app = stack.enter_context(case(one_at_a_time(echo.address)))
        took: list[float] = []
        for _ in range(30):
            with ExitStack() as clients:
                holder = app.hold(clients)
                waiter = app.connect_and_wait(clients, b"x")
                began = time.monotonic()
                holder.close()
                assert waiter.recv(1) == b"x"
                took.append(time.monotonic() - began)
            wait_until(lambda: not app.board.live(0), 10, "the sessions' end")
        print("ms:", sorted(round(each * 1000, 1) for each in took))
        assert statistics.median(took) < 0.01


@pytest.mark.parametrize("family", ["v4", "unix"])
def test_a_client_that_hangs_up_leaves_and_a_half_closed_one_is_served(
    family: str, tmp_path: Path
) -> None:
    bind = "127.0.0.1:0" if family == "v4" else f"unix:{tmp_path}/web"
    size = 100_000  # what a UNIX socket takes in without a reader
    with upstreams.echo() as echo, ExitStack() as stack:
        app = stack.enter_context(case(one_at_a_time(echo.address), bind=bind))
        holder = app.hold(stack)
        gone = app.connect_and_wait(stack, b"in vain")
        half = app.connect_and_wait(stack)
        sent = pump(half, size, SEED)
        half.shutdown(socket.SHUT_WR)
        app.wait_queued(2)
        reset(gone)  # on UNIX: a close
        [record] = app.proxy.wait_records(1)
        check_record(
            record,
            upstream=None,
            phase="queue",
            closed_by="client",
            how="reset",
            why="client_reset",
            queue_ms=record["queue_ms"],
        )
        assert record["queue_ms"] > 0
        assert app.queued() == 1
        holder.close()
        back = read_to_end(half)
        assert len(back) == size
        assert sent == digest(size, SEED)
        assert hashlib.sha256(back).hexdigest() == sent
        record = app.proxy.wait_records(3)[-1]
        assert (record["why"], record["bytes_up"], record["bytes_down"]) == ("done", size, size)
        assert app.queued() == 0


def test_who_waited_too_long_gets_a_reset_and_who_finds_the_queue_full_at_once() -> None:
    with upstreams.echo() as echo, ExitStack() as stack:
        queue = {"size": 2, "timeout": "300ms"}
        app = stack.enter_context(case(one_at_a_time(echo.address), queue=queue))
        app.hold(stack)
        waiting = [app.connect_and_wait(stack) for _ in range(2)]
        expect_refusal(app.proxy)
        for client in waiting:
            assert read_until_reset(client) == b""
        full, *late = app.proxy.wait_records(3)
        assert app.queued() == 0
    end = {"upstream": None, "phase": "queue", "closed_by": "proxy", "how": "reset"}
    check_record(full, why="queue_full", **end)
    for record in late:
        check_record(record, why="queue_timeout", queue_ms=record["queue_ms"], **end)
        assert 300 <= record["queue_ms"] < 900
        assert record["queue_ms"] <= record["duration_ms"]


def test_the_age_of_a_session_counts_while_it_waits() -> None:
    with upstreams.echo() as echo, ExitStack() as stack:
        keys = {"timeouts": {"session": "1500ms"}}
        app = stack.enter_context(case(echo.address, queue={"when": "full_or_down"}, **keys))
        app.board.set_state(0, DOWN)
        client = app.connect_and_wait(stack)
        assert read_until_reset(client) == b""
        [record] = app.proxy.wait_records(1)
        assert (record["why"], record["phase"]) == ("session_timeout", "queue")
        assert 1500 <= record["duration_ms"] < 1500 + LATE
        assert app.queued() == 0


def test_with_full_or_down_clients_wait_until_an_upstream_is_back() -> None:
    with upstreams.echo() as one, upstreams.echo() as two, ExitStack() as stack:
        queue = {"when": "full_or_down"}
        two_ = {"address": two.address, "weight": 0}
        app = stack.enter_context(case(one.address, two_, queue=queue))
        for state in (DOWN, DRAINING):
            app.board.set_state(0, state)
            clients = [app.connect_and_wait(stack) for _ in range(3)]
            began = time.monotonic()
            app.board.set_state(0, 0)
            for client in clients:
                assert exchange(client, b"x") == b"x"
            took = time.monotonic() - began
            print(f"served {took * 1000:.0f} ms after it was back")
            assert took < 1
            assert app.queued() == 0
        assert two.accepted == 0


def test_with_full_nobody_waits_for_one_that_is_down() -> None:
    with upstreams.echo() as echo, ExitStack() as stack:
        app = stack.enter_context(case(one_at_a_time(echo.address)))
        app.board.set_state(0, DOWN)
        expect_refusal(app.proxy)
        app.board.set_state(0, 0)
        app.hold(stack)
        waiting = [app.connect_and_wait(stack) for _ in range(100)]
        app.board.set_state(0, DOWN)
        for client in waiting:
            assert read_until_reset(client) == b""
        at_once, *given_up = app.proxy.wait_records(101)
        assert app.queued() == 0
    end = {"upstream": None, "closed_by": "proxy", "how": "reset", "why": "no_upstream"}
    check_record(at_once, phase="connect", **end)
    for record in given_up:
        check_record(record, phase="queue", queue_ms=record["queue_ms"], **end)
        assert record["queue_ms"] > 0


@pytest.mark.parametrize("family", ["v4", "unix"])
def test_after_a_failed_connect_a_session_waits_for_those_it_did_not_try(family: str) -> None:
    with upstreams.refuse(family) as dead, upstreams.echo() as echo, ExitStack() as stack:
        keys = {"retries": 1, "eject": "off"}
        app = stack.enter_context(case(dead.address, one_at_a_time(echo.address), **keys))
        holder = app.hold(stack)
        waiting = [app.connect_and_wait(stack, b"%d" % n) for n in range(4)]
        holder.close()
        for n, client in enumerate(waiting):
            assert client.recv(10) == b"%d" % n
            client.close()
        records = app.proxy.wait_records(5)[1:]
        assert {record["upstream"] for record in records} == {echo.address}
        assert {record["retries"] for record in records} == {1}
        assert all(record["queue_ms"] > 0 for record in records)
        assert [app.board.live(slot) for slot in range(3)] == [0, 0, 0]
        assert app.queued() == 0


def test_who_waits_again_has_what_is_left_of_his_time() -> None:
    with upstreams.refuse() as dead, upstreams.echo() as echo, ExitStack() as stack:
        queue = {"timeout": "600ms"}
        app = stack.enter_context(
            case(dead.address, one_at_a_time(echo.address), queue=queue, eject="off")
        )
        app.board.set_state(0, DOWN)
        app.hold(stack)
        client = app.connect_and_wait(stack)
        app.board.set_state(0, 0)  # its turn, and a refusal
        assert read_until_reset(client) == b""
        [record] = app.proxy.wait_records(1)
        check_record(
            record,
            upstream=dead.address,
            phase="queue",
            closed_by="proxy",
            how="reset",
            why="queue_timeout",
            queue_ms=record["queue_ms"],
        )
        assert 600 <= record["queue_ms"] < 600 + LATE
        assert app.queued() == 0


def test_a_client_that_was_gone_before_it_had_to_wait_does_not_wait(tmp_path: Path) -> None:
    """A UNIX client that closes while a connect is tried may have sent something, and is served."""
    with upstreams.blackhole() as silent, upstreams.echo() as echo, ExitStack() as stack:
        keys = {"retries": 1, "eject": "off", "timeouts": {"connect": "300ms"}}
        bind = f"unix:{tmp_path}/web"
        app = stack.enter_context(
            case(silent.address, one_at_a_time(echo.address), bind=bind, **keys)
        )
        app.board.set_state(0, DOWN)
        app.hold(stack)
        app.board.set_state(0, 0)
        app.proxy.connect("web").close()
        [record] = app.proxy.wait_records(1)
        assert (record["why"], record["phase"]) == ("client_reset", "queue")
        assert app.queued() == 0


def test_a_client_that_was_gone_before_its_upstream_was_left_does_not_wait(tmp_path: Path) -> None:
    """On UNIX a close is told once: the trial heard of it, and the queue would not."""
    heard, ended, go = (threading.Event() for _ in range(3))

    def handler(sock: socket.socket, _upstream: Upstream) -> None:
        if sock.recv(5) == b"hello":
            heard.set()
            assert sock.recv(5) == b""
            ended.set()
            go.wait(10)
            reset(sock)

    with (
        serving("v4", handler) as quits,
        upstreams.refuse() as dead,
        upstreams.echo() as echo,
        ExitStack() as stack,
    ):
        tiers = (
            one_at_a_time(quits.address),
            {"address": dead.address, "tier": 1},
            {**one_at_a_time(echo.address), "tier": 2},
        )
        keys = {"replay": "16KiB", "eject": "off", "bind": f"unix:{tmp_path}/web"}
        app = stack.enter_context(case(*tiers, **keys))
        for slot in (0, 1):
            app.board.set_state(slot, DOWN)
        app.hold(stack)
        for slot in (0, 1):
            app.board.set_state(slot, 0)
        with app.proxy.connect("web") as client:
            client.sendall(b"hello")
            assert heard.wait(10)
        assert ended.wait(10)
        go.set()
        [record] = app.proxy.wait_records(1)
        assert (record["why"], record["phase"]) == ("client_reset", "queue")
        assert app.queued() == 0


def test_where_all_was_tried_nobody_waits() -> None:
    with upstreams.refuse() as dead, ExitStack() as stack:
        queue = {"when": "full_or_down"}
        app = stack.enter_context(case(dead.address, queue=queue, eject="off"))
        expect_refusal(app.proxy)
        [record] = app.proxy.wait_records(1)
        check_record(
            record,
            upstream=dead.address,
            phase="connect",
            closed_by="proxy",
            how="reset",
            why="connect_refused",
        )


def test_a_place_that_only_the_second_may_take_is_not_kept_for_the_first() -> None:
    """The first one in the queue has tried the upstream that gets free."""
    with ExitStack() as stack:
        flaky = stack.enter_context(upstreams.echo())
        busy = stack.enter_context(upstreams.echo())
        keys = {"retries": 1, "eject": "off"}
        app = stack.enter_context(
            case(one_at_a_time(flaky.address), one_at_a_time(busy.address), **keys)
        )
        app.board.set_state(0, DOWN)
        holder = app.hold(stack)
        flaky.stop()
        app.board.set_state(0, 0)
        tried = app.connect_and_wait(stack, b"tried")
        flaky.start()
        fresh = stack.enter_context(app.proxy.connect("web"))
        assert exchange(fresh, b"fresh") == b"fresh"
        assert app.queued() == 1
        holder.close()
        assert tried.recv(10) == b"tried"


def test_a_waiting_client_is_served_while_the_proxy_stops() -> None:
    with upstreams.echo() as echo, ExitStack() as stack:
        app = stack.enter_context(case(one_at_a_time(echo.address)))
        holder = app.hold(stack)
        waiter = app.connect_and_wait(stack, b"x")
        app.proxy.terminate()
        app.proxy.wait_log("stopping")
        holder.close()
        assert waiter.recv(1) == b"x"
        waiter.close()
        assert app.proxy.wait() == 0


def test_after_a_thousand_sessions_nobody_is_left_in_any_count() -> None:
    print(f"seed {SEED}")
    with ExitStack() as stack:
        ok = stack.enter_context(upstreams.echo()).address
        refused = stack.enter_context(upstreams.refuse()).address
        silent = stack.enter_context(upstreams.blackhole()).address
        text = proxy_yaml(
            {"address": ok, "max_sessions": 3},
            {"address": refused, "max_sessions": 2},
            {"address": silent, "max_sessions": 2},
            pool={
                "timeouts": {"connect": "50ms"},
                "retries": 1,
                "queue": {"size": 12, "timeout": "300ms"},
                "eject": "off",
                "max_sessions": 5,
            },
        )
        proxy = stack.enter_context(running_proxy(text, workers=2))
        board = stack.enter_context(board_of(proxy, 2)).upstreams
        workers = proxy.worker_pids()
        for pid in workers:
            stack.enter_context(same_fds(pid))

        def client(number: int) -> None:
            rng = random.Random(SEED + number)
            with suppress(OSError), proxy.connect("web") as sock:
                chance = rng.random()
                if chance < 0.2:
                    reset(sock)
                    return
                sock.sendall(b"x")
                if chance < 0.4:
                    sock.shutdown(socket.SHUT_WR)
                sock.recv(1)

        with ThreadPoolExecutor(64) as pool:
            list(pool.map(client, range(1000)))
        records = proxy.wait_records(1000, 60)
        whys = Counter((record["why"], record["phase"]) for record in records)
        print(whys)
        assert {why for why, _phase in whys} >= {"done", "queue_full", "client_reset"}
        assert board.queued(3) == 0
        assert [board.live(slot) for slot in range(4)] == [0] * 4
        assert all(record["queue_ms"] is None or record["queue_ms"] >= 0 for record in records)


@pytest.mark.alone
def test_workers_sleep_while_a_thousand_clients_wait() -> None:
    with upstreams.echo() as echo, ExitStack() as stack:
        queue = {"size": 2000, "when": "full_or_down"}
        app = stack.enter_context(case(one_at_a_time(echo.address), queue=queue))
        [pid] = app.proxy.worker_pids()
        holder = app.hold(stack)
        for number in range(1000):
            stack.enter_context(app.proxy.connect("web")).sendall(b"%d" % number)
        app.wait_queued(1000)
        woke, spent, began = context_switches(pid), cpu_seconds(pid), time.monotonic()
        wait_until(lambda: time.monotonic() - began > 2, 10, "two seconds")
        took = time.monotonic() - began
        woke, spent = context_switches(pid) - woke, cpu_seconds(pid) - spent
        print(f"{woke} wake-ups and {spent:.2f} s of CPU in {took:.1f} s")
        assert woke < 60 * took  # 20 ticks a second, a heartbeat, the writer's thread
        assert spent < 0.1 * took
        holder.close()


RELOADS: dict[str, Callable[[str], str]] = {
    "other weights": lambda text: text.replace('"retries": 1', '"retries": 0'),
    "a smaller queue": lambda text: text.replace('"size": 100', '"size": 1'),
    "another policy": lambda text: text.replace('"retries": 1', '"balance": "source_hash"'),
}


@pytest.mark.parametrize("what", RELOADS)
def test_those_who_wait_go_to_the_new_pool_in_their_order(what: str) -> None:
    with serving("v4", names) as upstream, ExitStack() as stack:
        app = stack.enter_context(
            case(one_at_a_time(upstream.address), queue={"size": 100}, retries=1)
        )
        holder = stack.enter_context(app.proxy.connect("web"))
        holder.sendall(b"hold")
        wait_until(lambda: upstream.accepted, 10, "the first client served")
        for number in range(10):
            app.connect_and_wait(stack, b"%d" % number).shutdown(socket.SHUT_WR)
        reload(app.proxy, RELOADS[what])
        assert app.queued() == 10
        holder.close()
        records = app.proxy.wait_records(11)
        assert {record["why"] for record in records} == {"done"}
        assert upstream.results == [b"hold", *(b"%d" % number for number in range(10))]
        assert app.queued() == 0
        assert app.board.live(0) == app.board.live(1) == 0


def test_over_a_reload_a_session_knows_what_it_tried() -> None:
    """The upstreams change places, so that their numbers mean others."""
    with upstreams.refuse() as dead, upstreams.echo() as echo, ExitStack() as stack:
        keys = {"retries": 1, "eject": "off"}
        app = stack.enter_context(case(dead.address, one_at_a_time(echo.address), **keys))
        holder = app.hold(stack)
        waiter = app.connect_and_wait(stack, b"x")
        first, second = json.dumps(dead.address), json.dumps(one_at_a_time(echo.address))
        reload(app.proxy, lambda text: text.replace(f"{first}, {second}", f"{second}, {first}"))
        holder.close()
        assert waiter.recv(1) == b"x"
        waiter.close()
        record = app.proxy.wait_records(2)[-1]
        assert (record["upstream"], record["retries"]) == (echo.address, 1)
        assert [app.board.live(slot) for slot in range(3)] == [0, 0, 0]


def test_what_a_client_said_to_an_upstream_that_died_outlives_a_reload_without_replay() -> None:
    """It waits for the third upstream; the second one refuses it."""
    die = Event()

    def dying(sock: socket.socket, _upstream: Upstream) -> None:
        assert sock.recv(100) == b"request"
        die.wait(10)

    with (
        serving("v4", dying) as first,
        upstreams.refuse() as dead,
        upstreams.echo() as echo,
        ExitStack() as stack,
    ):
        tiers = [
            {"address": one.address, "tier": tier, "max_sessions": 1}
            for tier, one in enumerate((first, dead, echo))
        ]
        app = stack.enter_context(case(*tiers, replay="1KiB", eject="off"))
        client = stack.enter_context(app.proxy.connect("web"))
        client.sendall(b"request")
        wait_until(lambda: first.accepted, 10, "the request at the first upstream")
        holder = stack.enter_context(app.proxy.connect("web"))
        assert exchange(holder, b"hold") == b"hold"
        die.set()
        app.wait_queued(1)
        reload(app.proxy, lambda text: text.replace('"replay": "1KiB"', '"replay": "off"'))
        holder.close()
        assert client.recv(100) == b"request"


def reload(proxy: Proxy, change: Callable[[str], str]) -> None:
    """Put a changed configuration in force."""
    before = len(proxy.log("reloaded"))
    text = proxy.config.read_text()
    proxy.config.write_text(change(text))
    assert proxy.config.read_text() != text
    proxy.signal(signal.SIGHUP)
    wait_until(lambda: len(proxy.log("reloaded")) > before, 10, "the reload")


def test_where_a_reload_takes_the_queue_away_some_are_served_and_the_rest_is_told() -> None:
    with upstreams.echo() as echo, ExitStack() as stack:
        app = stack.enter_context(case(one_at_a_time(echo.address), queue={"size": 200}))
        app.hold(stack)
        waiting = [app.connect_and_wait(stack, b"x") for _ in range(100)]
        reload(
            app.proxy,
            lambda text: text.replace('"max_sessions": 1', '"max_sessions": 3').replace(
                '"queue": {"timeout": "60s", "size": 200}', '"queue": "off"'
            ),
        )
        assert [client.recv(1) for client in waiting[:2]] == [b"x", b"x"]
        for client in waiting[2:]:
            assert read_until_reset(client) == b""
        records = app.proxy.wait_records(98)
        assert {(record["why"], record["phase"]) for record in records} == {
            ("no_upstream", "queue")
        }
        assert app.queued() == 0
        expect_refusal(app.proxy)
        assert app.proxy.wait_records(99)[-1]["phase"] == "connect"


@pytest.mark.parametrize("replay", ["off", "1B"])
def test_what_a_waiting_client_had_sent_is_not_lost_where_a_reload_changes_replay(
    replay: str,
) -> None:
    def handler(sock: socket.socket, _upstream: Upstream) -> bytes:
        return sock.recv(5)

    with (
        serving("v4", handler) as quits,
        upstreams.refuse() as dead,
        upstreams.echo() as echo,
        ExitStack() as stack,
    ):
        first = {"address": quits.address, "max_sessions": 2}
        last = {**one_at_a_time(echo.address), "tier": 2}
        app = stack.enter_context(
            case(first, {"address": dead.address, "tier": 1}, last, replay="16KiB", eject="off")
        )
        app.board.set_state(0, DOWN)
        app.board.set_state(1, DOWN)
        holder = app.hold(stack)
        app.board.set_state(0, 0)
        app.board.set_state(1, 0)
        waiter = app.connect_and_wait(stack, b"hello")
        waiter.shutdown(socket.SHUT_WR)
        reload(app.proxy, lambda text: text.replace("16KiB", replay))
        assert app.queued() == 1
        holder.close()
        assert read_to_end(waiter) == b"hello"
        record = app.proxy.wait_records(2)[-1]
        assert (record["why"], record["bytes_up"], record["bytes_down"]) == ("done", 5, 5)


def test_the_time_in_the_queue_is_told_also_of_a_session_whose_upstream_was_replaced() -> None:
    go = threading.Event()

    def handler(sock: socket.socket, _upstream: Upstream) -> None:
        if sock.recv(5):
            go.wait(10)

    with serving("v4", handler) as quits, upstreams.echo() as echo, ExitStack() as stack:
        last = {**one_at_a_time(echo.address), "tier": 1}
        app = stack.enter_context(case(one_at_a_time(quits.address), last, replay="1KiB"))
        first = stack.enter_context(app.proxy.connect("web"))
        wait_until(lambda: quits.accepted, 10, "the first client served")
        holder = app.hold(stack)
        waiter = app.connect_and_wait(stack, b"hello")
        first.close()
        app.wait_queued(0)
        holder.close()
        wait_until(lambda: not app.board.live(1), 10, "a free place")
        go.set()
        assert waiter.recv(10) == b"hello"
        waiter.close()
        record = app.proxy.wait_records(3)[-1]
        assert (record["upstream"], record["retries"]) == (echo.address, 1)
        assert record["queue_ms"] > 0


def test_those_who_wait_for_a_pool_that_is_gone_are_still_served() -> None:
    with upstreams.echo() as echo, upstreams.named("other") as other, ExitStack() as stack:
        app = stack.enter_context(case(one_at_a_time(echo.address)))
        holder = app.hold(stack)
        waiter = app.connect_and_wait(stack, b"x")
        text = proxy_yaml(other.address, pool={}, workers=1, health="off", admin="off")
        reload(app.proxy, lambda _text: text.replace('"app"', '"new"'))
        with app.proxy.connect("web") as client:
            assert read_to_end(client) == b"other"
        holder.close()
        assert waiter.recv(1) == b"x"
        assert app.queued() == 0


def test_status_tells_how_many_wait_and_a_dead_worker_s_count_no_more(tmp_path: Path) -> None:
    door = tmp_path / "door"
    with upstreams.echo() as echo, ExitStack() as stack:
        text = proxy_yaml(
            one_at_a_time(echo.address),
            pool={"queue": {"timeout": "off"}},
            admin={"bind": f"unix:{door}"},
        )
        proxy = stack.enter_context(running_proxy(text))

        def waiting() -> int:
            [pool] = request(door, "GET", "/api/v1/status")[1]["pools"]
            return int(pool["waiting"])

        assert waiting() == 0
        for _ in range(4):
            stack.enter_context(proxy.connect("web")).sendall(b"x")
        wait_until(lambda: waiting() == 3, 10, "three in the queue")
        [pid] = proxy.worker_pids()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: waiting() == 0, 10, "the count of the dead worker is cleared")
