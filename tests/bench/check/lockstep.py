"""A client and an origin in one process that take one step at a time.

After each step the worker is left alone until it sleeps, so that each event reaches it alone and
the same calls follow every time.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.proxy import Proxy, running_proxy

from bench.programs import FailedError

_LOOKS = 4
"""Times in a row that the worker must be seen asleep."""
_PAUSE = 0.0003
_PATIENCE = 20.0


def wait_asleep(pid: int) -> None:
    """Return when every thread of the process sleeps, waiting for something to happen.

    Raises FailedError where it goes on for 20 s.
    """
    seen = 0
    deadline = time.monotonic() + _PATIENCE
    while seen < _LOOKS:
        seen = seen + 1 if all(state == "S" for state in _states(pid)) else 0
        if time.monotonic() > deadline:
            raise FailedError("the worker does not come to rest")
        time.sleep(_PAUSE)


def _states(pid: int) -> Iterator[str]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield (task / "stat").read_text().rpartition(")")[2].split()[0]


class Lockstep:
    """One client, one origin, and the worker between them."""

    def __init__(self, client_address: tuple[str, int], origin: socket.socket, worker: int) -> None:
        self.worker = worker
        self._address = client_address
        self._origin = origin
        self._kept: tuple[socket.socket, socket.socket] | None = None

    def _settle(self) -> None:
        wait_asleep(self.worker)

    def _open(self) -> tuple[socket.socket, socket.socket]:
        client = socket.create_connection(self._address, _PATIENCE)
        self._settle()
        # The origin learns of it only when the request is there, as a server does.
        client.sendall(b"request: 12\n")
        self._settle()
        upstream, _ = self._origin.accept()
        upstream.settimeout(_PATIENCE)
        return client, upstream

    def _answer(self, client: socket.socket, upstream: socket.socket, size: int) -> None:
        assert upstream.recv(65536)
        upstream.sendall(bytes(size))
        self._settle()
        got = 0
        while got < size:
            got += len(client.recv(65536))
        self._settle()

    def session(self) -> None:
        """Connect, request, answer; the upstream closes first, as after `Connection: close`."""
        client, upstream = self._open()
        self._answer(client, upstream, 12)
        upstream.close()
        self._settle()
        assert client.recv(1) == b""
        client.close()
        self._settle()

    def session_left(self) -> None:
        """The same, and the client closes first."""
        client, upstream = self._open()
        self._answer(client, upstream, 12)
        client.close()
        self._settle()
        assert upstream.recv(1) == b""
        upstream.close()
        self._settle()

    def request(self) -> None:
        """Twelve bytes there and twelve back on a session that stays."""
        self._exchange(12)

    def request_16k(self) -> None:
        """Twelve bytes there and 16 KiB back on a session that stays."""
        self._exchange(16384)

    def _exchange(self, size: int) -> None:
        if self._kept is None:
            self._kept = self._open()
            self._answer(*self._kept, 12)
        client, upstream = self._kept
        client.sendall(b"request: 12\n")
        self._settle()
        self._answer(client, upstream, size)

    def scenarios(self) -> dict[str, Callable[[], None]]:
        """What is counted, by name."""
        return {
            "session, upstream closes": self.session,
            "session, client closes": self.session_left,
            "request, 12 B back": self.request,
            "request, 16 KiB back": self.request_16k,
        }

    def close(self) -> None:
        """Close what is kept."""
        for sock in self._kept or ():
            sock.close()


_YAML = """
workers: 1
log: {{sessions: {{to: "file:{records}"}}}}
listeners:
  web: {{bind: "127.0.0.1:0", pool: app}}
pools:
  app: {{upstreams: ["127.0.0.1:{port}"]}}
"""


@contextmanager
def lockstep(records: Path, command: tuple[str, ...] = ()) -> Iterator[tuple[Lockstep, Proxy]]:
    """A proxy with one worker and everything on that is on by default, and a client and origin."""
    how = {"command": command} if command else {}
    with socket.create_server(("127.0.0.1", 0)) as origin:
        origin.settimeout(_PATIENCE)
        yaml = _YAML.format(records=records, port=origin.getsockname()[1])
        # Hash seeds move dictionary entries, and so the number of instructions.
        environment = {"PYTHONHASHSEED": "0"}
        with running_proxy(yaml, env=environment, expect_exit=None, **how) as proxy:
            [worker] = proxy.worker_pids()
            address = ("127.0.0.1", proxy.port("web"))
            steps = Lockstep(address, origin, worker)
            try:
                yield steps, proxy
            finally:
                steps.close()
