"""`bandwidth:` of listeners: each session gets its own, by splice, and nobody else is slower."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import upstreams
from harness.fds import context_switches, cpu_seconds
from harness.load import blocks, digest, drain_digest, pump, read_exactly
from harness.proxy import Proxy
from harness.serving import reset
from session_support import exchange, one_record, proxy_yaml, running_proxy, worker_sockets

MIB = 1024 * 1024
RATE = 8 * MIB
SIZE = 64 * MIB
SEED = 7
SO_MAX_PACING_RATE = 47
UNLIMITED = 2**64 - 1


def yaml(source: str, sink: str, bandwidth: dict[str, str]) -> str:
    """Two listeners: `down` sends to its clients, `up` reads what they send."""
    web = {"bind": "127.0.0.1:0", "bandwidth": bandwidth}
    listeners = {"down": {**web, "pool": "source"}, "up": {**web, "pool": "sink"}}
    pools = {"source": {"upstreams": source}, "sink": {"upstreams": sink}}
    return f"listeners: {json.dumps(listeners)}\npools: {json.dumps(pools)}\n"


@contextmanager
def both_ways(bandwidth: dict[str, str], size: int = SIZE) -> Iterator[Proxy]:
    with ExitStack() as stack:
        source = stack.enter_context(upstreams.source(size, SEED))
        sink = stack.enter_context(upstreams.sink())
        text = yaml(source.address, sink.address, bandwidth)
        yield stack.enter_context(running_proxy(text))


def download(proxy: Proxy, size: int = SIZE) -> float:
    """Read the upstream's stream to its end; bytes per second."""
    with proxy.connect("down", timeout=60) as client:
        began = time.monotonic()
        assert drain_digest(client) == (size, digest(size, SEED))
        return size / (time.monotonic() - began)


def upload(proxy: Proxy, size: int = SIZE) -> float:
    """Send a stream until the upstream has read all of it; bytes per second."""
    with proxy.connect("up", timeout=60) as client:
        began = time.monotonic()
        for block in blocks(size, SEED):
            client.sendall(block)
        client.shutdown(socket.SHUT_WR)
        assert client.makefile("rb").read().decode() == digest(size, SEED)
        return size / (time.monotonic() - began)


@pytest.mark.alone
def test_each_of_four_sessions_gets_its_own_rate_by_splice_and_nobody_spins() -> None:
    speeds: list[float] = []
    with both_ways({"up": "8MiB/s", "down": "8MiB/s"}) as proxy:
        [pid] = proxy.worker_pids()
        before = cpu_seconds(pid)
        threads = [
            threading.Thread(target=lambda move=move: speeds.append(move(proxy)))
            for move in (download, download, upload, upload)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        used = cpu_seconds(pid) - before
        records = proxy.wait_records(4)
    shown = ", ".join(f"{speed / MIB:.2f}" for speed in speeds)
    print(f"{shown} MiB/s; the worker took {used:.2f} s of CPU")
    assert len(speeds) == 4
    assert all(0.9 * RATE < speed < 1.1 * RATE for speed in speeds)
    assert used < 4.0
    for record in records:
        down = record["listener"] == "down"
        spliced = record["spliced_down" if down else "spliced_up"]
        assert spliced > SIZE // 2
        assert record["why"] == "done"


def test_a_limit_of_one_direction_leaves_the_other_alone() -> None:
    with both_ways({"up": "1MiB/s"}) as proxy:
        assert download(proxy) > 32 * MIB


def pacing(sock: socket.socket) -> int:
    """What the kernel sends at most, bytes per second."""
    return int(struct.unpack("Q", sock.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 8))[0])


@pytest.mark.parametrize(
    ("bandwidth", "up", "down"),
    [
        ("off", UNLIMITED, UNLIMITED),
        ({"up": "64KiB/s"}, 65536, UNLIMITED),
        ({"down": "8GiB/s"}, UNLIMITED, 8 * 1024 * MIB),
    ],
)
def test_the_socket_that_sends_has_the_rate(bandwidth: object, up: int, down: int) -> None:
    with ExitStack() as stack:
        echo = stack.enter_context(upstreams.echo())
        text = proxy_yaml(echo.address, listener={"bandwidth": bandwidth})
        proxy = stack.enter_context(running_proxy(text))
        client = stack.enter_context(proxy.connect("web"))
        assert exchange(client, b"ping") == b"ping"
        [pid] = proxy.worker_pids()
        socks = stack.enter_context(worker_sockets(pid))
        peers: dict[Any, socket.socket] = {}
        for sock in socks:
            try:
                peers[sock.getpeername()] = sock
            except OSError:
                continue
        assert pacing(peers[client.getsockname()]) == down
        assert pacing(peers[echo.name]) == up


@pytest.mark.alone
@pytest.mark.parametrize("mode", ["adaptive", "splice"])
def test_both_directions_of_unix_sockets_are_slowed_down_too(tmp_path: Path, mode: str) -> None:
    """Both at once over one session, which a client's FIN ends last."""
    size, seconds = 24 * MIB, 3.0
    with ExitStack() as stack:
        peer = stack.enter_context(upstreams.exchange(size, SEED, "unix"))
        rates = {"up": "8MiB/s", "down": "8MiB/s"}
        bind, relay = f"unix:{tmp_path}/web", {"mode": mode}
        text = proxy_yaml(peer.address, bind=bind, listener={"bandwidth": rates}, relay=relay)
        proxy = stack.enter_context(running_proxy(text))
        [pid] = proxy.worker_pids()
        before, woke, began = cpu_seconds(pid), context_switches(pid), time.monotonic()
        with proxy.connect("web", timeout=60) as client:
            sender = threading.Thread(target=pump, args=(client, size, SEED))
            sender.start()
            assert drain_digest(client) == (size, digest(size, SEED))
            took = time.monotonic() - began
            sender.join()
            client.shutdown(socket.SHUT_WR)
            record = one_record(proxy)
        used, woke = cpu_seconds(pid) - before, context_switches(pid) - woke
    assert peer.results == [(size, digest(size, SEED))]
    print(f"{size / took / MIB:.2f} MiB/s; {used:.2f} s of CPU, {woke} wakes")
    assert 0.9 * seconds < took < 1.1 * seconds
    assert (record["why"], record["bytes_up"], record["bytes_down"]) == ("done", size, size)
    assert used < 1.0
    assert woke < 3000


@pytest.mark.alone
def test_a_paused_flow_sleeps(tmp_path: Path) -> None:
    with ExitStack() as stack:
        source = stack.enter_context(upstreams.source(MIB, SEED))
        bind, rates = f"unix:{tmp_path}/web", {"down": "16KiB/s"}
        text = proxy_yaml(source.address, bind=bind, listener={"bandwidth": rates})
        proxy = stack.enter_context(running_proxy(text))
        [pid] = proxy.worker_pids()
        client = stack.enter_context(proxy.connect("web"))
        began, before, woke = time.monotonic(), cpu_seconds(pid), context_switches(pid)
        read_exactly(client, 32 * 1024)
        took = time.monotonic() - began
        used, woke = cpu_seconds(pid) - before, context_switches(pid) - woke
        print(f"{took:.2f} s; {used:.2f} s of CPU, {woke} wakes")
        assert 1.6 < took < 2.3
        assert used < 0.1
        assert woke < 100
        client.close()
        record = one_record(proxy)
    assert record["closed_by"] == "client"


def test_what_comes_in_while_a_flow_is_paused_wakes_nobody() -> None:
    pieces, pace = 500, threading.Event()
    with ExitStack() as stack:
        sink = stack.enter_context(upstreams.sink("unix"))
        rates = {"up": "16KiB/s"}
        proxy = stack.enter_context(
            running_proxy(proxy_yaml(sink.address, listener={"bandwidth": rates}))
        )
        [pid] = proxy.worker_pids()
        client = stack.enter_context(proxy.connect("web"))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(bytes(64 * 1024))  # four seconds of the rate
        woke = context_switches(pid)
        for _ in range(pieces):
            client.sendall(b"piece")
            pace.wait(0.001)  # one segment for each
        woke = context_switches(pid) - woke
    print(f"{woke} wakes")
    assert woke < pieces // 5


def test_what_came_before_a_reset_still_arrives_slowly() -> None:
    size = 48 * 1024
    with ExitStack() as stack:
        sink = stack.enter_context(upstreams.sink("unix"))
        rates = {"up": "32KiB/s"}
        proxy = stack.enter_context(
            running_proxy(proxy_yaml(sink.address, listener={"bandwidth": rates}))
        )
        client = stack.enter_context(proxy.connect("web"))
        client.sendall(bytes(size))
        reset(client)
        record = one_record(proxy)
    assert (record["closed_by"], record["why"]) == ("client", "client_reset")
    assert record["bytes_up"] == size
    assert 900 < record["duration_ms"] < 2000


def test_a_unix_upstream_that_reads_even_slower_gets_every_byte() -> None:
    size = 8 * MIB
    with ExitStack() as stack:
        sink = stack.enter_context(upstreams.sink("unix", rate=4 * MIB))
        rates = {"up": "8MiB/s"}
        proxy = stack.enter_context(
            running_proxy(proxy_yaml(sink.address, listener={"bandwidth": rates}))
        )
        [pid] = proxy.worker_pids()
        before = cpu_seconds(pid)
        client = stack.enter_context(proxy.connect("web"))
        pump(client, size, SEED)
        client.shutdown(socket.SHUT_WR)
        assert client.makefile("rb").read().decode() == digest(size, SEED)
        assert one_record(proxy)["bytes_up"] == size
        assert cpu_seconds(pid) - before < 0.5


@pytest.mark.alone
def test_small_messages_over_a_slow_unix_socket_do_not_wait() -> None:
    with ExitStack() as stack:
        echo = stack.enter_context(upstreams.echo("unix"))
        rates = {"up": "64KiB/s", "down": "64KiB/s"}
        proxy = stack.enter_context(
            running_proxy(proxy_yaml(echo.address, listener={"bandwidth": rates}))
        )
        client = stack.enter_context(proxy.connect("web"))
        began = time.monotonic()
        for _ in range(100):
            assert exchange(client, b"ping") == b"ping"
        assert time.monotonic() - began < 1.0


@pytest.mark.alone
def test_curl_downloads_at_the_rate() -> None:
    with both_ways({"down": "4MiB/s"}, size=16 * MIB) as proxy:
        host, port = proxy.address("down")
        url, told = f"http://{host}:{port}/", "%{size_download} %{time_total}"
        command = ["curl", "-s", "--http0.9", "-o", "/dev/null", "-w", told, url]
        said = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    size, seconds = said.split()
    print(f"{int(size) / float(seconds) / MIB:.2f} MiB/s")
    assert int(size) == 16 * MIB
    assert 3.6 < int(size) / float(seconds) / MIB < 4.6
