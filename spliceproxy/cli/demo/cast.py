"""The processes of the demo: three upstreams and the proxy. All of them end with this one."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from spliceproxy.cli.demo.ending import Ending
from spliceproxy.errors import SpliceproxyError

START_SECONDS = 15.0
"""How long the proxy may take until it is ready."""
END_SECONDS = 2.0
"""How long a process may take to end before it is told so more clearly."""

_FIRST_PORT, _LAST_PORT = 1024, 32767
"""Below the ports that Linux gives to outgoing connections. Among those, a connection to an
upstream that is away can meet itself (source = destination), and count as connected."""


_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


class DemoError(SpliceproxyError):
    """The demo cannot go on: no free port, or the proxy ended by itself."""


def listen_near(port: int) -> socket.socket:
    """A listening socket on 127.0.0.1, at the first free port from `port` on."""
    for candidate in [*range(port, _LAST_PORT), *range(_FIRST_PORT, port)]:
        with contextlib.suppress(OSError):
            return listen_at(candidate)
    raise DemoError("demo: no free port on 127.0.0.1")


def free_port(port: int) -> int:
    """The first port from `port` on that is free at this moment."""
    with listen_near(port) as listening:
        return int(listening.getsockname()[1])


def listen_at(port: int) -> socket.socket:
    """A listening socket on 127.0.0.1 at `port`. Raises OSError when it is not free."""
    listening = socket.socket()
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(128)
    except OSError:
        listening.close()
        raise
    return listening


class Upstream:
    """One named upstream; it can stop, and start again at the same address."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self._process: subprocess.Popen[bytes] | None = None
        listening = listen_near(port)
        self.port = listening.getsockname()[1]
        self._start(listening)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Come back. Raises OSError when another program took the port meanwhile."""
        self._start(listen_at(self.port))

    def stop(self) -> None:
        """Answer who is connected, then end. From here on, connections to it are refused."""
        process, self._process = self._process, None
        if process is None:
            return
        with process:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()

    def _start(self, listening: socket.socket) -> None:
        with listening:
            fd = listening.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "spliceproxy.cli.demo.upstream", self.name, str(fd)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[fd],
                process_group=0,
            )


def _end_with_parent() -> None:
    """In a new process: be sent SIGTERM when the demo dies, however it dies (prctl(2))."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Proxy:
    """`spliceproxy run FILE`; records and log go to files beside it."""

    def __init__(self, file: Path, port: int) -> None:
        self.file = file
        self.port = port
        self.records = file.parent / "sessions.jsonl"
        self.log = file.parent / "proxy.log"
        self._notify_path = file.parent / "notify"
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(self._notify_path))
        self._notify.setblocking(False)
        with self.records.open("wb") as records, self.log.open("wb") as log:
            # A process group of its own: Ctrl-C reaches the demo alone, which ends the others
            # in the right order.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "spliceproxy", "run", str(file)],
                stdin=subprocess.DEVNULL,
                stdout=records,
                stderr=log,
                env={**os.environ, "NOTIFY_SOCKET": str(self._notify_path)},
                process_group=0,
                preexec_fn=_end_with_parent,
            )
        self._pidfd = os.pidfd_open(self._process.pid)

    def wait_ready(self, ending: Ending) -> None:
        """Wait until the proxy says READY=1 (sd_notify), or a signal ends the demo."""
        while not ending.came:
            readable = ending.wait(START_SECONDS, self._notify, self._pidfd)
            self.check()
            if not readable and not ending.came:
                raise DemoError(f"demo: the proxy is not ready after {START_SECONDS:.0f} s")
            if readable and b"READY=1" in self._notify.recv(4096).split(b"\n"):
                return

    def check(self) -> None:
        """Raise DemoError if the proxy ended by itself."""
        code = self._process.poll()
        if code is not None:
            lines = self.log.read_text(errors="replace").strip().splitlines()
            raise DemoError(f"demo: the proxy ended with {code}: {lines[-1] if lines else '?'}")

    def stop(self) -> None:
        """End the proxy and its workers: SIGTERM, then SIGINT (at once), then SIGKILL."""
        for end in (self._process.terminate, self._interrupt, self._process.kill):
            end()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)
                break
        os.close(self._pidfd)
        self._notify.close()
        self._notify_path.unlink()

    def _interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)
