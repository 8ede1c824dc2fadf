"""A worker process: `python -m spliceproxy.worker CHANNEL_FD BOARD_FD INDEX`.

Started by the supervisor, with the two fds inherited; of no use to anybody else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

import structlog

from spliceproxy.errors import EXIT_FAILED
from spliceproxy.ipc import Channel
from spliceproxy.telemetry import log
from spliceproxy.telemetry.board import Board
from spliceproxy.worker.worker import Worker


def main(arguments: list[str]) -> int:
    """Run one worker to its end; returns the exit code."""
    channel_fd, board_fd, index = map(int, arguments)
    log.set_up("info", "auto")  # until the configuration says more
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
        # A terminal and systemd signal the whole group: the supervisor alone decides what it means.
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(f"spliceproxy/{index}")
    channel = Channel(socket.socket(fileno=channel_fd))
    board = Board(board_fd, Board.workers_of(board_fd))
    os.close(board_fd)
    try:
        return Worker(channel, board, index).run()
    except Exception as error:
        structlog.get_logger().error("worker ends by a mistake", worker=index, exc_info=error)
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
