"""Sessions that a worker is told to end: which ones, in which order, how evenly, and when not."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from harness.fds import cpu_seconds
from harness.load import stream_bytes
from harness.serving import Upstream, reset, serving
from harness.upstreams import blackhole, echo
from harness.wait import wait_until
from session_support import exchange, read_until_reset, unsent

from spliceproxy import ipc
from spliceproxy.ipc.sealed import seal
from spliceproxy.telemetry.board import SESSIONS, Board, listener_sessions

APP, OTHER, BACKUP = 10, 11, 12
"""Slots of upstreams."""
WEB, DB = 3, 4
"""Slots of listeners."""
Name = tuple[str, int]


class Told:
    """A real worker whose supervisor is the test, and the sessions that it was given."""

    def __init__(self, stack: ExitStack, records: Path, pools: dict[str, list[Any]]) -> None:
        self._stack = stack
        self._records = records
        self.channel, there = ipc.Channel.pair()
        stack.callback(self.channel.close)
        board = Board.create(1)
        stack.callback(os.close, board)
        with there, records.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "spliceproxy.worker", str(there.fileno()), str(board), "0"],
                pass_fds=(there.fileno(), board),
                stdout=out,
            )
        stack.callback(self._process.wait, 10)
        stack.callback(self._process.kill)
        self.pid = self._process.pid
        self.board = Board(board, 1)
        sealed = seal(snapshot(pools))
        self.channel.send(ipc.Configure(0), sealed)
        os.close(sealed)
        self.names: dict[str, Name] = {}
        for number, name in enumerate(pools):
            with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
                self.names[name] = listening.getsockname()
                self.channel.send(ipc.Serve(number, name, shared=False), listening.fileno())

    def connect(self, listener: str = "web") -> socket.socket:
        return self._stack.enter_context(socket.create_connection(self.names[listener], 10))

    def crowd(self, number: int, listener: str = "web") -> list[socket.socket]:
        """Sessions that have all spoken once, one after the other."""
        clients = [self.connect(listener) for _ in range(number)]
        for client in clients:
            assert exchange(client, b"hello") == b"hello"
        return clients

    @property
    def sessions(self) -> int:
        return self.board.regions[0][SESSIONS]

    def wait_sessions(self, number: int, timeout: float = 10) -> None:
        wait_until(lambda: self.sessions == number, timeout, f"{number} sessions")

    def records(self, number: int) -> list[dict[str, Any]]:
        def found() -> list[bytes]:
            return self._records.read_bytes().splitlines()

        wait_until(lambda: len(found()) >= number, 10, f"{number} records")
        return [json.loads(line) for line in found()]

    def stop(self) -> None:
        """It lives, and what it counted is even."""
        assert self._process.poll() is None, "the worker lives"
        self.channel.send(ipc.Stop(0))
        assert self._process.wait(10) == 0
        region = self.board.regions[0]
        assert region[listener_sessions(WEB)] == region[listener_sessions(DB)] == 0
        counts = self.board.upstreams.sessions[0]
        assert [counts[slot] for slot in range(20)] == [0] * 20


def snapshot(pools: dict[str, list[Any]]) -> ipc.Snapshot:
    """A listener and a pool of the same name; upstreams as (name to connect, slot)."""
    slots = {"web": WEB, "db": DB}
    return ipc.Snapshot(
        listeners=tuple(
            ipc.ListenerPlan(name, slots[name], name, max_sessions=None, keep="all", sample=1.0)
            for name in pools
        ),
        pools=tuple(
            ipc.PoolPlan(
                name=name,
                balance="round_robin",
                upstreams=tuple(
                    ipc.UpstreamPlan(f"up{slot}", socket.AF_INET, address, slot=slot, tier=tier)
                    for tier, (address, slot) in enumerate(upstreams)
                ),
                retries=1,
                connect_timeout=60,
                idle_timeout=None,
                half_close_timeout=None,
                session_timeout=None,
                tcp=ipc.TcpPlan(),
                slot=slots[name] + 10,
            )
            for name, upstreams in pools.items()
        ),
        relay=ipc.RelayPlan("adaptive", 65536, 8, None),
        max_sessions=None,
        worker_sessions=900,
        sessions_to="stdout",
        log_level="info",
        log_format="json",
    )


@contextmanager
def told(path: Path, **pools: list[Any]) -> Iterator[Told]:
    with ExitStack() as stack:
        worker = Told(stack, path / "records", pools)
        yield worker
        worker.stop()


def was_reset(client: socket.socket) -> bool:
    """Whether the reset is there by now."""
    client.setblocking(False)
    try:
        assert client.recv(1) != b"", "FIN instead of a reset"
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    raise AssertionError("a byte that nobody sent")


def ends(clients: Sequence[socket.socket], timeout: float) -> list[tuple[float, int]]:
    """When each client was reset, and which one it was, in the order of time."""
    began = time.monotonic()
    left = dict(enumerate(clients))
    found: list[tuple[float, int]] = []

    def look() -> bool:
        for number, client in list(left.items()):
            if was_reset(client):
                found.append((time.monotonic() - began, number))
                del left[number]
        return not left

    wait_until(look, timeout, "a reset for every client")
    return found


def test_the_sessions_of_an_upstream_end_by_a_reset_on_both_sides_and_no_others(
    tmp_path: Path,
) -> None:
    with (
        echo() as one,
        echo() as two,
        told(tmp_path, web=[(one.name, APP)], db=[(two.name, OTHER)]) as worker,
    ):
        mine, others = worker.crowd(20), worker.crowd(5, "db")
        worker.channel.send(ipc.End("upstream_down", upstreams=[APP]))
        for client in mine:
            assert read_until_reset(client) == b""
        worker.wait_sessions(5)
        for client in others:
            assert exchange(client, b"well") == b"well"
        for record in worker.records(20):
            ending = {key: record[key] for key in ("why", "closed_by", "how", "phase", "upstream")}
            assert ending == {
                "why": "upstream_down",
                "closed_by": "proxy",
                "how": "reset",
                "phase": "relay",
                "upstream": f"up{APP}",
            }
        wait_until(lambda: len(one.errors) == 20, 10, "a reset for every connection upstream")
        assert worker.crowd(1), "who comes later is served: the order is over"


def test_the_sessions_of_a_listener_end_whatever_they_do(tmp_path: Path) -> None:
    with (
        echo() as one,
        blackhole() as silent,
        told(tmp_path, web=[(silent.name, APP)], db=[(one.name, OTHER)]) as worker,
    ):
        connecting = worker.connect("web")
        worker.crowd(1, "db")
        worker.wait_sessions(2)
        worker.channel.send(ipc.End("drained", listeners=[WEB]))
        assert read_until_reset(connecting) == b""
        worker.wait_sessions(1)
        [record] = worker.records(1)
        assert (record["why"], record["phase"]) == ("drained", "connect")


def test_who_is_connecting_goes_to_another_upstream(tmp_path: Path) -> None:
    with (
        blackhole() as silent,
        echo() as backup,
        told(tmp_path, web=[(silent.name, APP), (backup.name, BACKUP)]) as worker,
    ):
        client = worker.connect()
        worker.wait_sessions(1)
        worker.channel.send(ipc.End("upstream_down", upstreams=[APP]))
        assert exchange(client, b"hello") == b"hello"
        client.close()
        [record] = worker.records(1)
        assert (record["why"], record["upstream"], record["retries"]) == ("done", f"up{BACKUP}", 1)


def test_who_is_connecting_and_has_nowhere_to_go_ends(tmp_path: Path) -> None:
    with blackhole() as silent, told(tmp_path, web=[(silent.name, APP)]) as worker:
        client = worker.connect()
        worker.wait_sessions(1)
        worker.channel.send(ipc.End("removed", upstreams=[APP]))
        assert read_until_reset(client) == b""
        [record] = worker.records(1)
        assert (record["why"], record["phase"], record["how"]) == ("removed", "connect", "reset")


def test_idle_ones_end_first_the_silent_longest_before_all(tmp_path: Path, seed: int) -> None:
    with echo() as one, told(tmp_path, web=[(one.name, APP)]) as worker:
        clients = worker.crowd(40)
        order = random.Random(seed).sample(range(40), 40)
        for number in order:
            # Batches of their own: each session has its time.
            assert exchange(clients[number], b"again") == b"again"
        worker.channel.send(ipc.End("drained", upstreams=[APP], over=2.0))
        busy = order.pop(0)  # it was silent longest, and now it speaks
        assert exchange(clients[busy], b"still here") == b"still here"
        worker.wait_sessions(0)
        ended = [record["client"] for record in worker.records(40)]
        expected = [f"127.0.0.1:{clients[n].getsockname()[1]}" for n in [*order, busy]]
        assert ended == expected


@pytest.mark.alone
def test_a_paced_end_is_even_and_holds_its_deadline(tmp_path: Path) -> None:
    with echo() as one, told(tmp_path, web=[(one.name, APP)]) as worker:
        clients = worker.crowd(200)
        worker.channel.send(ipc.End("drained", upstreams=[APP], over=4.0))
        found = ends(clients, 10)
        times = [when for when, _ in found]
        quarters = [sum(q <= when < q + 1 for when in times) for q in range(4)]
        print(f"ended in each second: {quarters}, the last after {times[-1]:.3f} s")
        assert times[-1] < 4.3
        # Half a pause of jitter each way, 200 of them: far from 50, where it is not even.
        assert all(30 <= number <= 70 for number in quarters), quarters
        pauses = [round(b - a, 2) for a, b in pairwise(times)]
        assert len(set(pauses)) > 1, "jittered"


@pytest.mark.parametrize("over", [0.5, 2.0])
def test_the_only_session_ends_by_the_deadline(over: float, tmp_path: Path) -> None:
    with echo() as one, told(tmp_path, web=[(one.name, APP)]) as worker:
        clients = worker.crowd(1)
        worker.channel.send(ipc.End("drained", upstreams=[APP], over=over))
        [(when, _)] = ends(clients, 10)
        assert when < over + 0.3


def test_sessions_that_end_by_themselves_leave_the_others_more_time(tmp_path: Path) -> None:
    with echo() as one, told(tmp_path, web=[(one.name, APP)]) as worker:
        clients = worker.crowd(100)
        began = time.monotonic()
        worker.channel.send(ipc.End("drained", upstreams=[APP], over=4.0))
        for client in clients[10:]:
            client.close()
        wait_until(lambda: worker.sessions <= 10, 5, "those that ended by themselves")
        worker.wait_sessions(0)
        lasted = time.monotonic() - began
        assert 2.5 < lasted < 4.3, lasted
        whys = [record["why"] for record in worker.records(100)]
        assert whys.count("drained") <= 12


def test_who_comes_while_the_order_runs_is_ended_too(tmp_path: Path) -> None:
    with echo() as one, told(tmp_path, web=[(one.name, APP)]) as worker:
        worker.channel.send(ipc.End("drained", listeners=[WEB], over=1.0))
        [client] = worker.crowd(1)
        [(when, _)] = ends([client], 10)
        assert when < 1.3


def test_an_order_that_is_taken_back_ends_nobody_any_more(tmp_path: Path) -> None:
    with (
        echo() as one,
        echo() as two,
        told(tmp_path, web=[(one.name, APP)], db=[(two.name, OTHER)]) as worker,
    ):
        clients, others = worker.crowd(20), worker.crowd(20, "db")
        worker.channel.send(ipc.End("drained", upstreams=[APP, OTHER], over=1.5))
        wait_until(lambda: worker.sessions <= 35, 5, "the first ends")
        worker.channel.send(ipc.Spare(upstreams=[APP]))
        done = [number for _, number in ends(others, 5)]
        assert len(done) == 20
        left = [client for client in clients if not was_reset(client)]
        assert left
        for client in left:
            client.settimeout(10)
            assert exchange(client, b"spared") == b"spared"
        # Once more for the rest, and taken back whole.
        worker.channel.send(ipc.End("drained", upstreams=[APP], over=0.5))
        worker.channel.send(ipc.Spare(upstreams=[APP]))
        late = time.monotonic() + 0.8
        wait_until(lambda: time.monotonic() > late, 5, "the deadline that does not hold")
        assert worker.sessions == len(left)


def test_an_order_that_waits_does_not_spin(tmp_path: Path) -> None:
    with echo() as one, told(tmp_path, web=[(one.name, APP)]) as worker:
        worker.crowd(3)
        worker.channel.send(ipc.End("drained", upstreams=[APP], over=600))
        before = cpu_seconds(worker.pid)
        late = time.monotonic() + 1.5
        wait_until(lambda: time.monotonic() > late, 5, "a while")
        assert cpu_seconds(worker.pid) - before < 0.1
        assert worker.sessions == 3


def test_what_is_on_its_way_to_the_client_outlives_the_upstream(tmp_path: Path, seed: int) -> None:
    """The upstream was gone before it was found down: its last bytes are the client's."""
    size = 32 * 1024

    def answer_and_reset(sock: socket.socket, _upstream: Upstream) -> int:
        asked = len(sock.recv(1))  # the session relays
        sock.sendall(stream_bytes(size, seed))
        wait_until(lambda: not unsent(sock), 10, "an empty send queue")
        reset(sock)
        return asked

    with (
        serving("v4", answer_and_reset) as one,
        told(tmp_path, web=[(one.name, APP)]) as worker,
        socket.socket() as client,
    ):
        client.settimeout(10)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(worker.names["web"])
        client.sendall(b"?")
        wait_until(lambda: one.results, 10, "the reset to be sent")
        worker.channel.send(ipc.End("upstream_down", upstreams=[APP]))
        assert read_until_reset(client) == stream_bytes(size, seed)
        [record] = worker.records(1)
        assert (record["why"], record["bytes_down"]) == ("upstream_reset", size)


def test_last_bytes_on_their_way_are_what_a_drain_over_a_time_ends_last(
    tmp_path: Path, seed: int
) -> None:
    size = 32 * 1024

    def handler(sock: socket.socket, _upstream: Upstream) -> str:
        if sock.recv(1) == b"?":
            sock.sendall(stream_bytes(size, seed))
            wait_until(lambda: not unsent(sock), 10, "an empty send queue")
            reset(sock)
            return "reset"
        while sock.recv(100):
            pass
        return "end"

    with (
        serving("v4", handler) as one,
        told(tmp_path, web=[(one.name, APP)]) as worker,
        socket.socket() as client,
    ):
        client.settimeout(10)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(worker.names["web"])
        client.sendall(b"?")
        wait_until(lambda: one.results, 10, "the reset to be sent")
        others = [worker.connect() for _ in range(5)]
        worker.wait_sessions(6)
        worker.channel.send(ipc.End("drained", upstreams=[APP], over=4.0))
        worker.wait_sessions(5)
        assert read_until_reset(client) == stream_bytes(size, seed)
        assert len(ends(others, 10)) == 5
        whys = {record["why"] for record in worker.records(6)}
        assert whys == {"upstream_reset", "drained"}


def test_hundreds_end_at_once_and_the_worker_goes_on(tmp_path: Path) -> None:
    with echo() as one, told(tmp_path, web=[(one.name, APP)]) as worker:
        clients = worker.crowd(800)
        began = time.monotonic()
        worker.channel.send(ipc.End("upstream_down", upstreams=list(range(ipc.MOST_NAMED))))
        worker.wait_sessions(0)
        print(f"800 sessions ended in {(time.monotonic() - began) * 1000:.0f} ms")
        assert len(ends(clients, 10)) == 800
        assert worker.crowd(2)
