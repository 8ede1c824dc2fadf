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
PER_SESSION = 64 * 1024
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
    proxy: Proxy, authority: Authority, number: int, version: str, message: bytes
) -> Iterator[None]:
    """So many sessions, each of which has carried a message there and back."""
    context = authority.client(version)
    with ExitStack() as stack:
        clients = []
        for _ in range(number):
            client = stack.enter_context(TlsPeer(proxy.connect("web"), context, NAME))
            client.send(message)
            assert client.read_exactly(len(message)) == message
            clients.append(client)
        yield
        for client in clients:
            client.close_write()


def wait_time(seconds: float) -> None:
    """Let time pass: nothing is to happen."""
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began >= seconds, 60, "the end of the watch")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [5, 40_000])
def test_idle_sessions_cost_bounded_memory_each_and_give_it_back(
    size: int, version: str, tmp_path: Path
) -> None:
    need_fds(3 * SESSIONS)
    authority = Authority(tmp_path)
    with peer("echo", "v4") as upstream, ending(authority, upstream) as proxy:
        [worker] = proxy.worker_pids()
        with sessions(proxy, authority, 1, version, bytes(size)):
            pass
        proxy.wait_records(1)
        memory, fds = rss_bytes(worker), fd_kinds(worker)
        each = []
        for round_ in (1, 2):
            began = time.monotonic()
            with sessions(proxy, authority, SESSIONS, version, bytes(size)):
                each.append((rss_bytes(worker) - memory) / SESSIONS)
                assert fd_kinds(worker) - fds == {"socket": 2 * SESSIONS}
                print(f"{each[-1] / 1024:.1f} KiB each, made in {time.monotonic() - began:.1f} s")
            proxy.wait_records(1 + round_ * SESSIONS, 30)
            wait_until(lambda: fd_kinds(worker) == fds, 10, "the same fds as before")
        left = (rss_bytes(worker) - memory) / SESSIONS
        print(f"{left / 1024:.1f} KiB of each are still with the worker")
        assert {one["why"] for one in proxy.records()} == {"done"}
    assert max(each) <= PER_SESSION
    assert each[1] <= each[0] * 1.1, "the second ones take what the first ones gave back"


def test_a_worker_with_silent_tls_sessions_wakes_for_its_timers_alone(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with peer("echo", "v4") as upstream, ending(authority, upstream) as proxy:
        [worker] = proxy.worker_pids()
        with sessions(proxy, authority, 500, "1.3", b"hello"):
            wait_time(2 * FIRST_LOOK)
            before, began = context_switches(worker), time.monotonic()
            wait_time(WATCHED_FOR)
            each = (context_switches(worker) - before) / (time.monotonic() - began)
    print(f"{each:.2f} wake-ups a second")
    assert each <= 2.0  # the heartbeat is one
