"""`limits.handshakes`, by clients that send a ClientHello and no more."""

from __future__ import annotations

import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from harness.proxy import Proxy
from harness.serving import Upstream
from harness.wait import wait_until
from session_support import board_of, exchange
from test_session_tls import HELLO, Certificates, terminating, tls_client

from spliceproxy.telemetry.board import Board, listener_handshakes


@contextmanager
def limited(
    certificates: Certificates, most: int, workers: int = 2, **listener: Any
) -> Iterator[tuple[Proxy, Upstream, Board]]:
    keys = {"limits": {"handshakes": most}, **listener}
    with (
        terminating(certificates, listener=keys, workers=workers) as (proxy, upstream),
        board_of(proxy, workers) as board,
    ):
        yield proxy, upstream, board


def half_open(proxy: Proxy, stack: ExitStack) -> socket.socket | None:
    """A client that stopped after the server's first words; None: it was refused."""
    client = stack.enter_context(proxy.connect("web"))
    with suppress(ConnectionResetError):
        client.sendall(HELLO)
        if client.recv(1):
            return client
    return None


def under_way(board: Board) -> int:
    return board.total(listener_handshakes(0))


def wait_over(board: Board) -> None:
    wait_until(lambda: under_way(board) == 0, 10, "no handshake is under way")


def test_no_more_handshakes_are_under_way_than_may_be_with_both_workers_together(
    tmp_path: Path,
) -> None:
    certificates = Certificates(tmp_path)
    with limited(certificates, 4) as (proxy, upstream, board):
        for _ in range(3):
            with ExitStack() as stack:
                clients = [half_open(proxy, stack) for _ in range(12)]
                assert sum(client is not None for client in clients) == 4
                assert under_way(board) == 4
            wait_over(board)
        assert upstream.accepted == 0
        records = proxy.wait_records(36)
        assert {record["worker"] for record in records} == {0, 1}
        refused = [record for record in records if record["why"] == "handshake_limit"]
        assert len(refused) == 24
        assert {(r["phase"], r["how"], r["pool"], r["upstream"]) for r in refused} == {
            ("tls", "reset", None, None)
        }


def test_sessions_whose_handshake_is_done_count_no_more(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    with limited(certificates, 1) as (proxy, _, board), ExitStack() as stack:
        for _ in range(10):
            client = stack.enter_context(tls_client(proxy, certificates.context()))
            assert exchange(client, b"hello") == b"hello"
            assert under_way(board) == 0


@pytest.mark.parametrize("how", ["nonsense", "reset", "timeout"])
def test_a_handshake_that_fails_gives_its_place_back(how: str, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    timeouts = {"timeouts": {"handshake": "300ms"}} if how == "timeout" else {}
    with limited(certificates, 1, **timeouts) as (proxy, _, board), ExitStack() as stack:
        for _ in range(3):
            client = half_open(proxy, stack)
            assert client is not None
            if how == "nonsense":
                client.sendall(b"nonsense" * 4)
                while client.recv(65536):
                    pass
            elif how == "reset":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.close()
            wait_over(board)
        whys = Counter(record["why"] for record in proxy.wait_records(3))
    assert whys == {"client_reset" if how == "reset" else "tls_handshake": 3}


def test_a_killed_worker_s_handshakes_count_no_more(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    with limited(certificates, 40) as (proxy, _, board), ExitStack() as stack:
        for _ in range(40):
            assert half_open(proxy, stack)
        own = [region[listener_handshakes(0)] for region in board.regions]
        assert sum(own) == 40
        assert all(own)
        [victim] = [e["pid"] for e in proxy.log("worker started") if e["worker"] == 0]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(proxy.log("worker started")) == 3, 10, "a new worker")
        assert under_way(board) == own[1]
        let_in = [half_open(proxy, stack) is not None for _ in range(own[0] + 10)]
        assert let_in.count(True) == own[0]
        stack.close()
        wait_over(board)


def test_handshakes_end_where_they_began_over_reloads_that_change_the_limit(
    tmp_path: Path,
) -> None:
    certificates = Certificates(tmp_path)
    with limited(certificates, 3) as (proxy, _, board), ExitStack() as stack:
        assert all(half_open(proxy, stack) for _ in range(3))
        for before, after, more in (("3", "5", 2), ("5", "2", 0)):
            text = proxy.config.read_text()
            proxy.config.write_text(
                text.replace(f'{{"handshakes": {before}}}', f'{{"handshakes": {after}}}')
            )
            number = len(proxy.log("reloaded"))
            proxy.signal(signal.SIGHUP)
            said = wait_until(lambda n=number: proxy.log("reloaded")[n:], 10, "the reload")
            assert said[0]["changes"] == [f"~ listener web: limits.handshakes {before} → {after}"]
            let_in = [half_open(proxy, stack) is not None for _ in range(4)]
            assert let_in.count(True) == more
        stack.close()
        wait_over(board)
        assert half_open(proxy, stack)
