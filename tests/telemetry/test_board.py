"""telemetry/board.py: one shared memory, seen by several processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from spliceproxy.telemetry.board import (
    DOWN,
    DRAINING,
    HEARTBEAT,
    MAX_LISTENERS,
    MAX_UPSTREAMS,
    SESSIONS,
    SLOTS,
    Board,
    listener_arrivals,
    listener_handshakes,
    listener_sessions,
)
from spliceproxy.telemetry.planes import bytes_per_listener

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
    kinds = (
        listener_sessions,
        listener_handshakes,
        listener_arrivals,
    )
    slots = [HEARTBEAT, SESSIONS]
    slots += [kind(slot) for kind in kinds for slot in range(MAX_LISTENERS)]
    assert len(set(slots)) == 2 + 3 * MAX_LISTENERS
    assert max(slots) == SLOTS - 1


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
    assert dead[listener_handshakes(0)] == dead[listener_arrivals(MAX_LISTENERS - 1)] == 0
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


@pytest.mark.parametrize("workers", [1, 3, 9])
def test_planes_are_shared_apart_and_cleared_with_their_worker(workers: int) -> None:
    fd = Board.create(workers)
    try:
        one, other = Board(fd, workers), Board(fd, workers)
        one.planes.make_room(3)
        assert one.planes.number == other.planes.number == 3
        for number in range(3):
            for worker, plane in enumerate(one.planes.of(number)):
                plane[0] = plane[-1] = 10 + worker
        everybody = list(range(10, 10 + workers))
        for number in range(3):
            assert [plane[0] for plane in other.planes.of(number)] == everybody
            assert [plane[-1] for plane in other.planes.of(number)] == everybody
        held = other.planes.of(1)  # as siblings of the dead hold them
        one.regions[0][SESSIONS] = 3
        one.clear_gauges(workers - 1)
        everybody[-1] = 0
        assert [plane[-1] for plane in held] == everybody
        assert [plane[0] for plane in other.planes.of(2)] == everybody
        assert other.regions[0][SESSIONS] == (3 if workers > 1 else 0)
    finally:
        os.close(fd)


def test_a_board_grows_by_planes_and_never_shrinks_while_others_have_it() -> None:
    fd = Board.create(2)
    try:
        size = os.fstat(fd).st_size
        one, other = Board(fd, 2), Board(fd, 2)
        assert size < 128 << 20
        one.regions[1][SESSIONS] = 7
        one.planes.make_room(1)
        [plane, _] = other.planes.of(0)
        one.planes.make_room(5)
        plane[3] = 9
        one.planes.make_room(2)
        assert os.fstat(fd).st_size == size + 5 * bytes_per_listener(2)
        assert one.planes.of(0)[0][3] == 9
        assert (other.regions[1][SESSIONS], Board.workers_of(fd)) == (7, 2)
        assert os.fstat(fd).st_blocks * 512 < 4 << 20  # what nobody touched takes no room
    finally:
        os.close(fd)


def test_boards_have_keys_of_their_own_that_all_who_share_one_know() -> None:
    fds = [Board.create(2), Board.create(2)]
    try:
        keys = [Board(fd, 2).key for fd in fds]
        assert keys[0] == Board(fds[0], 2).key != keys[1]
        assert len(keys[0]) >= 16
    finally:
        for fd in fds:
            os.close(fd)
