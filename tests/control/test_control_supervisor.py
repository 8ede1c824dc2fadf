"""The supervisor's life with real processes: start, death, lending, signals, the end."""

from __future__ import annotations

import itertools
import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness.fds import fd_kinds
from harness.wait import wait_until
from supervised import TIMEOUT, Supervised, alive, ask, connect, supervised

POOLS = "pools: {app: {upstreams: 127.0.0.1:9}}\n"


def web(bind: str = "127.0.0.1:0", workers: int = 2, drain: str = "30s") -> str:
    return (
        f"workers: {workers}\ntimeouts: {{drain: {drain}}}\n"
        f"listeners: {{web: {{bind: {bind}, pool: app}}}}\n{POOLS}"
    )


def answers(address: str, times: int = 24) -> set[int]:
    """The indices of the workers that answer clients one after the other."""
    return {ask(address) for _ in range(times)}


def starts(file: Path, index: int) -> list[float]:
    """When a fake worker was started."""
    lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
    return [float(line[1]) for line in lines if int(line[0]) == index]


def test_it_says_where_it_listens_and_when_all_workers_are_ready(tmp_path: Path) -> None:
    bind = f'[127.0.0.1:0, "[::1]:0", unix:{tmp_path}/s]'
    with supervised(tmp_path, web(bind)) as running:
        addresses = running.addresses("web")
        assert [address.rpartition(":")[0] for address in addresses[:2]] == ["127.0.0.1", "[::1]"]
        assert addresses[2] == f"unix:{tmp_path}/s"
        assert answers(addresses[0]) == {0, 1}
        assert answers(addresses[1]) == {0, 1}
        assert answers(addresses[2], 1) <= {0, 1}
        assert Path(f"/proc/{running.pid}/comm").read_text() == "spliceproxy\n"


def test_a_second_instance_ends_with_one_and_names_the_first(tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    with supervised(tmp_path, web()) as first:
        address = first.addresses("web")[0]
        with supervised(tmp_path / "second", web(address), wait=False) as second:
            assert second.wait() == 1
        expected = f"listeners.web.bind: {address}: in use by spliceproxy (pid {first.pid})\n"
        assert second.text == expected
        assert not second.lines("worker started")


def test_a_worker_that_never_comes_up_ends_the_start(tmp_path: Path) -> None:
    with supervised(tmp_path, web(), ["--all-die"], wait=False) as running:
        assert running.wait() == 1
        assert running.lines("giving up: no worker came up; its last words stand above")
        assert running.lines("worker died", worker=0, reason="exit code 3")


def test_open_files_are_allowed_up_to_the_hard_limit(tmp_path: Path) -> None:
    prefix = ["bash", "-c", 'ulimit -Sn 512; exec "$@"', "bash"]
    with supervised(tmp_path, web(workers=1), prefix=prefix) as running:
        for pid in (running.pid, running.worker_pid(0)):
            limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
            (line,) = [line.split() for line in limits if line.startswith("Max open files")]
            assert line[3] == line[4] != "512"


@pytest.mark.alone
@pytest.mark.parametrize("workers", [1, 3])
def test_a_killed_worker_is_back_within_a_second_and_its_queue_is_served(
    tmp_path: Path, workers: int
) -> None:
    with supervised(tmp_path, web(workers=workers)) as running, ExitStack() as stack:
        address = running.addresses("web")[0]
        running.signal(signal.SIGSTOP)
        os.kill(running.worker_pid(0), signal.SIGKILL)
        # The supervisor sees nothing yet, so some of these wait in the dead worker's queue.
        clients = [stack.enter_context(connect(address)) for _ in range(20)]
        killed = time.monotonic()
        running.signal(signal.SIGCONT)
        assert all(client.recv(16) for client in clients)
        running.wait_log("worker started", 2, worker=0)
        assert time.monotonic() - killed < 1
        wait_until(lambda: 0 in answers(address, 4), TIMEOUT, "worker 0 to serve again")
        died = running.wait_log("worker died", worker=0)
        assert died["reason"] == "SIGKILL"


def test_the_sessions_lost_with_a_worker_are_counted_and_recorded(tmp_path: Path) -> None:
    records = tmp_path / "records"
    yaml = web(workers=1)
    with records.open("wb") as stdout:
        running = supervised(tmp_path, yaml, stdout=stdout)
        with running as proxy, ExitStack() as stack:
            for _ in range(3):
                client = stack.enter_context(connect(proxy.addresses("web")[0]))
                assert client.recv(1) == b"0"
            pid = proxy.worker_pid(0)
            os.kill(pid, signal.SIGKILL)
            assert proxy.wait_log("worker died")["sessions_lost"] == 3
            wait_until(records.read_bytes, TIMEOUT, "the record")
            (line,) = records.read_text().splitlines()
            assert '"why":"worker_died"' in line
            assert f'"pid":{pid},"lost":3' in line


@pytest.mark.alone
def test_a_sibling_serves_while_a_worker_dies_at_once_again_and_again(tmp_path: Path) -> None:
    file = tmp_path / "starts"
    options = ["--dies", "1", "--starts", str(file)]
    with supervised(tmp_path, web(), options, wait=False) as running:
        address = running.wait_log("listening")["address"]
        wait_until(lambda: len(starts(file, 1)) >= 6, TIMEOUT, "six starts of worker 1")
        assert answers(address) == {0}
        times = starts(file, 1)
        pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
        # At once, then 0.1 s doubled again and again; a start itself takes a little.
        for pause, expected in zip(pauses, (0, 0.1, 0.2, 0.4, 0.8), strict=False):
            assert expected <= pause < expected + 0.5
        assert not running.lines("ready")


def test_a_worker_without_heartbeat_is_killed_and_replaced(tmp_path: Path) -> None:
    env = {**os.environ, "TEST_HEARTBEAT": "2"}
    with supervised(tmp_path, web(workers=1), env=env) as running:
        os.kill(running.worker_pid(0), signal.SIGSTOP)
        assert running.wait_log("worker died")["reason"] == "no heartbeat for 2 s"
        running.wait_log("worker started", 2)
        assert ask(running.addresses("web")[0]) == 0


def test_a_supervisor_that_was_suspended_kills_nobody(tmp_path: Path) -> None:
    env = {**os.environ, "TEST_HEARTBEAT": "2"}
    with supervised(tmp_path, web(workers=1), env=env) as running:
        # As if the container was frozen for longer than a heartbeat may be late.
        worker = running.worker_pid(0)
        running.signal(signal.SIGSTOP)
        os.kill(worker, signal.SIGSTOP)
        pass_time(3.2)
        running.signal(signal.SIGCONT)
        pass_time(1.2)
        os.kill(worker, signal.SIGCONT)
        assert ask(running.addresses("web")[0]) == 0
        assert not running.lines("worker died")


def pass_time(seconds: float) -> None:
    """Here the passing of time is the event that is tested."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= end, seconds + 1, "time to pass")


def test_workers_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    with supervised(tmp_path, web()) as running:
        workers = [running.worker_pid(index) for index in (0, 1)]
        running.signal(signal.SIGKILL)
        for pid in workers:
            wait_until(lambda pid=pid: not alive(pid), TIMEOUT, f"the end of worker {pid}")


def test_sigterm_serves_every_queued_client_and_then_lets_sessions_end(tmp_path: Path) -> None:
    path = tmp_path / "s"
    bind = f'[127.0.0.1:0, "[::1]:0", unix:{path}, "unix:@{tmp_path.name}"]'
    # Lazy workers accept only when they are told to retire: until then everybody is queued.
    with supervised(tmp_path, web(bind), ["--lazy"]) as running, ExitStack() as stack:
        addresses = running.addresses("web")
        clients = [stack.enter_context(connect(one)) for one in addresses for _ in range(20)]
        running.signal(signal.SIGTERM)
        assert all(client.recv(16) for client in clients)
        wait_until(lambda: not path.exists(), TIMEOUT, "the socket file to go")
        for address in addresses:
            with pytest.raises((ConnectionRefusedError, FileNotFoundError, TimeoutError)):
                connect(address, 2).close()
        assert running.process.poll() is None
        for client in clients:
            client.close()
        assert running.wait() == 0
        assert running.lines("stopped")


def test_sessions_get_the_drain_time_and_no_more(tmp_path: Path) -> None:
    with supervised(tmp_path, web(drain="500ms")) as running:
        with connect(running.addresses("web")[0]) as client:
            client.recv(1)
            began = time.monotonic()
            running.signal(signal.SIGTERM)
            assert running.wait_log("stopping")["sessions"] == 1
            assert running.wait() == 0
        assert 0.45 < time.monotonic() - began < 2


def test_a_worker_that_hangs_is_killed_after_its_drain_time(tmp_path: Path) -> None:
    with supervised(tmp_path, web(drain="100ms", workers=1), ["--hang"]) as running:
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
        assert running.lines("worker died", reason="did not stop in time")


@pytest.mark.alone
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(tmp_path: Path, second: signal.Signals) -> None:
    with supervised(tmp_path, web()) as running:
        with connect(running.addresses("web")[0]) as client:
            client.recv(1)
            running.signal(signal.SIGTERM)
            running.wait_log("stopping")
            assert running.process.poll() is None
            began = time.monotonic()
            running.signal(second)
            assert running.wait() == 0
        assert time.monotonic() - began < 1.5


def test_ctrl_c_ends_at_once_and_reaches_no_worker_by_itself(tmp_path: Path) -> None:
    with supervised(tmp_path, web(), start_new_session=True) as running:
        with connect(running.addresses("web")[0]) as client:
            client.recv(1)
            worker = running.worker_pid(0)
            assert os.getpgid(worker) != os.getpgid(running.pid)
            os.killpg(running.pid, signal.SIGINT)
            assert running.wait() == 0
        assert not running.lines("worker died")


def test_a_worker_that_dies_while_stopping_leaves_its_queue_to_a_sibling(tmp_path: Path) -> None:
    options = ["--lazy", "--die-at-retire", "0"]
    with supervised(tmp_path, web(), options) as running, ExitStack() as stack:
        address = running.addresses("web")[0]
        clients = [stack.enter_context(connect(address)) for _ in range(20)]
        running.signal(signal.SIGTERM)
        assert {client.recv(16) for client in clients} == {b"1"}
        for client in clients:
            client.close()
        assert running.wait() == 0
        assert len(running.lines("worker started")) == 2


def test_sigterm_before_anybody_is_ready_ends_cleanly(tmp_path: Path) -> None:
    with supervised(tmp_path, web(), ["--never-ready"], wait=False) as running:
        running.wait_log("worker started", 2)
        running.signal(signal.SIGTERM)
        assert running.wait() == 0


def test_sigusr1_tells_workers_to_open_their_files_anew(tmp_path: Path) -> None:
    file = tmp_path / "reopened"
    with supervised(tmp_path, web(), ["--reopened", str(file)]) as running:
        running.signal(signal.SIGUSR1)
        wait_until(file.exists, TIMEOUT, "Reopen")


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a namespace of processes")
def test_as_pid_1_it_reaps_orphans_and_signals_work(tmp_path: Path) -> None:
    prefix = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    env = {**os.environ, "TEST_LEAVE_ORPHANS": "1"}
    with supervised(tmp_path, web(), prefix=prefix, env=env) as running:
        init = int(Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text())
        children = Path(f"/proc/{init}/task/{init}/children")
        wait_until(lambda: len(children.read_text().split()) == 2, TIMEOUT, "orphans reaped")
        worker = int(children.read_text().split()[0])
        os.kill(worker, signal.SIGKILL)
        running.wait_log("worker died", reason="SIGKILL")
        running.wait_log("worker started", 3)
        os.kill(init, signal.SIGTERM)
        assert running.wait() == 0


def test_fds_are_the_same_after_many_restarts(tmp_path: Path) -> None:
    with supervised(tmp_path, web(workers=1)) as running:
        death(running, 1)  # the record's writer exists from now on
        before = fd_kinds(running.pid)
        for count in range(2, 4):
            death(running, count)
        assert fd_kinds(running.pid) == before


def death(running: Supervised, count: int) -> None:
    """Kill worker 0, and wait until its successor serves."""
    os.kill(running.worker_pid(0), signal.SIGKILL)
    running.wait_log("worker started", count + 1)
    assert ask(running.addresses("web")[0]) == 0
