"""A supervisor in a process of its own, with fake workers, as the tests drive it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.wait import wait_until

SUPERVISE = Path(__file__).with_name("supervise.py")
TIMEOUT = 15.0

Line = dict[str, Any]


class Supervised:
    """A running supervisor."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.pid = process.pid
        self.text = ""
        """What it printed on standard error that is no log line."""
        self._lines: list[Line] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                try:
                    self._lines.append(json.loads(line))
                except ValueError:
                    self.text += line.decode()
                self._news.notify_all()

    def lines(self, event: str, **fields: object) -> list[Line]:
        """The log lines of an event so far."""
        return [
            line
            for line in list(self._lines)
            if line["event"] == event and fields.items() <= line.items()
        ]

    def wait_log(
        self, event: str, count: int = 1, timeout: float = TIMEOUT, **fields: object
    ) -> Line:
        """Wait for the nth log line of an event."""
        with self._news:
            found = self._news.wait_for(lambda: len(self.lines(event, **fields)) >= count, timeout)
        assert found, f"no {event!r} {fields} in {self._lines} {self.text}"
        return self.lines(event, **fields)[count - 1]

    def wait_text(self, text: str, timeout: float = TIMEOUT) -> None:
        """Wait until it printed `text` that is no log line."""
        with self._news:
            assert self._news.wait_for(lambda: text in self.text, timeout), self.text

    def addresses(self, listener: str) -> list[str]:
        return [line["address"] for line in self.lines("listening", listener=listener)]

    def worker_pid(self, index: int) -> int:
        return int(self.lines("worker started", worker=index)[-1]["pid"])

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = TIMEOUT) -> int:
        """The exit code; the log is complete then."""
        code = self.process.wait(timeout)
        self._reader.join(timeout)
        return code


@contextmanager
def supervised(
    directory: Path,
    yaml: str,
    options: Sequence[str] = (),
    *,
    wait: bool = True,
    prefix: Sequence[str] = (),
    log: str = "log: {format: json}\n",
    **popen: Any,
) -> Iterator[Supervised]:
    """Run a supervisor on `yaml`; it and its workers are gone afterwards, whatever happened."""
    file = directory / "test.yaml"
    door = "" if "admin:" in yaml else "admin: off\n"
    file.write_text(door + yaml + log)
    popen.setdefault("stdout", subprocess.DEVNULL)
    process = subprocess.Popen(
        [*prefix, sys.executable, str(SUPERVISE), str(file), *options],
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        **popen,
    )
    running = Supervised(process)
    try:
        if wait:
            running.wait_log("ready")
        yield running
    finally:
        workers = [line["pid"] for line in running.lines("worker started")]
        process.kill()
        running.wait()
        assert process.stderr is not None
        process.stderr.close()
        # They end by themselves: their channel is at its end.
        if "unshare" not in prefix:  # in another namespace they have other numbers
            for pid in workers:
                wait_until(lambda pid=pid: not alive(pid), TIMEOUT, f"the end of worker {pid}")


def alive(pid: int) -> bool:
    """Whether a process runs: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def connect(address: str, timeout: float = TIMEOUT) -> socket.socket:
    """Connect to an address as the log shows it."""
    if address.startswith("unix:"):
        name = address.removeprefix("unix:")
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout)
        try:
            sock.connect("\0" + name[1:] if name.startswith("@") else name)
        except BaseException:
            sock.close()
            raise
        return sock
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout)


def ask(address: str) -> int:
    """The index of the worker that answers."""
    with connect(address) as client:
        return int(client.recv(16))
