"""telemetry/board.py: one shared memory, seen by several processes."""

from __future__ import annotations

import os
import subprocess
import sys

from spliceproxy.telemetry.board import (
    DOWN,
    DRAINING,
    HEARTBEAT,
    MAX_LISTENERS,
    MAX_UPSTREAMS,
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


SEES = """
import sys
from spliceproxy.telemetry.board import Board
upstreams = Board(int(sys.argv[1]), 2).upstreams
upstreams.sessions[1][65535] = 4
print(upstreams.version, upstreams.state(0), upstreams.state(65535), upstreams.live(7))
"""


def test_states_and_sessions_of_upstreams_are_seen_by_all() -> None:
    fd = Board.create(2)
    assert Board.workers_of(fd) == 2
    board = Board(fd, 2)
    upstreams = board.upstreams
    upstreams.set_state(0, DOWN)
    upstreams.set_state(MAX_UPSTREAMS - 1, DOWN | DRAINING)
    upstreams.set_state(0, DOWN)  # no change, and no new version
    upstreams.sessions[0][7] = 2
    upstreams.sessions[1][7] = 3
    command = [sys.executable, "-c", SEES, str(fd)]
    said = subprocess.run(command, pass_fds=[fd], check=True, capture_output=True, text=True)
    os.close(fd)
    assert said.stdout == "2 1 5 5\n"
    assert upstreams.live(MAX_UPSTREAMS - 1) == 4
    board.clear_gauges(1)
    assert upstreams.live(MAX_UPSTREAMS - 1) == 0
    assert upstreams.live(7) == 2
    assert upstreams.state(0) == DOWN
    assert not any(map(any, board.regions))


def test_those_who_wait_are_counted_by_worker_and_go_with_him() -> None:
    fd = Board.create(2)
    board = Board(fd, 2)
    os.close(fd)
    upstreams = board.upstreams
    upstreams.waiting[0][5] = 3
    upstreams.waiting[1][5] = 4
    upstreams.sessions[1][5] = 1
    assert (upstreams.queued(5), upstreams.queued(4), upstreams.live(5)) == (7, 0, 1)
    board.clear_gauges(0)
    assert (upstreams.queued(5), upstreams.live(5)) == (4, 1)


def test_planes_of_a_listener_are_shared_apart_and_cleared_with_their_worker() -> None:
    fd = Board.create(3)
    try:
        one, other = Board(fd, 3), Board(fd, 3)
        last = MAX_LISTENERS - 1
        for slot in (0, 5, last):
            for number, plane in enumerate(one.planes.of(slot)):
                plane[0] = plane[-1] = 10 + number
        for slot in (0, 5, last):
            assert [plane[0] for plane in other.planes.of(slot)] == [10, 11, 12]
        assert not any(plane[0] or plane[-1] for plane in other.planes.of(4))
        held = other.planes.of(5)  # as siblings of the dead hold them
        one.regions[0][SESSIONS] = 3
        one.clear_gauges(1)
        assert [plane[-1] for plane in held] == [10, 0, 12]
        assert [plane[0] for plane in other.planes.of(last)] == [10, 0, 12]
        assert other.key == one.key != bytes(16)
        assert other.regions[0][SESSIONS] == 3
    finally:
        os.close(fd)


def test_boards_have_keys_of_their_own_and_take_no_memory_for_planes() -> None:
    fds = [Board.create(2), Board.create(2)]
    try:
        boards = [Board(fd, 2) for fd in fds]
        assert boards[0].key != boards[1].key
        boards[0].clear_gauges(0)
        assert os.fstat(fds[0]).st_blocks * 512 < 4 * 1024 * 1024
    finally:
        for fd in fds:
            os.close(fd)
