"""telemetry/board.py: one shared memory, seen by several processes."""

from __future__ import annotations

import os
import subprocess
import sys

from spliceproxy.telemetry.board import (
    HEARTBEAT,
    MAX_LISTENERS,
    SESSIONS,
    SLOTS,
    Board,
    listener_sessions,
)

WRITER = """
import sys
from spliceproxy.telemetry.board import Board, SESSIONS, listener_sessions
board = Board(int(sys.argv[1]), 2)
board.regions[1][SESSIONS] = 7
board.regions[1][listener_sessions(3)] = 2**63 + 1
"""


def test_another_process_writes_what_this_one_reads() -> None:
    fd = Board.create(2)
    board = Board(fd, 2)
    board.regions[0][SESSIONS] = 5
    subprocess.run([sys.executable, "-c", WRITER, str(fd)], pass_fds=[fd], check=True)
    os.close(fd)
    assert board.total(SESSIONS) == 12
    assert board.regions[1][listener_sessions(3)] == 2**63 + 1
    assert board.regions[0][listener_sessions(3)] == 0


def test_slots_of_the_worker_and_of_listeners_never_meet() -> None:
    own = {HEARTBEAT, SESSIONS}
    listeners = {listener_sessions(slot) for slot in range(MAX_LISTENERS)}
    assert len(own) == 2
    assert len(listeners) == MAX_LISTENERS
    assert not own & listeners
    assert max(listeners) == SLOTS - 1


def test_a_dead_worker_s_gauges_are_cleared_and_all_else_stays() -> None:
    fd = Board.create(2)
    board = Board(fd, 2)
    os.close(fd)
    for region in board.regions:
        for slot in range(SLOTS):
            region[slot] = 9
    board.clear_gauges(0)
    dead, sibling = board.regions
    assert (dead[SESSIONS], dead[listener_sessions(0)]) == (0, 0)
    assert dead[listener_sessions(MAX_LISTENERS - 1)] == 0
    assert dead[HEARTBEAT] == 9
    assert set(sibling) == {9}
