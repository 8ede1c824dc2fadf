"""When clients are not accepted: no fds, or max_sessions. They wait in the kernel's queue, nobody
spins, and everybody is served in the end."""

from __future__ import annotations

import itertools
import os
import select
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime

import pytest
from harness import upstreams
from harness.fds import context_switches, cpu_seconds, open_fds
from harness.proxy import Name, connect
from harness.serving import Upstream, reset, serving
from harness.wait import wait_until
from session_support import Record, proxy_yaml, running_proxy, set_nofile

PAUSED = "accepting paused: clients wait in the kernel's queue"


class Crowd:
    """Clients of an upstream that greets: who is served, and who waits."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.waiting: list[socket.socket] = []
        self.served: list[socket.socket] = []

    def connect(self, name: Name, number: int) -> None:
        """Connect so many more clients; the handshake is the kernel's, so none blocks."""
        for _ in range(number):
            sock = self._stack.enter_context(connect(name))
            self.waiting.append(sock)

    def look(self, timeout: float) -> int:
        """Wait for greetings, `timeout` seconds at most; how many came."""
        greeted = select.select(self.waiting, [], [], timeout)[0]
        for sock in greeted:
            assert sock.recv(1) == b"!", "no client may be turned away"
            self.waiting.remove(sock)
            self.served.append(sock)
        return len(greeted)

    def wait_served(self, number: int) -> None:
        """Wait until so many clients, at least, have been served."""

        def enough() -> bool:
            self.look(0.05)
            return len(self.served) >= number

        wait_until(enough, 10, f"{number} clients served")

    def leave(self, number: int) -> None:
        """The longest served clients go."""
        for sock in self.served[:number]:
            sock.close()
        del self.served[:number]


def greet(sock: socket.socket, _upstream: Upstream) -> None:
    """Send one byte, and stay for as long as the peer."""
    sock.sendall(b"!")
    while sock.recv(65536):
        pass


def whys(records: list[Record]) -> Counter[str]:
    return Counter(record["why"] for record in records)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Hold a process, so that it finds all that happens meanwhile at once."""
    os.kill(pid, signal.SIGSTOP)
    yield
    os.kill(pid, signal.SIGCONT)


def nofile(limit: int) -> tuple[str, ...]:
    """A wrapper that leaves the proxy no more fds, not even by raising its soft limit."""
    return ("prlimit", f"--nofile={limit}:{limit}", "--")


def test_what_the_fds_do_not_allow_waits_quietly_and_is_served_in_the_end() -> None:
    with (
        serving("v4", greet) as upstream,
        running_proxy(proxy_yaml(upstream.address), wrapper=nofile(120)) as proxy,
        ExitStack() as stack,
    ):
        [pid] = proxy.worker_pids()
        crowd = Crowd(stack)
        crowd.connect(proxy.address("web"), 60)
        while crowd.look(0.3):
            pass
        room = len(crowd.served)
        assert 5 <= room < 60, "the limit was felt"
        busy, switches = cpu_seconds(pid), context_switches(pid)
        assert crowd.look(1.0) == 0
        assert cpu_seconds(pid) - busy <= 0.1, "a worker with nothing to do sleeps"
        assert context_switches(pid) - switches <= 60
        assert not proxy.records(), "who waits is not turned away"
        while crowd.waiting:
            served = len(crowd.served)
            crowd.leave(3)
            crowd.wait_served(min(served, served - 3 + len(crowd.waiting)))
        crowd.leave(len(crowd.served))
        records = proxy.wait_records(60)
    assert whys(records) == {"done": 60}


def test_whoever_comes_while_others_leave_at_the_limit_of_fds_finds_an_fd() -> None:
    """An fd that closes at the end of a batch is still taken while the batch is handled."""
    with ExitStack() as stack:
        # Each session takes nine fds or ten within one batch, most of them for failed tries.
        refusing = [stack.enter_context(upstreams.refuse("unix")).address for _ in range(8)]
        upstream = stack.enter_context(serving("unix", greet))
        text = proxy_yaml(*refusing, upstream.address, pool={"retries": 8})
        proxy = stack.enter_context(running_proxy(text, wrapper=nofile(600)))
        [pid] = proxy.worker_pids()
        crowd = Crowd(stack)
        crowd.connect(proxy.address("web"), 300)
        wait_full(crowd, 1)
        room = len(crowd.served)
        assert room < 300
        crowd.leave(room)
        crowd.wait_served(300 - room)
        with stopped(pid):  # a queue that is found full makes the next burst a long one
            crowd.connect(proxy.address("web"), 2 * room - 300)
        wait_full(crowd, room)
        with stopped(pid):  # the ends and the newcomers come in one batch of events
            for sock in crowd.served:
                reset(sock)  # ends a session at once, where a FIN would wait for the other side's
            crowd.served.clear()
            crowd.connect(proxy.address("web"), room)
        crowd.wait_served(room)
        crowd.leave(room)
        records = proxy.wait_records(3 * room)
    assert whys(records) == {"done": 2 * room, "client_reset": room}


@pytest.mark.alone
def test_a_shortage_of_fds_is_said_once_a_second_and_ends_by_itself() -> None:
    with (
        serving("v4", greet) as upstream,
        running_proxy(proxy_yaml(upstream.address)) as proxy,
        ExitStack() as stack,
    ):
        [pid] = proxy.worker_pids()
        crowd = Crowd(stack)
        crowd.connect(proxy.address("web"), 1)
        crowd.wait_served(1)
        taken = open_fds(pid)
        set_nofile(pid, next(fd for fd in itertools.count() if fd not in taken))
        crowd.connect(proxy.address("web"), 5)
        busy, switches = cpu_seconds(pid), context_switches(pid)
        warning = proxy.wait_log(PAUSED)
        wait_until(lambda: len(proxy.log(PAUSED)) >= 3, 5, "the third warning")
        assert cpu_seconds(pid) - busy <= 0.2
        assert context_switches(pid) - switches <= 120, "20 looks a second, for two seconds"
        assert not crowd.look(0)
        set_nofile(pid, 1024)
        crowd.wait_served(6)
        warnings = proxy.log(PAUSED)
    times = [datetime.fromisoformat(line["time"]).timestamp() for line in warnings]
    assert all(after - before >= 0.99 for before, after in itertools.pairwise(times))
    assert warning["error"] == "Too many open files"
    assert warning["sessions"] == 1
    assert warning["level"] == "warning"


def test_a_shortage_does_not_make_a_stop_reset_the_clients_in_the_queue() -> None:
    with (
        serving("v4", greet) as upstream,
        running_proxy(proxy_yaml(upstream.address)) as proxy,
        ExitStack() as stack,
    ):
        [pid] = proxy.worker_pids()
        taken = open_fds(pid)
        set_nofile(pid, next(fd for fd in itertools.count() if fd not in taken))
        crowd = Crowd(stack)
        crowd.connect(proxy.address("web"), 5)
        proxy.wait_log(PAUSED)
        proxy.terminate()
        proxy.wait_log("stopping")
        assert crowd.look(1.0) == 0, "longer than an empty queue would have to stay so"
        set_nofile(pid, 1024)
        crowd.wait_served(5)


def most_at_once(upstream: Upstream, crowd: Crowd, total: int) -> int:
    """Let `total` clients be served, three leaving at a time; the most sessions ever seen."""
    most, left = 0, 0
    while True:
        crowd.look(0.1)
        most = max(most, upstream.open_connections)
        if left + len(crowd.served) >= total:
            return most
        if len(crowd.served) >= 10:
            crowd.leave(3)
            left += 3


def wait_full(crowd: Crowd, least: int) -> None:
    """Wait until so many are served and, for a while, nobody else is."""
    crowd.wait_served(least)
    while crowd.look(0.3):
        pass


def test_max_sessions_of_the_process_holds_over_all_workers() -> None:
    with (
        serving("v4", greet) as upstream,
        running_proxy(proxy_yaml(upstream.address, max_sessions=12), workers=2) as proxy,
        ExitStack() as stack,
    ):
        crowd = Crowd(stack)
        crowd.connect(proxy.address("web"), 40)
        wait_full(crowd, 12)
        assert len(crowd.served) <= 12 + 1, "exceeded by workers - 1 at the most"
        busy = [cpu_seconds(pid) for pid in proxy.worker_pids()]
        assert crowd.look(0.5) == 0
        for pid, before in zip(proxy.worker_pids(), busy, strict=True):
            assert cpu_seconds(pid) - before <= 0.1
        assert most_at_once(upstream, crowd, 40) <= 13 + 3, "three may be leaving still"
        crowd.leave(40)
        records = proxy.wait_records(40)
    assert whys(records) == {"done": 40}
    assert {record["worker"] for record in records} == {0, 1}


def test_max_sessions_of_a_listener_is_its_own_budget() -> None:
    with serving("v4", greet) as upstream, ExitStack() as stack:
        text = proxy_yaml(upstream.address).splitlines()
        text[0] = (
            "listeners: {small: {bind: '127.0.0.1:0', pool: app, max_sessions: 5}, "
            "large: {bind: ['127.0.0.1:0', '[::1]:0'], pool: app}}"
        )
        proxy = stack.enter_context(running_proxy("\n".join(text), workers=2))
        small, large = Crowd(stack), Crowd(stack)
        small.connect(proxy.address("small"), 20)
        large.connect(proxy.address("large"), 20)
        large.connect(proxy.address("large", 1), 20)
        large.wait_served(40)
        wait_full(small, 5)
        assert len(small.served) <= 5 + 1
        while small.waiting:
            small.leave(2)
            small.wait_served(min(5, len(small.served) + len(small.waiting)))
        assert not small.waiting


def test_one_session_at_a_time_serves_a_whole_queue() -> None:
    with (
        serving("v4", greet) as upstream,
        running_proxy(proxy_yaml(upstream.address, max_sessions=1)) as proxy,
        ExitStack() as stack,
    ):
        crowd = Crowd(stack)
        crowd.connect(proxy.address("web"), 20)
        for _ in range(20):
            crowd.wait_served(1)
            assert len(crowd.served) == 1
            crowd.leave(1)
        records = proxy.wait_records(20)
    assert whys(records) == {"done": 20}
