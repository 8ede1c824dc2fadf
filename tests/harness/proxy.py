"""The whole proxy as its users start it: `spliceproxy run FILE`, real processes, real sockets.

    with running_proxy(yaml) as proxy, proxy.connect("web") as client:
        ...
        [record] = proxy.wait_records(1)

A port of 0 in the YAML is any free port; the log says which, and `proxy.address()` returns it.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from harness.fds import alive, children
from harness.wait import wait_until

READY_TIMEOUT = 15.0

WITHOUT_CAPABILITIES = (
    ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
)
"""A `wrapper` that makes root an ordinary user, to whom the kernel's limits apply, also where
other users may not read the interpreter that runs the tests."""

Event = dict[str, Any]
Name = tuple[str, int] | str
"""What connect() takes: (host, port), or a UNIX path, an abstract one with a NUL in front."""


def connect_name(address: str) -> Name:
    """An address of the log as connect() takes it; a wildcard becomes the loopback address."""
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        return "\0" + path[1:] if path.startswith("@") else path
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), int(port)


def connect(name: Name, timeout: float = 10.0) -> socket.socket:
    """A blocking connection to `name`, on whose calls `timeout` holds."""
    if isinstance(name, tuple):
        return socket.create_connection(name, timeout)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    try:
        sock.connect(name)
    except BaseException:
        sock.close()
        raise
    return sock


def refused(name: Name) -> bool:
    """Whether nobody listens at `name`."""
    try:
        connect(name).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    except ConnectionResetError:
        return False  # somebody does, and turned this client away at once
    return False


class Proxy:
    """A running `spliceproxy run`, and what it said so far."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        self.process = process
        self.pid = process.pid
        self.directory = directory
        self.config = directory / "app.yaml"
        self._notify: socket.socket | None = None
        self.stop_patience = (2.0, 8.0)
        """Seconds that the end of sessions, and then the second SIGTERM, may take."""

    @property
    def stderr(self) -> str:
        """Standard error so far, as text."""
        return (self.directory / "stderr").read_text(errors="backslashreplace")

    def log(self, event: str | None = None) -> list[Event]:
        """The log's lines so far; those of one `event` where it is given."""
        lines = _json_lines(self.directory / "stderr")
        return [line for line in lines if event is None or line.get("event") == event]

    def wait_log(
        self, event: str, timeout: float = 10.0, where: Callable[[Event], bool] | None = None
    ) -> Event:
        """The first line with that `event` (and for which `where` is true)."""

        def found() -> Event | None:
            return next((e for e in self.log(event) if where is None or where(e)), None)

        try:
            line = wait_until(found, timeout, f"{event!r} in the log")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.stderr}") from None
        assert line is not None
        return line

    def records(self) -> list[Event]:
        """The session records so far."""
        return _json_lines(self.directory / "stdout")

    def wait_records(self, number: int, timeout: float = 10.0) -> list[Event]:
        """All records, once there are `number` of them or more."""

        def enough() -> bool:
            return (self.directory / "stdout").read_bytes().count(b"\n") >= number

        try:
            wait_until(enough, timeout, f"{number} session records")
            return self.records()
        except AssertionError as error:
            raise AssertionError(f"{error}, {len(self.records())} there\n{self.stderr}") from None

    def notifications(self) -> list[str]:
        """What systemd was told since the last call (with `notify=True`)."""
        assert self._notify is not None, "started without notify=True"
        told = []
        with suppress(BlockingIOError):
            while True:
                told.append(self._notify.recv(4096).decode())
        return told

    def addresses(self, listener: str) -> list[str]:
        """All addresses of a listener, as the log has them."""
        return [e["address"] for e in self.log("listening") if e["listener"] == listener]

    def address(self, listener: str, index: int = 0) -> Name:
        """One address of a listener, as connect() takes it."""
        addresses = self.addresses(listener)
        assert addresses, f"no listener {listener!r} in the log\n{self.stderr}"
        return connect_name(addresses[index])

    def port(self, listener: str, index: int = 0) -> int:
        """The port of one address of a listener."""
        name = self.address(listener, index)
        assert isinstance(name, tuple)
        return name[1]

    def connect(self, listener: str, index: int = 0, timeout: float = 10.0) -> socket.socket:
        """A client's blocking connection to a listener."""
        return connect(self.address(listener, index), timeout)

    def worker_pids(self) -> list[int]:
        """Pids of the workers that live."""
        return [pid for pid in children(self.pid) if alive(pid)]

    def signal(self, number: int) -> None:
        """Send a signal to the supervisor."""
        self.process.send_signal(number)

    def terminate(self) -> None:
        """Ask it to stop: SIGTERM."""
        self.signal(signal.SIGTERM)

    def wait(self, timeout: float = 15.0) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(timeout)

    def end(self) -> int:
        """End it for sure and return its exit code.

        Sessions that are left get 2 s to end, then a second SIGTERM comes. Raises AssertionError
        where only SIGKILL helped, or where a worker outlived its supervisor.
        """
        workers = self.worker_pids()
        for pause in self.stop_patience:
            if self.process.poll() is None:
                self.terminate()
                with suppress(subprocess.TimeoutExpired):
                    self.wait(pause)
        stubborn = self.process.poll() is None
        if stubborn:
            workers = self.worker_pids()
            self.process.kill()
        code = self.wait()
        try:
            wait_until(lambda: not any(alive(pid) for pid in workers), 8, "the workers' end")
        except AssertionError:
            for pid in workers:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            raise AssertionError(f"workers outlived the supervisor\n{self.stderr}") from None
        assert not stubborn, f"neither SIGTERM nor a second one ended it\n{self.stderr}"
        return code


def _json_lines(path: Path) -> list[Event]:
    """The whole lines of a file that are JSON objects.

    The last one may be half written, and so may be the one that a killed worker was writing.
    """
    found = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        with suppress(json.JSONDecodeError):
            if line.startswith(b"{"):
                found.append(json.loads(line))
    return found


@contextmanager
def running_proxy(
    yaml_text: str,
    *,
    workers: int = 1,
    user: str | int | None = None,
    env: Mapping[str, str] | None = None,
    notify: bool = False,
    expect_exit: int | None = 0,
    command: Sequence[str] = (sys.executable, "-m", "spliceproxy"),
    wrapper: Sequence[str] = (),
    options: Sequence[str] = (),
) -> Iterator[Proxy]:
    """Start the proxy with this configuration, wait until it is ready, and end it for sure.

    `workers` holds where the text has no such key. Where it has no top-level `health`, upstreams
    are not checked (`health: off`), so that they meet sessions only; where it has no `admin`, there
    is no door (`admin: off`), as many proxies run side by side. `user` runs it as somebody else,
    `env` adds to the environment, `notify` gives it a NOTIFY_SOCKET, `wrapper` goes in front of the
    command, `options` behind `run`.
    Afterwards its exit code must be `expect_exit` (None: any) and its log free of tracebacks.
    """
    with tempfile.TemporaryDirectory(prefix="proxy-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        if not any(line.startswith("workers:") for line in yaml_text.splitlines()):
            yaml_text = f"workers: {workers}\n{yaml_text}"
        for default in ("health: off", "admin: off"):
            key = default.split()[0]
            if not any(line.startswith(key) for line in yaml_text.splitlines()):
                yaml_text = f"{default}\n{yaml_text}"
        config = directory / "app.yaml"
        config.write_text(yaml_text)
        environment = {**os.environ, **(env or {})}
        environment.pop("NOTIFY_SOCKET", None)
        with _notify_socket(directory if notify else None) as notify_socket:
            if notify_socket is not None:
                environment["NOTIFY_SOCKET"] = str(directory / "notify")
            arguments = [*wrapper, *command, "run", *options, str(config)]
            proxy = Proxy(_start(arguments, directory, environment, user), directory)
            proxy._notify = notify_socket
            yield from _supervise(proxy, expect_exit)


def _start(
    arguments: list[str], directory: Path, environment: dict[str, str], user: str | int | None
) -> subprocess.Popen[bytes]:
    account = None if user is None else _account(user)
    with (directory / "stdout").open("wb") as out, (directory / "stderr").open("wb") as err:
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment,
            user=None if account is None else account.pw_uid,
            group=None if account is None else account.pw_gid,
            extra_groups=None if account is None else [],
        )


def _account(user: str | int) -> pwd.struct_passwd:
    return pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)


def _supervise(proxy: Proxy, expect_exit: int | None) -> Iterator[Proxy]:
    try:
        _wait_ready(proxy)
        yield proxy
    except BaseException:
        # What went wrong in the test is the news; how the proxy ends is not.
        with suppress(AssertionError):
            proxy.end()
        print(f"--- standard error of the proxy\n{proxy.stderr}", file=sys.stderr)
        raise
    code = proxy.end()
    assert expect_exit is None or code == expect_exit, f"exit code {code}\n{proxy.stderr}"
    assert "Traceback" not in proxy.stderr, proxy.stderr


def _wait_ready(proxy: Proxy) -> None:
    def ready_or_over() -> bool:
        return bool(proxy.log("ready")) or proxy.process.poll() is not None

    wait_until(ready_or_over, READY_TIMEOUT, "the proxy's `ready`")
    code = proxy.process.poll()
    assert code is None, f"the proxy ended with {code} before it was ready\n{proxy.stderr}"


@contextmanager
def _notify_socket(directory: Path | None) -> Iterator[socket.socket | None]:
    if directory is None:
        yield None
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        path = directory / "notify"
        sock.bind(str(path))
        path.chmod(0o777)
        sock.setblocking(False)
        yield sock
