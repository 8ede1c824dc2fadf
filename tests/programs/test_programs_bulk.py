"""Bytes in bulk, by every road: once, in order, mostly by splice, in bounded memory."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import product

import pytest
from harness.fds import rss_bytes
from harness.load import digest, drain_digest, pump
from harness.proxy import Event, Proxy, running_proxy
from harness.serving import FAMILIES, Upstream, serving
from harness.upstreams import exchange
from harness.wait import wait_until
from real_programs import bind_text, web

MIB = 1024 * 1024
MEMORY_GROWTH = 8 * MIB
MODES = ("adaptive", "splice", "copy")


def both_ways(sock: socket.socket, size: int, seed: int) -> tuple[int, str]:
    """Send the stream and FIN, and read to the end, at once; what came."""
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(_send, sock, size, seed)
        came = drain_digest(sock)
        sending.result()
    return came


def _send(sock: socket.socket, size: int, seed: int) -> None:
    pump(sock, size, seed)
    sock.shutdown(socket.SHUT_WR)


def watch_memory(pid: int, work: Future[object], timeout: float) -> int:
    """Anonymous memory of a process at its highest, until the work is done."""
    highest = 0

    def done() -> bool:
        nonlocal highest
        highest = max(highest, rss_bytes(pid))
        return work.done()

    wait_until(done, timeout, "the end of the transfer")
    return highest


def check_record(record: Event, up: int, down: int, mode: str) -> None:
    """The counts are exact, and the bulk went by the mode's road."""
    assert (record["why"], record["how"]) == ("done", "fin"), record
    assert (record["bytes_up"], record["bytes_down"]) == (up, down)
    spliced = record["spliced_up"], record["spliced_down"]
    if mode == "copy":
        assert spliced == (0, 0)
    else:
        assert min(spliced[0] / up, spliced[1] / down) >= 0.95, spliced


def test_one_gib_each_way_at_once(seed: int) -> None:
    size = 1024 * MIB
    with exchange(size, seed + 1) as upstream, running_proxy(web(upstream.address)) as proxy:
        [worker] = proxy.worker_pids()
        before = rss_bytes(worker)
        began = time.monotonic()
        with proxy.connect("web", timeout=60) as client, ThreadPoolExecutor(1) as pool:
            work: Future[object] = pool.submit(both_ways, client, size, seed)
            highest = watch_memory(worker, work, 90)
            came = work.result()
        seconds = time.monotonic() - began
        [record] = proxy.wait_records(1)
        wait_until(lambda: upstream.results, 10, "the upstream's result")
    print(f"2 GiB in {seconds:.1f} s, {2 * size / seconds / 1e6:.0f} MB/s, hashing included")
    print(f"worker: {before / MIB:.1f} MiB before, {highest / MIB:.1f} MiB at the highest")
    assert came == (size, digest(size, seed + 1))
    assert upstream.results == [(size, digest(size, seed))]
    check_record(record, size, size, "adaptive")
    assert highest - before <= MEMORY_GROWTH


def test_a_slow_reader_and_a_writer_in_pieces_both_ways(seed: int) -> None:
    size = 200 * MIB
    rate = 20e6

    def slow_and_in_pieces(sock: socket.socket, number: int) -> tuple[int, str]:
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(_send_in_pieces, sock, size, number)
            came = drain_digest(sock, rate)
            sending.result()
        return came

    def upstream_side(sock: socket.socket, _upstream: Upstream) -> tuple[int, str]:
        return slow_and_in_pieces(sock, seed + 1)

    with serving("v4", upstream_side) as upstream, running_proxy(web(upstream.address)) as proxy:
        [worker] = proxy.worker_pids()
        before = rss_bytes(worker)
        with proxy.connect("web", timeout=60) as client, ThreadPoolExecutor(1) as pool:
            work: Future[object] = pool.submit(slow_and_in_pieces, client, seed)
            highest = watch_memory(worker, work, 90)
            came = work.result()
        [record] = proxy.wait_records(1)
        wait_until(lambda: upstream.results, 10, "the upstream's result")
    print(f"worker: {before / MIB:.1f} MiB before, {highest / MIB:.1f} MiB at the highest")
    up, down = record["spliced_up"] / size, record["spliced_down"] / size
    print(f"by splice: up {up:.2%}, down {down:.2%}")
    assert came == (size, digest(size, seed + 1))
    assert upstream.results == [(size, digest(size, seed))]
    check_record(record, size, size, "adaptive")
    assert highest - before <= MEMORY_GROWTH


def _send_in_pieces(sock: socket.socket, size: int, seed: int) -> None:
    pump(sock, size, seed, random.Random(seed))
    sock.shutdown(socket.SHUT_WR)


Roads = tuple[str, Proxy, dict[str, Upstream]]
ROAD_SIZE = 64 * MIB + 12345
ROAD_SEED = 20


@pytest.fixture(scope="module", params=MODES)
def roads(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Roads]:
    """A proxy with a listener of every family for an upstream of every family, in each mode."""
    directory = tmp_path_factory.mktemp("roads")
    with ExitStack() as stack:
        upstreams = {
            family: stack.enter_context(exchange(ROAD_SIZE, ROAD_SEED + 1, family))
            for family in FAMILIES
        }
        lines = [f"relay: {{mode: {request.param}}}", "listeners:"]
        for near, far in product(FAMILIES, FAMILIES):
            bind = bind_text(near, directory, f"{near}_{far}")
            lines.append(f'  {near}_{far}: {{bind: "{bind}", pool: {far}}}')
        lines.append("pools:")
        lines += [f'  {far}: {{upstreams: "{u.address}"}}' for far, u in upstreams.items()]
        proxy = stack.enter_context(running_proxy("\n".join(lines)))
        yield request.param, proxy, upstreams


@pytest.mark.parametrize("far", FAMILIES)
@pytest.mark.parametrize("near", FAMILIES)
def test_every_road_carries_the_same_bytes_both_ways(roads: Roads, near: str, far: str) -> None:
    mode, proxy, upstreams = roads
    listener = f"{near}_{far}"
    upstreams[far].results.clear()
    with proxy.connect(listener, timeout=30) as client:
        came = both_ways(client, ROAD_SIZE, ROAD_SEED)
    assert came == (ROAD_SIZE, digest(ROAD_SIZE, ROAD_SEED + 1))
    wait_until(lambda: upstreams[far].results, 10, "the upstream's result")
    assert upstreams[far].results == [(ROAD_SIZE, digest(ROAD_SIZE, ROAD_SEED))]
    records = wait_until(
        lambda: [r for r in proxy.records() if r["listener"] == listener], 10, "the record"
    )
    print(f"by splice: up {records[0]['spliced_up']}, down {records[0]['spliced_down']}")
    check_record(records[0], ROAD_SIZE, ROAD_SIZE, mode)
