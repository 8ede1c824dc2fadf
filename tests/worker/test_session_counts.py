"""What a worker counts of its sessions is what their records say, whatever becomes of them."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
from collections import Counter
from contextlib import ExitStack, closing
from typing import Any

import pytest
from harness import upstreams
from harness.proxy import Proxy
from harness.serving import Upstream, reset, serving
from harness.wait import wait_until
from session_support import Record, board_of, exchange, proxy_yaml, running_proxy

from spliceproxy.telemetry import counters
from spliceproxy.telemetry.counters import ACTIVE, CellKey
from spliceproxy.telemetry.counts import Counts
from spliceproxy.telemetry.ledger import Ledger

SUMS = {
    "bytes_up": (counters.COPIED_UP, counters.SPLICED_UP),
    "bytes_down": (counters.COPIED_DOWN, counters.SPLICED_DOWN),
    "spliced_up": (counters.SPLICED_UP,),
    "spliced_down": (counters.SPLICED_DOWN,),
    "retries": (counters.RETRIES,),
}
"""Fields of the record whose sums a cell has, in these slots."""
TIMES = {"duration": "duration_ms", "connect": "connect_ms", "first_byte": "first_byte_ms"}
"""Histograms, and the fields whose values they have."""


def workers_of(proxy: Proxy, workers: int = 1) -> list[dict[str, int]]:
    """What each worker counted beside its sessions."""
    with board_of(proxy, workers) as board:
        return Ledger.of(board.counters).workers


def cells(proxy: Proxy, workers: int = 1) -> dict[CellKey, Counts]:
    """What all workers have counted so far."""
    with board_of(proxy, workers) as board:
        return dict(Ledger.of(board.counters).edges)


def ended(proxy: Proxy, workers: int = 1) -> int:
    return sum(counts.ended for counts in cells(proxy, workers).values())


def key_of(record: Record) -> CellKey:
    names = (record[name] or "" for name in ("listener", "route", "pool", "upstream"))
    return CellKey(*names)


def check_counts(found: dict[CellKey, Counts], records: list[Record]) -> None:
    """Compare all cells with the sums over the records."""
    told: dict[CellKey, list[Record]] = {}
    for record in records:
        told.setdefault(key_of(record), []).append(record)
    for key, counts in found.items():
        mine = told.pop(key, [])
        assert counts.ends == Counter((r["closed_by"], r["how"], r["why"]) for r in mine), key
        for field, slots in SUMS.items():
            assert sum(counts[slot] for slot in slots) == sum(r[field] for r in mine), (key, field)
        for name, field in TIMES.items():
            values = [r[field] for r in mine if r[field] is not None]
            histogram = counts.histogram(name)
            assert histogram.count == len(values), (key, name)
            assert histogram.sum / 1000 == pytest.approx(sum(values), abs=0.01 * len(mine) + 0.01)
        assert counts[ACTIVE] == 0, key
    assert not told, f"not counted: {list(told)}"


def _visit(proxy: Proxy, chance: random.Random) -> None:
    """One client: it may come to a listener that refuses it, leave by FIN or by reset."""
    listener = chance.choice(["web", "web", "web", "routed", "closed"])
    size, leaves = chance.choice([1, 100, 70_000, 500_000]), chance.random() < 0.3
    try:
        with closing(proxy.connect(listener)) as client:
            exchange(client, bytes(size))
            if leaves:
                reset(client)
                return
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass
    except ConnectionError:
        assert listener == "closed"


def test_cells_have_what_the_records_say_after_a_mix_of_sessions() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with ExitStack() as stack:
        one, other = (stack.enter_context(upstreams.echo()) for _ in range(2))
        dead = stack.enter_context(upstreams.refuse())
        text = proxy_yaml(
            one.address,
            dead.address,
            pool={"retries": 1, "eject": "off", "health": "off"},
        )
        routes = [{"source": "127.0.0.0/8", "pool": "second"}]
        text = text.replace(
            "listeners: {",
            'listeners: {"routed": {"bind": "127.0.0.1:0", "routes": '
            + str(routes).replace("'", '"')
            + '}, "closed": {"bind": "127.0.0.1:0", "pool": "app", "access": '
            '[{"deny": "127.0.0.0/8"}]}, ',
        ).replace("pools: {", f'pools: {{"second": {{"upstreams": "{other.address}"}}, ')
        proxy = stack.enter_context(running_proxy(text, workers=2))
        for _ in range(60):
            _visit(proxy, chance)
        wait_until(lambda: ended(proxy, 2) == 60, 10, "all sessions to end")
        found = cells(proxy, 2)
        failures = Counter[str]()
        for key, counts in found.items():
            failures.update({(key.upstream, why): n for why, n in counts.failures.items()})
        check_counts(found, proxy.wait_records(60))
    assert set(failures) == {(dead.address, "connect_refused")}
    retried = sum(counts[counters.RETRIES] for counts in found.values())
    assert failures[dead.address, "connect_refused"] == retried > 0
    denied = found[CellKey("closed")].ends
    assert set(denied) == {("proxy", "reset", "access_denied")}


def test_a_long_session_is_counted_while_it_lives_and_no_byte_twice_at_its_end() -> None:
    with (
        upstreams.echo() as upstream,
        running_proxy(proxy_yaml(upstream.address)) as proxy,
        proxy.connect("web") as client,
    ):
        key = CellKey("web", "", "app", upstream.address)

        def moved() -> tuple[int, int]:
            counts = cells(proxy).get(key)
            if counts is None:
                return 0, 0
            up, down = (
                sum(counts[slot] for slot in SUMS[f"bytes_{way}"]) for way in ("up", "down")
            )
            return up, down

        total = 0
        for size in (10, 300_000):
            exchange(client, bytes(size))
            total += size
            expected = total, total
            wait_until(lambda expected=expected: moved() == expected, 10, f"{total} bytes")
        assert cells(proxy)[key][ACTIVE] == 1
        assert cells(proxy)[key].ended == 0
        exchange(client, b"last")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
        check_counts(cells(proxy), proxy.wait_records(1))


def test_what_an_upstream_was_sent_that_was_replaced_is_not_counted() -> None:
    leave = threading.Event()

    def quitter(sock: socket.socket, _upstream: Upstream) -> None:
        sock.recv(5)
        leave.wait(10)

    with ExitStack() as stack:
        held = stack.enter_context(serving("v4", quitter))
        good = stack.enter_context(upstreams.echo())
        served = [{"address": held.address}, {"address": good.address, "tier": 1}]
        pool = {"replay": "1KiB", "retries": 1, "eject": "off", "health": "off"}
        proxy = stack.enter_context(running_proxy(proxy_yaml(*served, pool=pool)))
        client = stack.enter_context(proxy.connect("web"))
        client.sendall(b"hello")
        key = CellKey("web", "", "app", held.address)
        wait_until(lambda: key in cells(proxy), 10, "the first upstream")
        # Two heartbeats: a round has looked at the session.
        wakes = workers_of(proxy)[0]["wakes"]
        wait_until(lambda: workers_of(proxy)[0]["wakes"] > wakes + 1, 10, "heartbeats")
        leave.set()
        assert client.recv(5) == b"hello"
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
        check_counts(cells(proxy), proxy.wait_records(1))


def test_a_killed_worker_s_sessions_and_records_are_accounted_for() -> None:
    with (
        upstreams.echo() as upstream,
        running_proxy(proxy_yaml(upstream.address), workers=2) as proxy,
        ExitStack() as open_ones,
    ):
        clients = [open_ones.enter_context(closing(proxy.connect("web"))) for _ in range(20)]
        for client in clients:
            exchange(client, b"x")
        for _ in range(50):
            with closing(proxy.connect("web")) as client:
                exchange(client, b"y")
        os.kill(proxy.worker_pids()[0], signal.SIGKILL)
        died = proxy.wait_log("worker died")
        for client in clients:
            client.close()
        wait_until(lambda: ended(proxy, 2) == 70, 10, "all sessions to be accounted for")
        wait_until(lambda: len(proxy.records()) == 71 - lost_of(proxy), 10, "the records")
        ends: Counter[Any] = Counter()
        for counts in cells(proxy, 2).values():
            ends.update(counts.ends)
            assert counts[ACTIVE] == 0
        [obituary] = [r for r in proxy.records() if r["why"] == "worker_died"]
        assert obituary["lost"] == died["sessions_lost"] == ends[counters.DEATH]
        assert obituary["lost"] > 0
        dropped = sum(one["records_dropped"] for one in workers_of(proxy, 2))
        assert obituary["lost_records"] == dropped
        assert sum(one["deaths"] for one in workers_of(proxy, 2)) == 1


def lost_of(proxy: Proxy) -> int:
    """Sessions of which no record will come."""
    found = [r for r in proxy.records() if r["why"] == "worker_died"]
    return sum(r["lost"] + r["lost_records"] for r in found)
