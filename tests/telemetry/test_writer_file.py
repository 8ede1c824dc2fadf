"""telemetry/writer.py on regular files: opened to append, rotated, cut short, mended."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.fds import same_fds
from harness.wait import wait_until

from spliceproxy.errors import SpliceproxyError
from spliceproxy.telemetry.writer import RecordWriter


@pytest.fixture(autouse=True)
def _no_fd_is_left() -> Iterator[None]:
    with same_fds():
        yield


def numbered(number: int, size: int = 400) -> dict[str, object]:
    """A record of about `size` bytes."""
    return {"number": number, "text": "x" * size}


CUT = """
import json, resource, signal, sys
from spliceproxy.telemetry.writer import RecordWriter
writer = RecordWriter("file:" + sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
for number in range(10):
    writer.write({"number": number, "text": "x" * 280})
writer.flush()
while writer.dropped < 7:
    pass
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
writer.write({"number": 10})
writer.close(5)
print(writer.dropped)
"""


def test_a_line_cut_short_does_not_swallow_the_next_one(tmp_path: Path) -> None:
    """The disk takes 1000 bytes: three lines and a part of the fourth."""
    file = tmp_path / "records"
    command = [sys.executable, "-c", CUT, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "7\n"
    lines = file.read_bytes().splitlines()
    assert [json.loads(line)["number"] for line in (*lines[:3], lines[4])] == [0, 1, 2, 10]
    assert lines[3].startswith(b'{"number":3,')
    assert len(lines) == 5


def test_a_file_is_appended_to_and_not_for_everybody_to_read(tmp_path: Path) -> None:
    file = tmp_path / "records"
    for number in range(2):
        writer = RecordWriter(f"file:{file}")
        writer.write(numbered(number))
        writer.close(5)
    assert [json.loads(line)["number"] for line in file.read_bytes().splitlines()] == [0, 1]
    assert stat.S_IMODE(file.stat().st_mode) & ~0o640 == 0


def test_a_file_that_cannot_be_opened_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SpliceproxyError) as caught:
        RecordWriter(f"file:{tmp_path}/missing/records")
    assert str(caught.value) == (
        f"session records cannot be written to {tmp_path}/missing/records: "
        "No such file or directory"
    )


def test_a_patient_writer_drops_and_counts_until_the_file_can_be_had(tmp_path: Path) -> None:
    directory = tmp_path / "later"
    writer = RecordWriter(f"file:{directory}/records", patient=True)
    writer.write(numbered(0))
    writer.flush()
    wait_until(lambda: writer.dropped == 1, 5, "the first record is counted as dropped")
    assert "No such file or directory" in writer.trouble
    directory.mkdir()
    writer.write(numbered(1))
    writer.close(5)
    assert writer.dropped == 1
    [line] = (directory / "records").read_bytes().splitlines()
    assert json.loads(line)["number"] == 1


def test_a_fifo_without_a_reader_is_an_error_and_no_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(SpliceproxyError, match="No such device or address"):
        RecordWriter(f"file:{tmp_path}/fifo")


def test_rotation_loses_and_doubles_nothing(tmp_path: Path) -> None:
    file = tmp_path / "records"
    writer = RecordWriter(f"file:{file}")
    for number in range(1000):
        if number % 100 == 50:
            file.rename(tmp_path / f"records.{number}")
            writer.reopen()
        writer.write(numbered(number))
        if number % 100 == 49:
            writer.flush()
        if number % 100 == 51:
            wait_until(file.exists, 5, "the new file")
    writer.close(5)
    numbers: list[int] = []
    files = sorted(tmp_path.iterdir(), key=lambda path: int(path.suffix[1:] or 10_000))
    for path in files:
        numbers += [json.loads(line)["number"] for line in path.read_bytes().splitlines()]
    assert len(files) == 11
    assert numbers == list(range(1000))


def test_where_the_new_file_cannot_be_opened_the_old_one_stays_in_use(tmp_path: Path) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    writer = RecordWriter(f"file:{directory}/records")
    moved = tmp_path / "moved"
    directory.rename(moved)
    writer.reopen()
    writer.write(numbered(1))
    writer.close(5)
    assert json.loads((moved / "records").read_bytes())["number"] == 1
    assert writer.trouble.endswith("No such file or directory")
    assert writer.dropped == 0


@pytest.mark.parametrize("opened", ["by the writer", "by the shell"])
def test_the_half_line_of_a_killed_process_does_not_swallow_the_next_one(
    tmp_path: Path, opened: str
) -> None:
    file = tmp_path / "records"
    file.write_bytes(b'{"number":0}\n{"numb')
    stdout = os.open(file, os.O_WRONLY | os.O_APPEND)
    to = f"file:{file}" if opened == "by the writer" else "stdout"
    writer = RecordWriter(to, stdout=stdout, mends=True)
    for number in (1, 2):
        writer.write(numbered(number))
        writer.flush()
    writer.close(5)
    os.close(stdout)
    lines = file.read_bytes().splitlines()
    assert lines[:2] == [b'{"number":0}', b'{"numb']
    assert [json.loads(line)["number"] for line in lines[2:]] == [1, 2]


def test_mending_leaves_an_empty_file_a_whole_line_and_a_pipe_alone(tmp_path: Path) -> None:
    read, write = os.pipe()
    for name, before in (("empty", b""), ("whole", b"{}\n")):
        file = tmp_path / name
        file.write_bytes(before)
        writer = RecordWriter(f"file:{file}", mends=True)
        writer.write({"number": 1})
        writer.close(5)
        assert file.read_bytes() == before + b'{"number":1}\n'
    writer = RecordWriter("stdout", stdout=write, mends=True)
    writer.write({"number": 1})
    writer.close(5)
    assert os.read(read, 100) == b'{"number":1}\n'
    os.close(read)
    os.close(write)
