"""telemetry/writer.py: records reach whoever reads them, whole, and never hold up the writer."""

from __future__ import annotations

import fcntl
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.fds import same_fds
from harness.wait import wait_until

from spliceproxy.telemetry import writer as module
from spliceproxy.telemetry.record import worker_died_record
from spliceproxy.telemetry.writer import BATCH, MAX_WAITING, TOO_SLOW, RecordWriter


class Reader:
    """Reads a pipe to its end in a thread, `pause` seconds apart, `size` bytes at most a time."""

    def __init__(self, fd: int, size: int = 65536, pause: float = 0.0) -> None:
        self._fd, self._size, self._pause = fd, size, pause
        self.data = bytearray()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while more := os.read(self._fd, self._size):
            self.data += more
            threading.Event().wait(self._pause)

    def lines(self, timeout: float = 20.0) -> list[dict[str, int]]:
        """All lines, once every writer has closed the pipe."""
        self._thread.join(timeout)
        assert not self._thread.is_alive()
        return [json.loads(line) for line in self.data.splitlines()]


@pytest.fixture(autouse=True)
def _no_fd_is_left() -> Iterator[None]:
    with same_fds():
        yield


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        if os.path.exists(f"/proc/self/fd/{fd}"):  # noqa: PTH110
            os.close(fd)


def numbered(number: int, size: int = 400) -> dict[str, object]:
    """A record of about `size` bytes."""
    return {"number": number, "text": "x" * size}


def test_records_arrive_in_order_and_nothing_is_dropped(pipe: tuple[int, int]) -> None:
    read, write = pipe
    writer = RecordWriter("stdout", stdout=write)
    reader = Reader(read)
    for number in range(5000):
        writer.write(numbered(number))
    writer.close(10)
    os.close(write)
    assert [line["number"] for line in reader.lines()] == list(range(5000))
    assert writer.dropped == 0


def test_a_few_records_wait_for_flush_and_then_come_at_once(pipe: tuple[int, int]) -> None:
    read, write = pipe
    writer = RecordWriter("stdout", stdout=write)
    assert not writer.gathering
    writer.write(numbered(1))
    assert writer.gathering
    writer.flush()
    assert not writer.gathering
    assert json.loads(os.read(read, 65536))["number"] == 1
    writer.close(5)


def test_a_full_batch_goes_out_without_flush(pipe: tuple[int, int]) -> None:
    read, write = pipe
    writer = RecordWriter("stdout", stdout=write)
    number = 0
    while writer.gathering or number == 0:
        writer.write(numbered(number))
        number += 1
    assert number * 400 <= BATCH + 400
    assert os.read(read, 10)
    reader = Reader(read)
    writer.close(5)
    os.close(write)
    reader._thread.join(5)


def test_nobody_reads_and_write_returns_at_once_and_the_loss_is_counted_exactly(
    pipe: tuple[int, int],
) -> None:
    read, write = pipe
    writer = RecordWriter("stdout", stdout=write)
    given = 2 * MAX_WAITING // 1000
    longest = 0.0
    began = time.thread_time()
    for number in range(given):
        before = time.thread_time()
        writer.write(numbered(number, 1000))
        longest = max(longest, time.thread_time() - before)
    assert time.thread_time() - began < 2.0
    assert longest < 0.1
    assert writer.dropped > given // 3
    assert writer.trouble == TOO_SLOW
    reported = writer.take_dropped()
    assert (reported, writer.take_dropped()) == (writer.dropped, 0)

    reader = Reader(read)  # the reader is back: what waited comes, and later records too
    wait_until(lambda: writer._done_bytes == writer._taken_bytes - writer._batch_bytes, 20, "room")
    dropped = writer.dropped
    writer.write(numbered(given))
    writer.close(10)
    os.close(write)
    numbers = [line["number"] for line in reader.lines()]
    assert writer.dropped == dropped
    assert len(numbers) == given + 1 - dropped
    assert numbers == sorted(numbers)
    assert numbers[-1] == given


def test_no_more_than_the_bound_waits(pipe: tuple[int, int]) -> None:
    _read, write = pipe
    writer = RecordWriter("stdout", stdout=write)
    for number in range(3 * MAX_WAITING // 4000):
        writer.write(numbered(number, 4000))
        assert writer._taken_bytes - writer._done_bytes <= MAX_WAITING
    writer.close(0.01)
    os.close(pipe[0])


def test_close_waits_no_longer_than_asked_and_counts_the_rest(pipe: tuple[int, int]) -> None:
    read, write = pipe
    writer = RecordWriter("stdout", stdout=write)
    for number in range(1000):
        writer.write(numbered(number))
    began = time.monotonic()
    writer.close(0.1)
    assert 0.1 <= time.monotonic() - began < 5
    dropped = writer.dropped
    assert 0 < dropped < 1000
    # One chunk was under way, and the system may take it after all.
    reader = Reader(read)
    writer._thread.join(5)
    os.close(write)
    assert 1000 - dropped <= len(reader.lines()) <= 1000 - dropped + 10
    writer.write(numbered(1))
    assert writer.dropped == dropped + 1


def test_a_closed_pipe_is_no_error_and_every_record_is_counted(pipe: tuple[int, int]) -> None:
    read, write = pipe
    os.close(read)
    writer = RecordWriter("stdout", stdout=write)
    for number in range(1000):
        writer.write(numbered(number))
    writer.close(5)
    assert writer.dropped == 1000
    assert writer.trouble == "Broken pipe"


def test_a_closed_standard_output_is_no_error() -> None:
    fd = os.open(os.devnull, os.O_WRONLY)
    os.close(fd)
    writer = RecordWriter("stdout", stdout=fd)
    writer.write(numbered(1))
    writer.close(5)
    assert writer.dropped == 1
    assert writer.trouble == "Bad file descriptor"


def test_a_full_disk_is_tried_once_per_batch() -> None:
    writer = RecordWriter("file:/dev/full")
    for number in range(1000):
        writer.write(numbered(number))
    writer.close(5)
    assert writer.dropped == 1000
    assert writer.trouble == "No space left on device"


def test_after_an_error_later_records_are_tried_again(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    first = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writer = RecordWriter(f"file:{fifo}")
    os.close(first)
    writer.write(numbered(1))
    writer.flush()
    wait_until(lambda: writer.dropped == 1, 5, "the first record's loss")
    second = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writer.write(numbered(2))
    writer.close(5)
    assert json.loads(os.read(second, 65536))["number"] == 2
    assert writer.dropped == 1
    os.close(second)


def test_standard_output_keeps_its_flags_and_a_nonblocking_one_loses_nothing(
    pipe: tuple[int, int],
) -> None:
    read, write = pipe
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(write, False)
    flags = fcntl.fcntl(write, fcntl.F_GETFL)
    writer = RecordWriter("stdout", stdout=write)
    reader = Reader(read)
    for number in range(1000):
        writer.write(numbered(number))
    writer.write(numbered(1000, 100_000))
    writer.close(10)
    assert fcntl.fcntl(write, fcntl.F_GETFL) == flags
    os.close(write)
    assert [line["number"] for line in reader.lines()] == list(range(1001))
    assert writer.dropped == 0


def test_chunks_are_whole_lines_that_a_pipe_takes_as_one(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = pipe
    chunks = []

    def note(fd: int, data: memoryview) -> int:
        chunks.append(bytes(data))
        return real_write(fd, data)

    real_write = os.write
    monkeypatch.setattr(module.os, "write", note)
    writer = RecordWriter("stdout", stdout=write)
    reader = Reader(read)
    sizes = [10, 4000, 60, 5000, 10, 10, 2000, 2000, 2000, 4096 - 23]
    for number, size in enumerate(sizes):
        writer.write(numbered(number, size))
    writer.close(5)
    os.close(write)
    assert len(reader.lines()) == len(sizes)
    assert all(chunk.endswith(b"\n") for chunk in chunks)
    assert [len(chunk) > 4096 for chunk in chunks].count(True) == 1  # the line of 5000 bytes
    assert len(chunks) == 6
    assert len(chunks[-1]) == 4096


MANY = """
import random, sys
from spliceproxy.telemetry.writer import RecordWriter
who, seed, to, rounds = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
random.seed(seed)
writer = RecordWriter(to)
for number in range(rounds):
    size = random.choice((20, 300, 600, 1500, 3900))
    writer.write({"who": who, "number": number, "text": who * size})
    if random.random() < 0.1:
        writer.flush()
writer.close(60)
sys.exit(writer.dropped != 0)
"""


def _write_from_two(seed: int, to: str, stdout: int | None, rounds: int) -> None:
    print(f"seed {seed}")
    both = [
        subprocess.Popen(
            [sys.executable, "-c", MANY, who, str(seed + index), to, str(rounds)], stdout=stdout
        )
        for index, who in enumerate("ab")
    ]
    for process in both:
        assert process.wait(60) == 0


def _check_two(data: bytes, rounds: int) -> None:
    numbers: Counter[str] = Counter()
    for line in data.splitlines():
        record = json.loads(line)
        who = record["who"]
        assert record["number"] == numbers[who]
        assert set(record["text"]) == {who}
        numbers[who] += 1
    assert numbers == {"a": rounds, "b": rounds}


def test_lines_of_two_processes_on_one_small_slow_pipe_never_mix(
    pipe: tuple[int, int], seed: int
) -> None:
    """A pipe of one page that is nearly always full: a longer write would be cut in pieces."""
    read, write = pipe
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    reader = Reader(read, 1000)
    _write_from_two(seed, "stdout", write, 1500)
    os.close(write)
    reader.lines()
    _check_two(bytes(reader.data), 1500)


def test_lines_of_two_processes_in_one_file_never_mix(tmp_path: Path, seed: int) -> None:
    file = tmp_path / "records"
    _write_from_two(seed, f"file:{file}", None, 3000)
    _check_two(file.read_bytes(), 3000)


def test_the_thread_sleeps_while_nothing_is_written() -> None:
    writer = RecordWriter("file:/dev/null")
    task = Path(f"/proc/self/task/{writer._thread.native_id}/status")

    def switches() -> str:
        return next(s for s in task.read_text().splitlines() if s.startswith("voluntary"))

    writer.write(numbered(1))
    writer.flush()
    wait_until(lambda: writer._done_bytes == writer._taken_bytes, 5, "the record's end")
    wait_until(lambda: "S (sleeping)" in task.read_text(), 5, "a sleeping thread")
    before = switches()
    threading.Event().wait(0.3)
    assert switches() == before
    writer.close(5)


def test_console_lines_go_through_the_same_path(pipe: tuple[int, int]) -> None:
    read, write = pipe
    writer = RecordWriter("stdout", console=True, colour=False, stdout=write)
    writer.write(
        worker_died_record(worker=1, pid=2, lost=3, lost_records=0, start=0.0, duration=1.0)
    )
    writer.close(5)
    assert os.read(read, 4096).endswith(b"worker 1 worker_died (pid 2, 3 sessions lost)\n")


def test_every_record_is_accounted_for_whatever_the_sizes_and_moments(seed: int) -> None:
    chance = random.Random(seed)
    for round_number in range(5):
        read, write = os.pipe()
        writer = RecordWriter("stdout", stdout=write)
        reader = Reader(read, chance.choice((500, 65536)), chance.choice((0.0, 0.0002)))
        given = chance.randrange(1, 1000)
        for number in range(given):
            writer.write(numbered(number, chance.randrange(5000)))
            if chance.random() < 0.05:
                writer.flush()
        writer.close(30)
        os.close(write)
        assert len(reader.lines()) + writer.dropped == given, round_number
        os.close(read)
