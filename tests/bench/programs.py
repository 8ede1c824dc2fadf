"""Programs that the benchmark drives: found, started, waited for, and ended for sure."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.wait import wait_until

TESTS = Path(__file__).resolve().parent.parent
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class MissingError(Exception):
    """Something that a peer or a workload needs is not on this machine; the text says what."""


class FailedError(Exception):
    """A program ended, or said something, that makes its measurement worthless."""


def find(program: str, package: str | None = None) -> str:
    """The path of a program. Raises MissingError, with the Debian package that has it."""
    found = shutil.which(program, path=_PATH)
    if found is None:
        raise MissingError(f"{program} is not installed (Debian: {package or program})")
    return found


def raise_fd_limit() -> int:
    """Allow this process, and all that it starts, as many fds as it may have; how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def free_port() -> int:
    """A port at which nobody listens, below the range from which the kernel takes its own."""
    while True:
        port = random.SystemRandom().randrange(12000, 30000)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                sock.bind(("", port))
                return port


class Running:
    """A program in the background; its output goes to a file, or to a pipe where it is asked."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        talk: bool = False,
    ) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE if talk else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talk else output,
                stderr=output,
                env={**os.environ, **(env or {})},
            )
        self.pid = self.process.pid
        self._command = " ".join(command)

    def check(self) -> None:
        """Raise FailedError if it has ended."""
        if self.process.poll() is not None:
            raise FailedError(
                f"ended: {self._command}\n{self.log.read_text(errors='replace')[-2000:]}"
            )

    def hear(self) -> dict[str, Any]:
        """The next JSON line of a program made with `talk`. Raises FailedError where it ends."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(10)
            self.check()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """SIGTERM, twice where needed (the second time it shall not drain), then SIGKILL."""
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is not None:
                break
            self.process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(1.5)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


def script(name: str, *arguments: object) -> list[str]:
    """The command of one of the benchmark's own programs, such as `load.hold`."""
    return [sys.executable, "-m", f"bench.{name}", *map(str, arguments)]


def script_environment() -> dict[str, str]:
    """Lets the benchmark's own programs find their package."""
    return {"PYTHONPATH": str(TESTS)}


def run(command: Sequence[str], timeout: float) -> str:
    """Run a program to its end; its standard output. Raises FailedError."""
    try:
        done = subprocess.run(
            list(command),
            capture_output=True,
            timeout=timeout,
            text=True,
            env={**os.environ, **script_environment()},
        )
    except subprocess.TimeoutExpired as error:
        raise FailedError(f"{command[0]}: not done within {timeout:g} s") from error
    if done.returncode != 0:
        said = (done.stdout[-1500:] + done.stderr[-1500:]).strip()
        raise FailedError(f"{' '.join(command)}: exit code {done.returncode}\n{said}")
    return done.stdout


def wait_port(host: str, port: int, running: Running, prefix: Sequence[str] = ()) -> None:
    """Wait until somebody accepts there, or raise FailedError.

    With a `prefix` the question is asked by a process of its own, in another network.
    """
    _wait_probe(f"socket.create_connection(({host!r}, {port}), 1).close()", running, prefix)


def wait_echo(host: str, port: int, running: Running, prefix: Sequence[str] = ()) -> None:
    """Wait until a byte comes back from there: then every part of a proxy has begun to work."""
    ask = f"s = socket.create_connection(({host!r}, {port}), 5); s.send(b'x')"
    _wait_probe(f"{ask}; assert s.recv(1) == b'x'; s.close()", running, prefix)


def _wait_probe(probe: str, running: Running, prefix: Sequence[str]) -> None:
    command = [*prefix, sys.executable, "-S", "-c", f"import socket; {probe}"]

    def succeeds() -> bool:
        running.check()
        return subprocess.run(command, capture_output=True).returncode == 0

    try:
        wait_until(succeeds, 20, probe)
    except AssertionError as error:
        raise FailedError(f"{error}\n{running.log.read_text(errors='replace')[-2000:]}") from error
