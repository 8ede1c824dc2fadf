"""What a worker calls a failure of an upstream, and when it says so to the supervisor."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from harness import upstreams
from harness.fds import open_fds
from harness.serving import Upstream, serving
from harness.wait import wait_until
from session_support import private_network, read_until_reset, set_nofile, worker_sockets

from spliceproxy import ipc
from spliceproxy.ipc.sealed import seal
from spliceproxy.telemetry.board import SESSIONS, Board

SLOT = 4321
AFTER = 5
CONNECT = ipc.EjectPlan(AFTER, connect=True, early_close=False)
EARLY_CLOSE = ipc.EjectPlan(AFTER, connect=False, early_close=True)


class LoneWorker:
    """A real worker, whose supervisor is the test."""

    def __init__(self, pid: int, channel: ipc.Channel, board: Board, name: Any) -> None:
        self.pid = pid
        self.channel = channel
        self.name = name
        self._board = board
        self._numbers = count(1000)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.name, 10)

    def visit(self, data: bytes = b"", others: int = 0) -> bytes:
        """Be a client that sends `data`, reads to the end and is gone, beside `others`."""
        said = b""
        with suppress(ConnectionResetError), self.connect() as client:
            client.sendall(data)
            while more := client.recv(100):
                said += more
        sessions = self._board.regions[0]
        wait_until(lambda: sessions[SESSIONS] == others, 10, "the end of the session")
        return said

    def told(self) -> list[ipc.Message]:
        """What the worker said since the last time."""
        number = next(self._numbers)
        self.channel.send(ipc.Retire(number))  # of a socket that it has not: it says so at once
        found = []
        while (message := self._receive()) != ipc.Retired(number):
            found.append(message)
        return [message for message in found if not isinstance(message, ipc.Ready | ipc.Warned)]

    def _receive(self) -> ipc.Message:
        def receive() -> tuple[ipc.Message, list[int]] | None:
            with suppress(BlockingIOError):
                return self.channel.receive()
            return None

        received = wait_until(receive, 10, "a message of the worker")
        assert received is not None
        return received[0]


def pool_plan(address: Any, family: int, eject: ipc.EjectPlan | None) -> ipc.PoolPlan:
    return ipc.PoolPlan(
        name="app",
        balance="round_robin",
        upstreams=(ipc.UpstreamPlan("the upstream", family, address, slot=SLOT),),
        retries=2,
        connect_timeout=0.1,
        idle_timeout=None,
        half_close_timeout=None,
        session_timeout=None,
        tcp=ipc.TcpPlan(keepalive=(60, 10, 3)),
        eject=eject,
    )


def plan(pool: ipc.PoolPlan) -> ipc.Snapshot:
    return ipc.Snapshot(
        listeners=(ipc.ListenerPlan("web", 0, "app", max_sessions=None, keep="off", sample=1.0),),
        pools=(pool,),
        relay=ipc.RelayPlan("adaptive", 65536, 8, None),
        max_sessions=None,
        worker_sessions=1000,
        sessions_to="stdout",
        log_level="info",
        log_format="json",
    )


@contextmanager
def lone_worker(
    name: Any, eject: ipc.EjectPlan | None = CONNECT, tcp: ipc.TcpPlan | None = None
) -> Iterator[LoneWorker]:
    """A worker with one listener before one upstream, which connects to `name`."""
    family = socket.AF_UNIX if isinstance(name, str) else socket.AF_INET
    pool = pool_plan(name, family, eject)
    if tcp is not None:
        pool = replace(pool, tcp=tcp)
    with ExitStack() as stack:
        channel, there = ipc.Channel.pair()
        stack.callback(channel.close)
        board = Board.create(1)
        stack.callback(os.close, board)
        with there:
            command = [sys.executable, "-m", "spliceproxy.worker"]
            process = subprocess.Popen(
                [*command, str(there.fileno()), str(board), "0"],
                pass_fds=(there.fileno(), board),
            )
        stack.callback(process.wait, 10)
        stack.callback(process.kill)
        sealed = seal(plan(pool))
        channel.send(ipc.Configure(0), sealed)
        os.close(sealed)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            worker = LoneWorker(process.pid, channel, Board(board, 1), listening.getsockname())
            channel.send(ipc.Serve(0, "web", shared=False), listening.fileno())
        assert worker.told() == []
        yield worker
        assert process.poll() is None, "the worker lives"
        channel.send(ipc.Stop(0))
        assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("kind", "family", "why"),
    [
        (upstreams.refuse, "v4", "connect_refused"),
        (upstreams.refuse, "unix", "connect_refused"),
        (upstreams.blackhole, "v4", "connect_timeout"),
        (upstreams.blackhole, "unix", "connect_timeout"),
    ],
)
def test_the_fifth_failed_connect_in_a_row_is_told_and_then_five_more(
    kind: Any, family: str, why: str
) -> None:
    with kind(family) as upstream, lone_worker(upstream.name) as worker:
        for _ in range(AFTER - 1):
            worker.visit()
        assert worker.told() == []
        worker.visit()
        assert worker.told() == [ipc.Failing(SLOT, why)]
        for _ in range(AFTER - 1):
            worker.visit()
        assert worker.told() == []
        told: list[ipc.Message] = []
        while not told:  # not before a tenth of a second has passed
            worker.visit()
            told = worker.told()
        assert told == [ipc.Failing(SLOT, why)]


def test_a_connect_that_succeeds_begins_the_count_anew() -> None:
    with serving("v4", _greet) as upstream, lone_worker(upstream.name) as worker:
        for _ in range(3):
            upstream.stop()
            for _ in range(AFTER - 1):
                worker.visit()
            upstream.start()
            assert worker.visit() == b"hello"
        assert worker.told() == []


NO_ROUTE = ("192.0.2.1", 9)


@pytest.mark.parametrize(
    ("tcp", "name"),
    [
        pytest.param(ipc.TcpPlan(sources=("192.0.2.1",)), ("127.0.0.1", 9), id="no source port"),
        pytest.param(ipc.TcpPlan(interface="nosuch0"), ("127.0.0.1", 9), id="no such interface"),
        pytest.param(ipc.TcpPlan(), NO_ROUTE, id="no route"),
    ],
)
def test_what_this_machine_lacks_is_no_failure_of_the_upstream(
    tcp: ipc.TcpPlan, name: tuple[str, int]
) -> None:
    with private_network() if name == NO_ROUTE else nullcontext(), lone_worker(name, tcp=tcp) as w:
        for _ in range(2 * AFTER):
            w.visit()
        assert w.told() == []


def test_a_lack_of_fds_is_no_failure_of_the_upstream() -> None:
    with upstreams.refuse() as upstream, lone_worker(upstream.name) as worker:
        taken = open_fds(worker.pid)
        free = next(fd for fd in range(1024) if fd not in taken)
        set_nofile(worker.pid, free + 1)  # the client's socket fits, the upstream's does not
        for _ in range(2 * AFTER):
            worker.visit()
        assert worker.told() == []
        set_nofile(worker.pid, 1024)
        for _ in range(AFTER):
            worker.visit()
        assert worker.told() == [ipc.Failing(SLOT, "connect_refused")]


@pytest.mark.parametrize("eject", [None, EARLY_CLOSE])
def test_where_failed_connects_do_not_count_nothing_is_told(eject: ipc.EjectPlan | None) -> None:
    with upstreams.refuse() as upstream, lone_worker(upstream.name, eject) as worker:
        for _ in range(2 * AFTER):
            worker.visit()
        assert worker.told() == []


def _hang_up(sock: socket.socket, _upstream: Upstream) -> None:
    """Read a request, and end without a word; a request that says `hello` is answered."""
    if sock.recv(100) == b"hello":
        sock.sendall(b"hello")


def test_the_fifth_early_close_in_a_row_is_told() -> None:
    with serving("v4", _hang_up) as upstream, lone_worker(upstream.name, EARLY_CLOSE) as worker:
        for _ in range(AFTER - 1):
            assert worker.visit(b"request") == b""
        assert worker.told() == []
        assert worker.visit(b"request") == b""
        assert worker.told() == [ipc.Failing(SLOT, "early_close")]


def test_a_session_that_got_a_byte_begins_the_count_of_early_closes_anew() -> None:
    with serving("v4", _hang_up) as upstream, lone_worker(upstream.name, EARLY_CLOSE) as worker:
        for _ in range(3):
            for _ in range(AFTER - 1):
                assert worker.visit(b"request") == b""
            assert worker.visit(b"hello") == b"hello"
        assert worker.told() == []


def test_a_long_session_that_got_a_byte_begins_the_count_anew_before_it_ends() -> None:
    def answer_and_hang_up(sock: socket.socket, _upstream: Upstream) -> None:
        while (data := sock.recv(100)) not in (b"", b"request"):
            sock.sendall(data)

    with (
        serving("v4", answer_and_hang_up) as upstream,
        lone_worker(upstream.name, EARLY_CLOSE) as worker,
    ):
        for _ in range(AFTER - 1):
            assert worker.visit(b"request") == b""
        with worker.connect() as client:
            client.sendall(b"hello")
            assert client.recv(100) == b"hello"
            wait_until(lambda: has_keepalive(worker), 10, "the look at a session of one second")
            for _ in range(AFTER - 1):
                assert worker.visit(b"request", others=1) == b""
            assert worker.told() == []
            assert worker.visit(b"request", others=1) == b""
            assert worker.told() == [ipc.Failing(SLOT, "early_close")]


def has_keepalive(worker: LoneWorker) -> bool:
    """Whether a session has lived for a moment: its connection is probed from then on."""
    with worker_sockets(worker.pid) as socks:
        return any(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) for sock in socks)


def test_early_closes_do_not_count_where_nobody_asked_for_it() -> None:
    with serving("v4", _hang_up) as upstream, lone_worker(upstream.name, CONNECT) as worker:
        for _ in range(2 * AFTER):
            assert worker.visit(b"request") == b""
        assert worker.told() == []


def test_an_upstream_that_ends_before_the_client_said_anything_does_not_close_early() -> None:
    with serving("v4", lambda *_: None) as upstream, lone_worker(upstream.name, EARLY_CLOSE) as w:
        for _ in range(2 * AFTER):
            assert w.visit() == b""
        assert w.told() == []


def test_an_upstream_that_ends_after_the_client_did_does_not_close_early() -> None:
    def read_all(sock: socket.socket, _upstream: Upstream) -> None:
        while sock.recv(100):
            pass

    with serving("v4", read_all) as upstream, lone_worker(upstream.name, EARLY_CLOSE) as worker:
        for _ in range(2 * AFTER):
            with worker.connect() as client:
                client.sendall(b"all of it")
                client.shutdown(socket.SHUT_WR)
                assert client.recv(100) == b""
        assert worker.told() == []


def test_an_upstream_that_resets_does_not_close_early() -> None:
    with upstreams.resets() as upstream, lone_worker(upstream.name, EARLY_CLOSE) as worker:
        for _ in range(2 * AFTER):
            with worker.connect() as client:
                client.sendall(b"x")
                read_until_reset(client)
        assert worker.told() == []


def _greet(sock: socket.socket, _upstream: Upstream) -> None:
    sock.sendall(b"hello")
