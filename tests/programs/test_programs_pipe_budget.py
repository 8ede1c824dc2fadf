"""More bulk than the kernel grants pipes for: slower, and nothing else."""

from __future__ import annotations

import hashlib
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.fds import fd_kinds
from harness.load import stream_bytes
from harness.proxy import Proxy, running_proxy
from harness.serving import LOOPBACK
from real_programs import need_fds, run

import spliceproxy

SESSIONS = 600
SIZE = 1024 * 1024
BUFFER = 64 * 1024
"""Small socket buffers, so that bytes wait in pipes and not in sockets."""
UP, DOWN = 1, 2
"""The seeds of what the clients and the upstreams send."""


class Bulk:
    """Many non-blocking sockets: each sends one stream and FIN, and digests what it receives."""

    def __init__(self, payload: bytes) -> None:
        self._payload = memoryview(payload)
        self._selector = selectors.DefaultSelector()
        self._sent: dict[socket.socket, int] = {}
        self._hashes: dict[socket.socket, hashlib._Hash] = {}
        self.digests: list[str] = []
        self.bytes_sent = 0

    def add(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sent[sock] = 0
        self._hashes[sock] = hashlib.sha256()
        self._selector.register(sock, selectors.EVENT_WRITE)

    def send_until_stuck(self) -> None:
        """Send until no socket has taken a byte for half a second. Nothing is read."""
        while events := self._selector.select(0.5):
            for key, _mask in events:
                self._send(key.fileobj)

    def finish(self) -> None:
        """Send the rest and read everything."""
        for sock in self._sent:
            self._watch(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
        while self._selector.get_map():
            events = self._selector.select(30)
            assert events, "nothing moved for 30 s"
            for key, mask in events:
                if mask & selectors.EVENT_WRITE:
                    self._send(key.fileobj)
                if mask & selectors.EVENT_READ:
                    self._receive(key.fileobj)

    def _send(self, sock: object) -> None:
        assert isinstance(sock, socket.socket)
        count = sock.send(self._payload[self._sent[sock] :])
        self._sent[sock] += count
        self.bytes_sent += count
        if self._sent[sock] == len(self._payload):
            sock.shutdown(socket.SHUT_WR)
            reading = self._selector.get_key(sock).events & selectors.EVENT_READ
            self._watch(sock, reading)

    def _receive(self, sock: object) -> None:
        assert isinstance(sock, socket.socket)
        if data := sock.recv(256 * 1024):
            self._hashes[sock].update(data)
        else:
            self.digests.append(self._hashes[sock].hexdigest())
            writing = self._sent[sock] < len(self._payload)
            self._watch(sock, selectors.EVENT_WRITE if writing else 0)

    def _watch(self, sock: socket.socket, events: int) -> None:
        known = sock in self._selector.get_map()
        if not events:
            if known:
                self._selector.unregister(sock)
        elif known:
            self._selector.modify(sock, events)
        else:
            self._selector.register(sock, events)


Somebody = dict[str, Any]
"""Arguments of running_proxy: as whom, by which Python, and where that finds its modules."""


@pytest.fixture
def somebody() -> Somebody:
    """A user to whom fs.pipe-user-pages-soft applies, and a Python that this user may run."""
    if os.geteuid() != 0:
        return {}
    said = []
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    modules = os.pathsep.join([str(Path(spliceproxy.__file__).parents[1]), *sys.path])
    # A Python below /root is nobody's to run; the system's own of the same version does as well.
    for python, env in (sys.executable, {}), (f"/usr/bin/{version}", {"PYTHONPATH": modules}):
        command = (python, "-m", "spliceproxy")
        try:
            run([*command, "--version"], user="nobody", extra_groups=[], env={**os.environ, **env})
        except (OSError, AssertionError) as error:
            said.append(str(error))
        else:
            return {"user": "nobody", "command": command, "env": env}
    pytest.skip(f"`nobody` can run no Python with spliceproxy: {said}")


@contextmanager
def listening() -> Iterator[socket.socket]:
    number, host = LOOPBACK["v4"]
    with socket.socket(number, socket.SOCK_STREAM) as sock:
        _small_buffers(sock)
        sock.bind((host, 0))
        sock.listen(SESSIONS)
        yield sock


def _small_buffers(sock: socket.socket) -> None:
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, BUFFER)


def connect_all(proxy: Proxy, upstream: socket.socket, stack: ExitStack) -> tuple[Bulk, Bulk]:
    """All sessions, both ends of each."""
    clients, upstreams = Bulk(stream_bytes(SIZE, UP)), Bulk(stream_bytes(SIZE, DOWN))
    for _ in range(SESSIONS):
        client = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        _small_buffers(client)
        client.settimeout(10)
        client.connect(proxy.address("web"))
        clients.add(client)
    upstream.settimeout(10)
    for _ in range(SESSIONS):
        upstreams.add(stack.enter_context(upstream.accept()[0]))
    return clients, upstreams


def test_six_hundred_bulk_sessions_of_an_unprivileged_user(somebody: Somebody) -> None:
    need_fds(4 * SESSIONS)
    with listening() as upstream, ExitStack() as stack:
        host, port = upstream.getsockname()
        config = (
            f"tcp: {{buffers: {{receive: {BUFFER // 1024}KiB, send: {BUFFER // 1024}KiB}}}}\n"
            f"listeners:\n  web: {{bind: '127.0.0.1:0', pool: app}}\n"
            f"pools:\n  app: {{upstreams: '{host}:{port}'}}\n"
        )
        proxy = stack.enter_context(running_proxy(config, **somebody))
        [worker] = proxy.worker_pids()
        said = len(proxy.log())
        clients, upstreams = connect_all(proxy, upstream, stack)
        began = time.monotonic()
        clients.send_until_stuck()
        upstreams.send_until_stuck()
        pipes = fd_kinds(worker)["pipe"] // 2
        stuck = clients.bytes_sent + upstreams.bytes_sent
        _finish_both(clients, upstreams)
        seconds = time.monotonic() - began
        records = proxy.wait_records(SESSIONS)
        loud = [e for e in proxy.log()[said:] if e["level"] in ("warning", "error")]
    spliced = sum(r["spliced_up"] + r["spliced_down"] for r in records)
    print(f"{SESSIONS} sessions, {2 * SESSIONS * SIZE >> 20} MiB in {seconds:.1f} s")
    print(f"{stuck >> 20} MiB under way, {pipes} pipes; {spliced >> 20} MiB by splice")
    assert 0 < pipes < 2 * SESSIONS, "the budget was not met"
    assert clients.digests == [hashlib.sha256(stream_bytes(SIZE, DOWN)).hexdigest()] * SESSIONS
    assert upstreams.digests == [hashlib.sha256(stream_bytes(SIZE, UP)).hexdigest()] * SESSIONS
    assert {r["why"] for r in records} == {"done"}
    assert {(r["bytes_up"], r["bytes_down"]) for r in records} == {(SIZE, SIZE)}
    assert not loud


def _finish_both(clients: Bulk, upstreams: Bulk) -> None:
    far = threading.Thread(target=upstreams.finish)
    far.start()
    clients.finish()
    far.join()
