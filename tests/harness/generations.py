"""A proxy that is upgraded: several generations of `spliceproxy run`, of which one serves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from harness.door import request
from harness.fds import alive, children
from harness.proxy import Proxy, running_proxy
from harness.wait import wait_until


class Generations:
    """The first process and those that replaced it; `proxy` has the log and records of all."""

    def __init__(self, proxy: Proxy, door: Path) -> None:
        self.proxy = proxy
        self.door = door

    def pids(self) -> list[int]:
        """Of each generation that ever served, the newest last."""
        return [line["pid"] for line in self.proxy.log("ready")]

    @property
    def pid(self) -> int:
        """Who serves."""
        return self.pids()[-1]

    def write(self, text: str) -> None:
        """A new configuration, with the head that the proxy began with."""
        self.proxy.config.write_text(f"{self.head}\n{text}")

    @property
    def head(self) -> str:
        lines = self.proxy.config.read_text().splitlines()
        return "\n".join(
            line for line in lines if line.startswith(("workers:", "health:", "admin"))
        )

    def order(self) -> subprocess.CompletedProcess[str]:
        """`spliceproxy upgrade`, whatever comes of it."""
        command = [sys.executable, "-m", "spliceproxy", "upgrade", "--admin", str(self.door)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def upgrade(self) -> int:
        """Upgrade; the pid that serves now."""
        before = self.pids()
        done = self.order()
        assert done.returncode == 0, done.stdout + done.stderr + self.proxy.stderr
        wait_until(lambda: len(self.pids()) > len(before), 5, "ready")
        assert done.stdout.startswith(f"pid {self.pid} serves now"), done.stdout
        assert self.pid not in before
        return self.pid

    def status(self) -> dict[str, Any]:
        code, answer = request(self.door, "GET", "/api/v1/status")
        assert code == 200
        return answer

    def wait_gone(self, *pids: int) -> None:
        """Wait until these processes have ended."""
        for pid in pids:
            wait_until(lambda pid=pid: not alive(pid), 15, f"the end of {pid}")

    def wait_alone(self) -> None:
        """Wait until only the newest generation lives."""
        self.wait_gone(*self.pids()[:-1])

    def workers(self) -> list[int]:
        """Pids of the workers of the one that serves."""
        return [pid for pid in children(self.pid) if alive(pid)]

    def stop(self) -> None:
        """End the newest generation, and with it all others."""
        pids = [pid for pid in self.pids() if alive(pid)]
        workers = [worker for pid in pids for worker in children(pid)]
        for _ in range(2):
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
            with suppress(AssertionError):
                self.wait_gone(*pids)
                break
        left = [pid for pid in (*pids, *workers) if alive(pid)]
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert not left, f"{left} had to be killed\n{self.proxy.stderr}"


@contextmanager
def generations(text: str, directory: Path, **options: Any) -> Iterator[Generations]:
    """A running proxy with a door, that is upgraded in the block. Nothing is left of any process
    afterwards, and the log has no traceback."""
    door = directory / "admin.sock"
    text = f"admin: {{bind: 'unix:{door}'}}\n{text}" if "admin:" not in text else text
    with running_proxy(text, **options) as proxy:
        found = Generations(proxy, door)
        try:
            yield found
        finally:
            found.stop()
