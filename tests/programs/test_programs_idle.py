"""Sessions that are silent cost two sockets, little memory, and no wake-ups."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from harness.fds import context_switches, fd_kinds, rss_bytes
from harness.load import read_exactly
from harness.proxy import Proxy, running_proxy
from harness.wait import wait_until
from real_programs import bind_text, need_fds, peer, web

SESSIONS = 4000
PER_SESSION = 2048
WATCHED_FOR = 5.0


@contextmanager
def sessions(proxy: Proxy, number: int) -> Iterator[list[socket.socket]]:
    """So many sessions, each of which has carried a message there and back."""
    with ExitStack() as stack:
        clients = []
        for _ in range(number):
            client = stack.enter_context(proxy.connect("web"))
            client.sendall(b"hello")
            clients.append(client)
        for client in clients:
            assert read_exactly(client, 5) == b"hello"
        yield clients


@pytest.mark.parametrize("near", ["v4", "unix"])
@pytest.mark.parametrize("far", ["v6", "unix"])
def test_four_thousand_idle_sessions_hold_no_pipe_and_two_kib_each(
    near: str, far: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    need_fds(3 * SESSIONS)
    bind = bind_text(near, tmp_path_factory.mktemp("idle"))
    with peer("echo", far) as upstream, running_proxy(web(upstream, bind)) as proxy:
        [worker] = proxy.worker_pids()
        memory, fds = rss_bytes(worker), fd_kinds(worker)
        with sessions(proxy, SESSIONS):
            each = (rss_bytes(worker) - memory) / SESSIONS
            more = fd_kinds(worker) - fds
            print(f"{each:.0f} bytes of worker memory a session; more fds: {dict(more)}")
            assert more == {"socket": 2 * SESSIONS}
            assert each <= PER_SESSION
        proxy.wait_records(SESSIONS)
        wait_until(lambda: fd_kinds(worker) == fds, 10, "the same fds as before")


def test_sessions_that_were_busy_hold_no_pipe_once_they_are_idle() -> None:
    number, size = 300, 256 * 1024
    with peer("echo", "v4") as upstream, running_proxy(web(upstream)) as proxy:
        [worker] = proxy.worker_pids()
        with sessions(proxy, number) as clients:
            block = bytes(size)
            for client in clients:
                client.sendall(block)
                assert read_exactly(client, size) == block
            pipes = fd_kinds(worker)["pipe"] // 2
            print(f"{pipes} pipes after {number} busy sessions, one after another")
            assert 0 < pipes <= 2  # in the pool, one for each direction of the one busy session


@pytest.mark.alone
def test_a_worker_with_silent_sessions_wakes_for_its_timers_alone() -> None:
    with peer("echo", "v4") as upstream, running_proxy(web(upstream)) as proxy:
        [worker] = proxy.worker_pids()
        with sessions(proxy, 1000):
            before, began = context_switches(worker), time.monotonic()
            wait_until(lambda: time.monotonic() - began >= WATCHED_FOR, 60, "the end of the watch")
            each = (context_switches(worker) - before) / (time.monotonic() - began)
    print(f"{each:.2f} wake-ups a second")
    assert each <= 2.0  # the heartbeat is one
