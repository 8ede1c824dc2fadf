"""Stops and deaths of workers: a client that had connected is served, not reset."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
from harness.proxy import WITHOUT_CAPABILITIES, Event, Name, Proxy, connect, running_proxy
from harness.serving import FAMILIES
from harness.wait import wait_until
from real_programs import bind_text, need, nginx, peer, web

CLIENTS = 8
QUEUED = 60
SIZE = 3000

ANSWERED = "answered"
NOT_CONNECTED = "not connected"
BROKEN = "broken after connect"


def visit(name: Name) -> str:
    """One client: connect, ask, read to the end."""
    try:
        sock = connect(name, 10)
    except OSError:
        return NOT_CONNECTED
    return ask(sock)


def ask(sock: socket.socket) -> str:
    """What became of a client that had connected, and leaves now."""
    came = 0
    try:
        with sock:
            sock.sendall(b"%d\n" % SIZE)
            while data := sock.recv(65536):
                came += len(data)
    except OSError as error:
        return f"{BROKEN}: {error}"
    return ANSWERED if came == SIZE else f"{BROKEN}: {came} bytes"


class Visitors:
    """Clients that come again and again, and what became of them."""

    def __init__(self, name: Name) -> None:
        self._name = name
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(CLIENTS)]
        self.seen: Counter[str] = Counter()
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            result = visit(self._name)
            with self._lock:
                self.seen[result] += 1

    def wait_answers(self, more: int) -> None:
        """Until so many more clients were answered."""
        goal = self.seen[ANSWERED] + more
        wait_until(lambda: self.seen[ANSWERED] >= goal, 20, f"{more} answers: {self.seen}")

    def leave(self) -> Counter[str]:
        self._stop.set()
        for thread in self._threads:
            thread.join(15)
            assert not thread.is_alive(), "a client hangs"
        return self.seen

    @property
    def broken(self) -> int:
        return sum(number for what, number in self.seen.items() if what.startswith(BROKEN))


@contextmanager
def visitors(name: Name) -> Iterator[Visitors]:
    crowd = Visitors(name)
    try:
        yield crowd
    finally:
        crowd.leave()


@pytest.fixture
def upstream() -> Iterator[str]:
    with peer("answer", "v4") as address:
        yield address


@contextmanager
def queued(proxy: Proxy, number: int = QUEUED) -> Iterator[list[socket.socket]]:
    """Clients that have connected, while no worker accepts: all workers are stopped."""
    for pid in proxy.worker_pids():
        os.kill(pid, signal.SIGSTOP)
    with ExitStack() as stack:
        yield [stack.enter_context(proxy.connect("web", timeout=20)) for _ in range(number)]


both_crews = pytest.mark.parametrize("workers", [1, 2])
every_right = pytest.mark.parametrize(
    "wrapper",
    [
        pytest.param(wrapper, id="without_capabilities" if wrapper else "as_we_are")
        for wrapper in sorted({(), WITHOUT_CAPABILITIES})
    ],
)
every_family = pytest.mark.parametrize("family", FAMILIES)


@both_crews
@every_family
def test_clients_in_the_queue_of_a_killed_worker_are_served(
    upstream: str, workers: int, family: str, tmp_path: Path
) -> None:
    config = web(upstream, bind_text(family, tmp_path))
    with running_proxy(config, workers=workers) as proxy, queued(proxy) as clients:
        before = proxy.worker_pids()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        assert Counter(map(ask, clients)) == {ANSWERED: QUEUED}
        wait_until(lambda: len(proxy.worker_pids()) == workers, 10, "new workers")


@every_family
def test_clients_in_the_queue_of_one_of_two_workers_are_served_when_it_is_killed(
    upstream: str, family: str, tmp_path: Path
) -> None:
    config = web(upstream, bind_text(family, tmp_path))
    with running_proxy(config, workers=2) as proxy, queued(proxy) as clients:
        one, other = proxy.worker_pids()
        os.kill(one, signal.SIGKILL)
        os.kill(other, signal.SIGCONT)
        assert Counter(map(ask, clients)) == {ANSWERED: QUEUED}


@both_crews
@every_right
@every_family
def test_clients_in_the_queue_are_served_before_a_stop(
    upstream: str, workers: int, family: str, wrapper: tuple[str, ...], tmp_path: Path
) -> None:
    config = web(upstream, bind_text(family, tmp_path))
    with running_proxy(config, workers=workers, wrapper=wrapper) as proxy, queued(proxy) as clients:
        proxy.terminate()
        proxy.wait_log("stopping")
        for pid in proxy.worker_pids():
            os.kill(pid, signal.SIGCONT)
        assert Counter(map(ask, clients)) == {ANSWERED: QUEUED}
        assert proxy.wait() == 0


@both_crews
@every_right
@every_family
def test_a_stop_under_load_breaks_no_client_that_had_connected(
    upstream: str, workers: int, family: str, wrapper: tuple[str, ...], tmp_path: Path
) -> None:
    config = web(upstream, bind_text(family, tmp_path))
    with (
        running_proxy(config, workers=workers, wrapper=wrapper) as proxy,
        visitors(proxy.address("web")) as crowd,
    ):
        crowd.wait_answers(1000)
        proxy.terminate()
        assert proxy.wait() == 0
        seen = crowd.leave()
        records = proxy.records()
    print(f"{dict(seen)}, {len(records)} records")
    assert crowd.broken == 0
    assert {r["why"] for r in records} == {"done"}
    assert len(records) == seen[ANSWERED]


@both_crews
@every_family
def test_a_death_under_load_breaks_no_client_but_those_that_the_worker_had(
    upstream: str, workers: int, family: str, tmp_path: Path
) -> None:
    config = web(upstream, bind_text(family, tmp_path))
    with (
        running_proxy(config, workers=workers) as proxy,
        visitors(proxy.address("web")) as crowd,
    ):
        for _ in range(3):
            crowd.wait_answers(500)
            victim = proxy.worker_pids()[0]
            os.kill(victim, signal.SIGKILL)
            wait_until(partial(_replaced, proxy, victim, workers), 10, "a new worker")
        crowd.wait_answers(1000)
        seen = crowd.leave()
        deaths = wait_until(lambda: _deaths(proxy, 3), 10, "the records of the dead")
    lost = sum(death["lost"] for death in deaths)
    print(f"{dict(seen)}; the dead workers had {lost} sessions")
    assert seen[NOT_CONNECTED] == 0
    # One session of each may have been accepted, and not yet be counted.
    assert crowd.broken <= lost + len(deaths)


def _replaced(proxy: Proxy, victim: int, workers: int) -> bool:
    """Whether the victim is gone, and as many workers live as before."""
    now = proxy.worker_pids()
    return victim not in now and len(now) == workers


def _deaths(proxy: Proxy, number: int) -> list[Event]:
    """The records of dead workers, once there are so many."""
    found = [r for r in proxy.records() if r["why"] == "worker_died"]
    return found if len(found) >= number else []


@pytest.fixture
def loaded(upstream: str, tmp_path: Path) -> Iterator[str]:
    """A configuration with `web` in front of nginx, for wrk, and `other` for visitors."""
    with nginx(tmp_path) as origin:
        yield (
            "listeners:\n"
            "  web: {bind: '127.0.0.1:0', pool: nginx}\n"
            "  other: {bind: '127.0.0.1:0', pool: answer}\n"
            "pools:\n"
            f"  nginx: {{upstreams: '{origin['v4']}'}}\n"
            f"  answer: {{upstreams: '{upstream}'}}\n"
        )


@contextmanager
def wrk(proxy: Proxy) -> Iterator[subprocess.Popen[str]]:
    """wrk against `web` for three seconds, a connection for each request."""
    url = f"http://127.0.0.1:{proxy.port('web')}/fine"
    command = [need("wrk"), "-c", "64", "-t", "1", "-d", "3s", "-H", "Connection: close", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
        yield load


def broken_requests(load: subprocess.Popen[str]) -> int:
    """Requests that wrk had sent, and that were reset or cut off.

    A refused connection, which is right after a stop, it counts as a write error.
    """
    said = load.communicate(timeout=30)[0]
    print(said)
    found = re.search(r"Socket errors: connect \d+, read (\d+)", said)
    return int(found[1]) if found else 0


@both_crews
@every_right
def test_a_stop_under_wrk_resets_nobody(
    workers: int, wrapper: tuple[str, ...], loaded: str
) -> None:
    with (
        running_proxy(loaded, workers=workers, wrapper=wrapper) as proxy,
        visitors(proxy.address("other")) as crowd,
        wrk(proxy) as load,
    ):
        proxy.wait_records(3000)
        proxy.terminate()
        assert proxy.wait() == 0
        seen = crowd.leave()
        broken = broken_requests(load)
        ends = Counter(record["why"] for record in proxy.records())
    print(f"visitors: {dict(seen)}; records: {dict(ends)}")
    assert broken == crowd.broken == 0
    assert set(ends) == {"done"}


@both_crews
def test_a_death_under_wrk_resets_only_those_that_the_worker_had(workers: int, loaded: str) -> None:
    with (
        running_proxy(loaded, workers=workers) as proxy,
        visitors(proxy.address("other")) as crowd,
        wrk(proxy) as load,
    ):
        proxy.wait_records(3000)
        os.kill(proxy.worker_pids()[0], signal.SIGKILL)
        [death] = wait_until(lambda: _deaths(proxy, 1), 10, "the record of the dead")
        crowd.wait_answers(500)
        broken = broken_requests(load)
        seen = crowd.leave()
    print(f"visitors: {dict(seen)}; the dead worker had {death['lost']} sessions")
    assert seen[NOT_CONNECTED] == 0
    assert broken + crowd.broken <= death["lost"] + 1
