"""Session records on their way out, without ever holding up the loop that produces them.

`write()` renders a record into a chunk in memory; a daemon thread writes the chunks with plain
blocking calls. Standard output is never made non-blocking: that flag belongs to the open file
description, which is shared with the shell and with every other worker.

Several workers write to one standard output, or to one file. A pipe takes a write of up to
PIPE_BUF bytes as a whole (pipe(7)), and so a chunk for anything but a regular file is whole lines
of at most that many bytes; one longer line goes alone. A regular file is opened to append, and
takes each write as a whole (write(2) locks the inode), whatever its size.

The thread shares the interpreter with the loop, so it does nothing per record: one os.write per
chunk. At most `MAX_WAITING` bytes wait; what comes then is dropped and counted, and so is what the
other side refuses (EPIPE, ENOSPC). Nothing is retried, so nothing spins, and the next batch tries
again.
"""

from __future__ import annotations

import os
import select
import stat
import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue

from spliceproxy.errors import SpliceproxyError
from spliceproxy.telemetry.record import render, render_console

MAX_WAITING = 8 * 1024 * 1024
"""Bytes of records that may wait for a slow reader or disk."""
BATCH = 64 * 1024
"""Bytes after which a batch goes to the thread without waiting for `flush()`."""
PIPE_BUF = select.PIPE_BUF
TOO_SLOW = "whoever reads them is too slow"

_Chunk = tuple[bytearray, int]
"""Whole lines, and how many records they are."""


class RecordWriter:
    """Writes records to standard output or to a file; bounded, and never blocks its caller.

    Invariant: written + failed + refused + waiting = the records that `write()` was given. Each
    of these counters has one writing thread.
    """

    def __init__(
        self,
        to: str,
        *,
        console: bool = False,
        colour: bool = True,
        stdout: int = 1,
        patient: bool = False,
        mends: bool = False,
        on_written: Callable[[int], None] = lambda _records: None,
    ) -> None:
        """`to` is `stdout` (the fd `stdout`, which stays the caller's) or `file:/path`.

        `console` writes lines for a person instead of JSON, in `colour` or not. Raises
        SpliceproxyError where the file cannot be opened; a `patient` writer drops and counts
        records instead, and tries with each batch whether the file can be had by now. One that
        `mends` ends the half line that a killed worker left, before it writes its own.
        `on_written` is told how many records were written, by the writer's own thread.
        """
        self._on_written = on_written
        self._path = to.removeprefix("file:") if to.startswith("file:") else None
        self._console = console
        self._colour = colour
        self._mends = mends
        self.trouble = ""
        """Why records were lost the last time."""
        self._fd = stdout if self._path is None else self._open_first(self._path, patient)
        self._limit = _chunk_limit(self._fd)

        self._chunk = bytearray()
        self._chunk_records = 0
        self._batch: list[_Chunk] = []
        self._batch_bytes = 0
        self._queue: SimpleQueue[list[_Chunk] | None] = SimpleQueue()
        """To the thread: batches; an empty one asks to open the file anew, None to end."""
        self._closed = False
        self._abandoned = False

        self._taken_bytes = 0  # by the loop
        self._taken = 0
        self._refused = 0
        self._reported = 0
        self._done_bytes = 0  # by the thread
        self._written = 0
        self._failed = 0
        self._broken_line = False

        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self._thread.start()

    def write(self, record: Mapping[str, object]) -> None:
        """Take one record; it is dropped and counted where too much waits already."""
        line = render_console(record, self._colour) if self._console else render(record)
        size = len(line)
        if self._closed or self._taken_bytes - self._done_bytes + size > MAX_WAITING:
            self._refused += 1
            self.trouble = TOO_SLOW
            return
        if len(self._chunk) + size > self._limit and self._chunk:
            self._seal()
        self._chunk += line
        self._chunk_records += 1
        self._taken += 1
        self._taken_bytes += size
        self._batch_bytes += size
        if self._batch_bytes >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Hand what has gathered to the thread. Call it about 100 ms after `gathering` is true."""
        if self._batch_bytes:
            self._seal()
            self._queue.put(self._batch)
            self._batch = []
            self._batch_bytes = 0

    @property
    def gathering(self) -> bool:
        """Whether records wait for a `flush()`; where none do, no timer is needed."""
        return self._batch_bytes > 0

    @property
    def dropped(self) -> int:
        """Records that were lost, since the writer began."""
        return self._refused + self._failed

    def take_dropped(self) -> int:
        """Records lost since the last call: for a log line, at most once a second."""
        dropped = self.dropped
        news = dropped - self._reported
        self._reported = dropped
        return news

    def reopen(self) -> None:
        """Open the file anew (it was rotated): what is written from now on goes to the new one.

        The thread opens it, as a slow disk makes open(2) wait too. Where that fails, the old file
        stays in use. On standard output this does nothing.
        """
        if self._path is not None and not self._closed:
            self.flush()
            self._queue.put([])

    def close(self, timeout: float) -> None:
        """Write what waits, for at most `timeout` seconds; the rest is lost, and counted."""
        if self._closed:
            return
        self.flush()
        self._closed = True
        self._queue.put(None)
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._abandoned = True
            self.trouble = TOO_SLOW
            self._refused += self._taken - self._written - self._failed
        elif self._path is not None and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _seal(self) -> None:
        self._batch.append((self._chunk, self._chunk_records))
        self._chunk = bytearray()
        self._chunk_records = 0

    def _run(self) -> None:
        while (batch := self._queue.get()) is not None:
            if not batch:
                self._open_anew()
            refused = False
            for chunk, records in batch:
                if self._abandoned:
                    return
                written = 0 if refused else self._write_chunk(chunk)
                if written == len(chunk):
                    self._written += records
                    self._on_written(records)
                else:
                    refused = True
                    whole = chunk.count(b"\n", 0, written)
                    self._written += whole
                    self._on_written(whole)
                    self._failed += records - whole
                self._done_bytes += len(chunk)

    def _write_chunk(self, chunk: bytearray) -> int:
        """Write whole lines, and return how many of their bytes were taken before an error."""
        if self._fd < 0:
            self._open_anew()
            if self._fd < 0:
                return 0
        if self._broken_line or (self._mends and _ends_in_half_a_line(self._fd)):
            if not self._write_bytes(b"\n"):
                return 0
            self._broken_line = False
        written = self._write_bytes(chunk)
        self._broken_line = 0 < written < len(chunk) and chunk[written - 1] != ord("\n")
        return written

    def _write_bytes(self, data: bytes | bytearray) -> int:
        written = 0
        view = memoryview(data)
        while written < len(data):
            try:
                written += os.write(self._fd, view[written:])
            except BlockingIOError:
                # Someone else made the shared description non-blocking: waiting is up to us then.
                _wait_writable(self._fd)
            except OSError as error:
                self.trouble = error.strerror or str(error)
                break
        return written

    def _open_first(self, path: str, patient: bool) -> int:
        try:
            return _open(path)
        except SpliceproxyError as error:
            if not patient:
                raise
            self.trouble = str(error)
            return -1

    def _open_anew(self) -> None:
        assert self._path is not None
        try:
            fd = _open(self._path)
        except SpliceproxyError as error:
            self.trouble = str(error)
            return
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self._limit = _chunk_limit(fd)
        self._broken_line = False


def open_records(path: str) -> int:
    """Open a file of records to append, and return its fd, which the caller owns.

    A FIFO that nobody reads is an error (ENXIO), not a wait without end. Raises OSError.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_NONBLOCK
    fd = os.open(path, flags, 0o640)
    os.set_blocking(fd, True)
    return fd


def _open(path: str) -> int:
    try:
        return open_records(path)
    except OSError as error:
        raise SpliceproxyError(
            f"session records cannot be written to {path}: {error.strerror}"
        ) from None


def _chunk_limit(fd: int) -> int:
    """Bytes that go to `fd` by one write, so that the lines of two writers never mix."""
    try:
        return BATCH if stat.S_ISREG(os.fstat(fd).st_mode) else PIPE_BUF
    except OSError:  # standard output is closed: each write will say so
        return PIPE_BUF


def _ends_in_half_a_line(fd: int) -> bool:
    """Whether `fd` is a file whose last line is not ended: SIGKILL cuts a write(2) short.

    A line that a living worker is writing just now looks the same, and is then followed by an
    empty one.
    """
    try:
        size = os.fstat(fd).st_size
        if not (stat.S_ISREG(os.fstat(fd).st_mode) and size):
            return False
        readable = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)  # `fd` itself may only be written
    except OSError:
        return False
    try:
        return os.pread(readable, 1, size - 1) != b"\n"
    finally:
        os.close(readable)


def _wait_writable(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.poll()
