"""What systemd hears from us and hands to us."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from supervised import TIMEOUT, ask, connect, supervised

POOLS = "pools: {app: {upstreams: 127.0.0.1:9}}\n"


def web(bind: str = "127.0.0.1:0", workers: int = 2) -> str:
    return f"workers: {workers}\nlisteners: {{web: {{bind: {bind}, pool: app}}}}\n{POOLS}"


class Manager:
    """The service manager's end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind("\0" + address[1:] if address.startswith("@") else address)
        self.sock.settimeout(TIMEOUT)
        self.environment = {**os.environ, "NOTIFY_SOCKET": address}

    def receive(self) -> dict[str, str]:
        text = self.sock.recv(4096).decode()
        return dict(line.split("=", 1) for line in text.splitlines())

    def wait_for(self, key: str) -> dict[str, str]:
        """The next notification that assigns `key`."""
        while True:
            state = self.receive()
            if key in state:
                return state


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    path = request.param == "path"
    one = Manager(str(tmp_path / "notify") if path else f"@notify-{tmp_path.name}-{os.getpid()}")
    with one.sock:
        yield one


def test_it_tells_when_it_is_ready_and_when_it_stops(tmp_path: Path, manager: Manager) -> None:
    with supervised(tmp_path, web(), env=manager.environment) as running:
        ready = manager.wait_for("READY")
        assert ready["READY"] == "1"
        assert ready["MAINPID"] == str(running.pid)
        assert ready["STATUS"] == "2 workers ready"
        for pid in (running.worker_pid(0), running.worker_pid(1)):
            assert b"NOTIFY_SOCKET" not in Path(f"/proc/{pid}/environ").read_bytes()
        running.signal(signal.SIGTERM)
        assert manager.wait_for("STOPPING")["STATUS"] == "stopping: 0 sessions to end"
        assert running.wait() == 0


@pytest.mark.alone
def test_the_watchdog_hears_twice_as_often_as_it_asks_while_all_is_well(tmp_path: Path) -> None:
    manager = Manager(f"@watchdog-{tmp_path.name}-{os.getpid()}")
    env = {**manager.environment, "WATCHDOG_USEC": "400000", "TEST_HEARTBEAT": "1"}
    with manager.sock, supervised(tmp_path, web(workers=1), env=env) as running:
        times = []
        for _ in range(5):
            manager.wait_for("WATCHDOG")
            times.append(time.monotonic())
        assert 0.15 < (times[-1] - times[0]) / 4 < 0.35
        # A supervisor whose loop stands still says nothing.
        running.signal(signal.SIGSTOP)
        manager.sock.settimeout(0.6)
        with pytest.raises(TimeoutError):
            manager.wait_for("nothing of the kind")
        running.signal(signal.SIGCONT)
        manager.sock.settimeout(TIMEOUT)
        manager.wait_for("WATCHDOG")


def test_another_process_watchdog_is_not_ours(tmp_path: Path) -> None:
    manager = Manager(f"@watchdog-{tmp_path.name}-{os.getpid()}")
    env = {**manager.environment, "WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}
    with manager.sock, supervised(tmp_path, web(workers=1), env=env) as running:
        manager.wait_for("READY")
        running.signal(signal.SIGTERM)
        assert "STOPPING" in manager.receive()


def activated(names: str, *socks: socket.socket) -> dict[str, Any]:
    """Popen arguments that hand `socks` over as systemd does: fds from 3 on, and LISTEN_*."""
    fds = [sock.fileno() for sock in socks]
    script = " ".join(f"{3 + n}<&{fd}" for n, fd in enumerate(fds))
    env = {
        **os.environ,
        "LISTEN_PID": "self",
        "LISTEN_FDS": str(len(fds)),
        "LISTEN_FDNAMES": names,
    }
    prefix = ["bash", "-c", f'exec "$@" {script}', "bash"]
    return {"env": env, "pass_fds": fds, "prefix": prefix}


def listening(stack: ExitStack) -> socket.socket:
    sock = stack.enter_context(socket.socket())
    sock.bind(("127.0.0.1", 0))
    sock.listen(64)
    # Out of the way of the numbers that the shell assigns.
    high = socket.socket(fileno=os.dup2(sock.fileno(), 100 + sock.fileno()))
    return stack.enter_context(high)


def test_a_handed_socket_serves_the_listener_of_its_name_by_all_workers(tmp_path: Path) -> None:
    with ExitStack() as stack:
        sock = listening(stack)
        host, port = sock.getsockname()
        arguments = activated("web", sock)
        with supervised(tmp_path, web("192.0.2.1:80"), **arguments) as running:
            assert running.addresses("web") == [f"{host}:{port}"]
            assert {ask(f"{host}:{port}") for _ in range(24)} == {0, 1}
            environ = Path(f"/proc/{running.worker_pid(0)}/environ").read_bytes()
            assert b"LISTEN_" not in environ


def test_clients_of_a_handed_socket_wait_for_the_next_instance(tmp_path: Path) -> None:
    with ExitStack() as stack:
        sock = listening(stack)
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        arguments = activated("web", sock)
        for _ in range(2):
            with supervised(tmp_path, web("192.0.2.1:80", 1), **arguments) as running:
                assert ask(address) == 0
                running.signal(signal.SIGTERM)
                assert running.wait() == 0
        waiting = stack.enter_context(connect(address))
        with supervised(tmp_path, web("192.0.2.1:80", 1), **arguments):
            assert waiting.recv(1) == b"0"


def test_a_handed_socket_that_nobody_wants_ends_the_start(tmp_path: Path) -> None:
    with ExitStack() as stack:
        sock = listening(stack)
        arguments = activated("other", sock)
        with supervised(tmp_path, web(), wait=False, **arguments) as running:
            assert running.wait() == 1
        port = sock.getsockname()[1]
        assert running.text == (
            f"the socket other at 127.0.0.1:{port} that systemd handed over: no listener has this "
            "name or address; FileDescriptorName= in its socket unit says which listener it is "
            "for\n"
        )


def test_a_handed_fd_that_is_no_socket_ends_the_start(tmp_path: Path) -> None:
    env = {**os.environ, "LISTEN_PID": "self", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web"}
    prefix = ["bash", "-c", 'exec "$@" 3</dev/null', "bash"]
    with supervised(tmp_path, web(), wait=False, env=env, prefix=prefix) as running:
        assert running.wait() == 1
    assert "fd 3 'web', handed over by systemd: Socket operation on non-socket" in running.text


def test_sockets_for_another_process_are_left_alone(tmp_path: Path) -> None:
    env = {**os.environ, "LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web"}
    with supervised(tmp_path, web(), env=env) as running:
        assert ask(running.addresses("web")[0]) in (0, 1)
