"""Counts go on over an upgrade: those of the processes before, and of the sessions they have."""

from __future__ import annotations

import mmap
import os
import socket
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from harness.door import ask
from harness.generations import Generations, generations
from harness.proxy import connect
from harness.upstreams import echo
from harness.wait import wait_until
from structlog.testing import capture_logs

from spliceproxy.control.heritage import Heritage
from spliceproxy.telemetry.board import Board
from spliceproxy.telemetry.counters import ACTIVE, COPIED_UP, CellKey, Region
from spliceproxy.telemetry.ledger import Ledger

CONFIG = """\
listeners:
  web: {{bind: "127.0.0.1:0", pool: app}}
pools:
  app: {{upstreams: ["{upstream}"]}}
"""
DONE = ("client", "fin", "done")
KEY = CellKey("web", "", "app", "10.0.0.1:80")


def talk(client: socket.socket, size: int) -> None:
    """So many bytes there and back."""
    client.sendall(bytes(size))
    left = size
    while left:
        left -= len(client.recv(left))


def told(proxy: Generations) -> tuple[int, int, int]:
    """Sessions that ended, and bytes up and down, as the process that serves tells."""
    total = ask(proxy.door, "GET", "/api/v1/traffic").json["total"]
    return total["ended"], total["bytes_up"], total["bytes_down"]


def test_counts_go_on_over_upgrades_with_the_sessions_that_older_processes_have(
    tmp_path: Path,
) -> None:
    with echo() as upstream:
        text = CONFIG.format(upstream=upstream.address)
        with generations(text, tmp_path, workers=2) as proxy:
            web = proxy.proxy.address("web")
            ended = moved = 0
            long: list[socket.socket] = []
            for generation in range(3):
                with closing(connect(web)) as client:
                    talk(client, 1000)
                ended, moved = ended + 1, moved + 1000
                long.append(connect(web))
                talk(long[-1], 10)
                moved += 10
                expected = ended, moved, moved
                wait_until(lambda e=expected: told(proxy) == e, 10, f"{expected} {generation}")
                proxy.upgrade()
                assert told(proxy) == expected
            # Of all generations: each session is with another process.
            for client in long:
                talk(client, 50_000)
                client.close()
            ended, moved = ended + 3, moved + 150_000
            wait_until(lambda: told(proxy) == (ended, moved, moved), 10, "the last bytes")
            proxy.wait_alone()
            assert told(proxy) == (ended, moved, moved)
            # What is over is taken over by the next ones.
            for _ in range(2):
                proxy.upgrade()
                proxy.wait_alone()
                assert told(proxy) == (ended, moved, moved)
            records = proxy.proxy.wait_records(ended)
            total = ask(proxy.door, "GET", "/api/v1/traffic").json["total"]
            assert total["sessions"] == 0
    assert sum(record["bytes_up"] for record in records) == moved
    assert len(records) == ended


def board_of(workers: int) -> tuple[int, Board]:
    fd = Board.create(workers)
    return fd, Board(fd, workers)


def count(region: memoryview, number: int) -> None:
    """So many bytes of as many sessions that ended, and one that lives."""
    one = Region(region)
    at = one.cell(*KEY).at
    one.slots[at + COPIED_UP] += number
    one.slots[at + one.end(*DONE)] += number
    one.slots[at + ACTIVE] += 1


def seen(board: Board, heritage: Heritage) -> tuple[int, int, int]:
    counts = Ledger(board.counters, [board.history, *heritage.regions])
    counts.update()
    return counts.total[COPIED_UP], counts.total.ended, counts.total[ACTIVE]


def test_what_is_over_is_absorbed_and_what_is_not_is_read_on() -> None:
    fds = []
    old_fd, old = board_of(2)
    count(old.counters[1], 5)
    older_fd, older = board_of(1)
    count(older.counters[0], 7)
    count(older.history, 11)
    fd, board = board_of(3)
    fds += [old_fd, older_fd, fd]
    count(board.counters[2], 100)
    first = Heritage([], old)
    [left] = first.leave(os.dup(old_fd), 2, over=True)
    assert not left.over, "who leaves it may write it still"
    gone = replace(Heritage([], older).leave(os.dup(older_fd), 1, over=True)[0], over=True)
    heritage = Heritage([left, gone], board)
    assert len(heritage.regions) == 3
    assert seen(board, heritage) == (123, 123, 1), "the live one is ours; theirs is not"
    count(old.counters[0], 1000)
    count(older.counters[0], 1000)  # nobody looks there any more
    assert seen(board, heritage) == (1123, 1123, 1)
    own, inherited = heritage.leave(fd, 3, over=True)
    assert (own.fd, own.regions, own.over) == (fd, 4, False)
    assert (inherited.fd, inherited.over) == (left.fd, True)
    heritage.close()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(left.fd)
    assert seen(board, heritage) == (1123, 1123, 1), "what was mapped stays"
    for one in fds:
        os.close(one)


def test_counts_that_were_laid_out_in_another_way_begin_anew() -> None:
    old_fd, _old = board_of(1)
    fd, board = board_of(1)
    left = Heritage([], _old).leave(old_fd, 1, over=False)
    with capture_logs() as lines:
        heritage = Heritage([replace(left[0], layout=(0, 1))], board)
    assert [line["event"] for line in lines] == [
        "counts begin anew: the program before this one counted otherwise"
    ]
    assert heritage.regions == []
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(old_fd)
    os.close(fd)


def test_regions_begin_where_pages_do() -> None:
    for workers in (1, 2, 3, 8):
        assert Board.counters_start(workers) % mmap.PAGESIZE == 0
