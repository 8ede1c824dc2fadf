"""TLS sessions that are silent cost memory that is bounded, no pipe, and no wake-ups."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from harness.fds import context_switches, fd_kinds, rss_bytes
from harness.proxy import Proxy, running_proxy
from harness.tls import VERSIONS, Authority, TlsPeer
from harness.wait import wait_until
from real_programs import need_fds, peer

from spliceproxy.worker.session import FIRST_LOOK

NAME = "www.example.com"
SESSIONS = 2000
IDLE_COSTS = 32 * 1024
BUSY_COSTS = 112 * 1024
BUSY = 40_000
"""Bytes that OpenSSL's buffers grow for. They never shrink, for as long as the session lives."""
WATCHED_FOR = 5.0


@contextmanager
def ending(authority: Authority, upstream: str) -> Iterator[Proxy]:
    with running_proxy(
        f"listeners: {{web: {{bind: '127.0.0.1:0', pool: app, "
        f"tls: {{certificates: {authority.certificate(NAME)}}}}}}}\n"
        f"pools: {{app: {{upstreams: '{upstream}'}}}}\n"
    ) as proxy:
        yield proxy


@contextmanager
def sessions(
    proxy: Proxy, authority: Authority, number: int, version: str = "1.3"
) -> Iterator[list[TlsPeer]]:
    """So many sessions, each of which has carried a word there and back."""
    context = authority.client(version)
    with ExitStack() as stack:
        clients = [
            stack.enter_context(TlsPeer(proxy.connect("web"), context, NAME)) for _ in range(number)
        ]
        talk(clients, b"hello")
        yield clients
        for client in clients:
            client.close_write()


def talk(clients: list[TlsPeer], message: bytes) -> None:
    for client in clients:
        client.send(message)
        assert client.read_exactly(len(message)) == message


def wait_time(seconds: float) -> None:
    """Let time pass: nothing is to happen."""
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began >= seconds, 60, "the end of the watch")


@pytest.mark.parametrize("version", VERSIONS)
def test_two_thousand_idle_sessions_cost_bounded_memory_each(version: str, tmp_path: Path) -> None:
    need_fds(3 * SESSIONS)
    authority = Authority(tmp_path)
    with peer("echo", "v4") as upstream, ending(authority, upstream) as proxy:
        [worker] = proxy.worker_pids()
        with sessions(proxy, authority, 1, version):
            pass
        proxy.wait_records(1)
        memory, fds = rss_bytes(worker), fd_kinds(worker)
        with sessions(proxy, authority, SESSIONS, version) as clients:
            idle = (rss_bytes(worker) - memory) / SESSIONS
            assert fd_kinds(worker) - fds == {"socket": 2 * SESSIONS}
            talk(clients, bytes(BUSY))
            busy = (rss_bytes(worker) - memory) / SESSIONS
        print(f"{idle / 1024:.1f} KiB each, {busy / 1024:.1f} KiB after {BUSY} bytes each way")
        records = proxy.wait_records(1 + SESSIONS, 30)
        wait_until(lambda: fd_kinds(worker) == fds, 10, "the same fds as before")
    assert {one["why"] for one in records} == {"done"}
    assert idle <= IDLE_COSTS
    assert busy <= BUSY_COSTS


def test_sessions_take_the_memory_that_earlier_ones_gave_back(tmp_path: Path) -> None:
    authority, number = Authority(tmp_path), 200
    with peer("echo", "v4") as upstream, ending(authority, upstream) as proxy:
        [worker] = proxy.worker_pids()
        memory = []
        for round_ in range(1, 9):
            with sessions(proxy, authority, number) as clients:
                talk(clients, bytes(BUSY))
                memory.append(rss_bytes(worker) / 1024**2)
            proxy.wait_records(round_ * number, 30)
    print("MiB:", ", ".join(f"{one:.1f}" for one in memory))
    assert memory[-1] <= memory[3] * 1.25


@pytest.mark.alone
def test_a_worker_with_silent_tls_sessions_wakes_for_its_timers_alone(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with peer("echo", "v4") as upstream, ending(authority, upstream) as proxy:
        [worker] = proxy.worker_pids()
        with sessions(proxy, authority, 500):
            wait_time(2 * FIRST_LOOK)
            before, began = context_switches(worker), time.monotonic()
            wait_time(WATCHED_FOR)
            each = (context_switches(worker) - before) / (time.monotonic() - began)
    print(f"{each:.2f} wake-ups a second")
    assert each <= 2.0  # the heartbeat is one
