"""A supervisor that may open no more files: what a worker says is lost, and no worker is."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from harness.fds import open_fds, same_fds
from structlog.testing import capture_logs

from spliceproxy import ipc
from spliceproxy.control.worker_process import WorkerProcess
from spliceproxy.errors import LostFdError
from spliceproxy.ipc.sealed import memfd_of

ANSWERING = Path(__file__).with_name("answering_worker.py")


@contextmanager
def no_more_fds() -> Iterator[None]:
    """Every fd that this process may have is open, until the end of the block."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        limit = max(open_fds()) + 1
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
        with suppress(OSError):
            while True:
                stack.callback(os.close, os.dup(0))
        yield


def test_a_message_whose_fd_found_no_room_is_told_from_nonsense() -> None:
    with ExitStack() as stack:
        channel, there = ipc.Channel.pair()
        other = ipc.Channel(there)
        stack.callback(channel.close)
        stack.callback(other.close)
        channel.send(ipc.Found(1, 10), memfd_of(b"lost"))
        channel.send(ipc.Retired(7))
        with no_more_fds():
            with pytest.raises(LostFdError, match="Found"):
                other.receive()
            assert other.receive() == (ipc.Retired(7), [])


def test_a_worker_whose_answer_is_lost_lives_on_and_is_heard() -> None:
    async def check() -> None:
        told: asyncio.Queue[ipc.Message] = asyncio.Queue()
        board = memfd_of(b"")
        worker = WorkerProcess(
            0,
            [sys.executable, str(ANSWERING)],
            board.fileno(),
            lambda _worker, message, _fds: told.put_nowait(message),
            lambda _worker, code: told.put_nowait(ipc.Warned(f"it ended: {code}")),
        )
        try:
            assert isinstance(await told.get(), ipc.Ready)
            with no_more_fds():
                worker.send(ipc.Find(1, ""))
                assert await told.get() == ipc.Retired(1)
            worker.send(ipc.Find(2, ""))
            assert await told.get() == ipc.Found(2, 10)
            assert await told.get() == ipc.Retired(2)
            assert not worker.killed_for
        finally:
            worker.destroy()

    with capture_logs() as lines, same_fds():
        asyncio.run(asyncio.wait_for(check(), 60))
    assert [(line["event"], line["worker"]) for line in lines] == [
        ("a worker's answer was lost: too many open files", 0)
    ]
