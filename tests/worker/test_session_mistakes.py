"""A mistake in the handling of one session costs that session, and no other one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO

import pytest
from harness import upstreams
from harness.fds import same_fds
from harness.serving import Upstream
from harness.wait import wait_until
from session_support import Record, check_record, exchange, read_until_reset

from spliceproxy import ipc
from spliceproxy.ipc.sealed import seal
from spliceproxy.telemetry.board import SESSIONS, Board

WORKER = Path(__file__).with_name("failing_worker.py")
POOLS = ("well", "mistake", "mistake in a timer", "mistake in a trial")


class LoneWorker:
    """A worker with a listening socket for each pool, and no supervisor but the test."""

    def __init__(self, process: subprocess.Popen[bytes], board: Board, output: IO[bytes]) -> None:
        self.process = process
        self.names: dict[str, tuple[str, int]] = {}
        self._board = board
        self._output = output

    def connect(self, pool: str) -> socket.socket:
        return socket.create_connection(self.names[pool], 10)

    @property
    def sessions(self) -> int:
        return self._board.regions[0][SESSIONS]

    def lines(self, number: int, key: str) -> list[Record]:
        """Lines of its output that have `key`, once there are so many of them."""

        def found() -> list[Record]:
            os.lseek(self._output.fileno(), 0, os.SEEK_SET)
            lines = [json.loads(line) for line in self._output.read().splitlines()]
            lines = [line for line in lines if key in line]
            return lines if len(lines) >= number else []

        return wait_until(found, 5, f"{number} lines with {key}")


def plan(upstream: Upstream) -> ipc.Snapshot:
    """One pool and one listener for each kind of mistake."""
    target = ipc.UpstreamPlan(upstream.address, socket.AF_INET, upstream.name)
    pools = [
        ipc.PoolPlan(
            name=name,
            balance="round_robin",
            upstreams=(target,),
            retries=2,
            connect_timeout=5.0,
            idle_timeout=0.2 if "timer" in name else 60.0,
            half_close_timeout=60.0,
            session_timeout=None,
            tcp=ipc.TcpPlan(),
            replay=1000 if "trial" in name else None,
        )
        for name in POOLS
    ]
    return ipc.Snapshot(
        listeners=tuple(
            ipc.ListenerPlan(name, slot, name, max_sessions=None, keep="all", sample=1.0)
            for slot, name in enumerate(POOLS)
        ),
        pools=tuple(pools),
        relay=ipc.RelayPlan("adaptive", 1024 * 1024, 8, None),
        max_sessions=None,
        worker_sessions=1000,
        sessions_to="stdout",
        log_level="info",
        log_format="json",
    )


@contextmanager
def lone_worker(upstream: Upstream, directory: Path) -> Iterator[LoneWorker]:
    with ExitStack() as stack:
        channel, there = ipc.Channel.pair()
        stack.callback(channel.close)
        board = Board.create(1)
        stack.callback(os.close, board)
        output = stack.enter_context((directory / "output").open("w+b", buffering=0))
        with there:
            process = subprocess.Popen(
                [sys.executable, str(WORKER), str(there.fileno()), str(board), "0"],
                pass_fds=(there.fileno(), board),
                stdout=output,
                stderr=output,
            )
        stack.callback(process.wait, 10)
        stack.callback(process.kill)
        worker = LoneWorker(process, Board(board, 1), output)
        snapshot = seal(plan(upstream))
        channel.send(ipc.Configure(0), snapshot)
        os.close(snapshot)
        for number, name in enumerate(POOLS):
            with socket.create_server(("127.0.0.1", 0)) as listening:
                worker.names[name] = listening.getsockname()
                channel.send(ipc.Serve(number, name, shared=False), listening.fileno())
        yield worker
        assert process.poll() is None, "the worker lives"
        channel.send(ipc.Stop(0))
        assert process.wait(10) == 0


def suppress_reset(early: bool) -> AbstractContextManager[None]:
    """A session that ends in its connect phase may be reset before the client's connect returns."""
    return suppress(ConnectionResetError) if early else nullcontext()


@pytest.mark.parametrize(
    ("listener", "first", "words", "phase"),
    [
        ("well", b"", b"mistake in a handler", "relay"),  # may be found while connecting
        ("well", b"first", b"mistake in a handler", "relay"),
        ("mistake", b"", b"", "connect"),
        ("mistake in a timer", b"", b"hello", "relay"),
        ("mistake in a trial", b"", b"mistake in a trial", "relay"),
    ],
)
def test_a_mistake_costs_the_session_in_which_it_is_made(
    listener: str, first: bytes, words: bytes, phase: str, tmp_path: Path
) -> None:
    with upstreams.echo() as echo, lone_worker(echo, tmp_path) as worker:
        with worker.connect("well") as other:
            assert exchange(other, b"before") == b"before"
            with same_fds(worker.process.pid):
                with suppress_reset(phase == "connect"), worker.connect(listener) as client:
                    assert exchange(client, first) == first
                    client.sendall(words)
                    assert read_until_reset(client) in (b"", words)
                [record] = worker.lines(1, "why")
                wait_until(lambda: worker.sessions == 1, 5, "the other session alone")
            assert exchange(other, b"after") == b"after"
            with worker.connect("well") as new:
                assert exchange(new, b"new") == b"new"
        [told] = [line for line in worker.lines(1, "event") if line["level"] == "error"]
    check_record(
        record,
        listener=listener,
        pool=listener,
        upstream=echo.address if phase == "relay" else None,
        bytes_up=len(first + words),
        bytes_down=record["bytes_down"],
        phase=phase,
        closed_by="proxy",
        how="reset",
        why="internal_error",
    )
    assert told["event"] == "session ended by a mistake of the proxy"
    assert "Mistake" in told["exception"]
