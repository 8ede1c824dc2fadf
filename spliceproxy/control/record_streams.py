"""Session records live: each watcher has a socket pair with each worker, and reads what comes.

There is one more with all workers of the processes before this one, who may have sessions since an
upgrade: they share its far end.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog

from spliceproxy.control.fleet import Fleet
from spliceproxy.control.older import PATIENCE, Older, OlderAnswer
from spliceproxy.control.worker_process import WorkerProcess
from spliceproxy.ipc import OwnedFd, Watch
from spliceproxy.ipc.queries import SessionFilter, SessionQuery, decode_told

_log = structlog.get_logger()

WAITING: Final = 2000
"""Records that may wait for a watcher who is slow; further ones are lost, and counted."""
_MOST: Final = 64 * 1024
"""Bytes of one record, at the most."""
_READS: Final = 200
"""Records that are read in one turn."""
_RETRY: Final = 0.5
"""Seconds until they are told again of one of whom they could not be told."""


class RecordStreams:
    """Opens streams, also with workers that start later."""

    def __init__(self, fleet: Fleet, older: Older) -> None:
        self._fleet = fleet
        self._older = older
        self._open: set[RecordStream] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        fleet.on_ready.append(self._on_ready)

    def open(self, keep: str, where: SessionFilter) -> RecordStream:
        """A stream of the records that `where` means: all of them, or those of errors (`keep`).

        Raises OSError where there are no fds left.
        """
        stream = RecordStream(keep, where, self._open.discard)
        self._open.add(stream)
        try:
            for worker in self._fleet.workers():
                if worker.ready:
                    stream.watch(worker)
            if self._older.answering:
                self._watch_older(stream)
        except OSError:
            stream.close()
            raise
        return stream

    def _watch_older(self, stream: RecordStream) -> None:
        task = asyncio.create_task(self._tell_older(stream, stream.far_end()))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell_older(self, stream: RecordStream, far_end: OwnedFd) -> None:
        """Until the nearest of them has been told: it may owe an answer to somebody else. One that
        was told answers late, or never; the socket it has all the same."""
        while stream in self._open and self._older.answering:
            answer = await self.pass_on(stream.message, far_end, PATIENCE)
            if answer.asked:
                if answer.silent:
                    _log.warning(
                        "records of sessions from before an upgrade may not be told to whoever "
                        "follows them",
                        processes=answer.silent,
                    )
                return
            await asyncio.sleep(_RETRY)

    async def pass_on(self, watch: Watch, far_end: OwnedFd, patience: float) -> OlderAnswer:
        """Have the processes before this one tell a watcher; who could not be told of him."""
        return await self._older.ask("watch", watch.where, patience, far_end, keep=watch.keep)

    async def join(self, watch: Watch, far_end: OwnedFd, patience: float) -> OlderAnswer:
        """Have the workers tell a watcher of the process that replaced this one, and pass it on."""
        for worker in self._fleet.workers():
            if worker.ready:
                worker.send(watch, far_end)
        return await self.pass_on(watch, far_end, patience)

    def _on_ready(self, worker: WorkerProcess) -> None:
        for stream in tuple(self._open):
            try:
                stream.watch(worker)
            except OSError as error:  # whoever watches asks again, and is told what is wrong
                _log.warning("a stream of records ends", error=error.strerror)
                stream.close()

    def close(self) -> None:
        """End all streams."""
        for task in self._tasks:
            task.cancel()
        for stream in tuple(self._open):
            stream.close()


class RecordStream:
    """What one watcher is told: an asynchronous iterator of records, each a line of JSON, and of
    numbers: so many were lost."""

    def __init__(
        self, keep: str, where: SessionFilter, on_close: Callable[[RecordStream], None]
    ) -> None:
        self.message = Watch(keep, SessionQuery(where=where).encode())
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._socks: set[socket.socket] = set()
        self._waiting: deque[bytes] = deque()
        self._lost = 0
        self._news = asyncio.Event()
        self._closed = False

    def watch(self, worker: WorkerProcess) -> None:
        """Hear of this worker's sessions too. Raises OSError."""
        worker.send(self.message, self.far_end())

    def far_end(self) -> OwnedFd:
        """That of a new pair, from which this stream hears. Raises OSError."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        here.setblocking(False)
        self._socks.add(here)
        self._loop.add_reader(here.fileno(), self._read, here)
        return OwnedFd(there.detach())

    def _read(self, sock: socket.socket) -> None:
        for _ in range(_READS):
            try:
                data = sock.recv(_MOST)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:  # the worker is gone, or was never told
                self._forget(sock)
                break
            self._take(decode_told(data))
        self._news.set()

    def _take(self, told: bytes | int) -> None:
        if isinstance(told, int):
            self._lost += told
        elif len(self._waiting) < WAITING:
            self._waiting.append(told)
        else:
            self._lost += 1

    def _forget(self, sock: socket.socket) -> None:
        self._loop.remove_reader(sock.fileno())
        self._socks.discard(sock)
        sock.close()

    def __aiter__(self) -> RecordStream:
        return self

    async def __anext__(self) -> bytes | int:
        """The next record, or how many were lost since that was last told; ends after `close`."""
        while not self._closed:
            if self._waiting:
                return self._waiting.popleft()
            if self._lost:
                lost, self._lost = self._lost, 0
                return lost
            self._news.clear()
            await self._news.wait()
        raise StopAsyncIteration

    def close(self) -> None:
        """Hear no more. A second call does nothing."""
        self._closed = True
        for sock in tuple(self._socks):
            self._forget(sock)
        self._news.set()
        self._on_close(self)
