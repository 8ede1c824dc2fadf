"""Instructions of one session and of one request in user space: perf where it counts, or callgrind.

Both are counted for two numbers of turns; what the difference costs is the turns' own.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.check.lockstep import Lockstep, lockstep
from bench.programs import FailedError, MissingError, find, run, script_environment

_WARM_UP = 40
_FEW, _MANY = 20, 120

Counter = Callable[[Callable[[], None]], int]
"""Runs something and returns how many instructions the worker spent meanwhile."""


def perf_counts() -> bool:
    """Whether perf is here and has hardware counters (a virtual machine often has none)."""
    try:
        command = [find("perf", "linux-perf"), "stat", "-x,", "-e", "instructions:u", "true"]
    except MissingError:
        return False
    said = subprocess.run(command, capture_output=True, text=True)
    return said.returncode == 0 and re.match(r"\d+,", said.stderr) is not None


def environment() -> str:
    """What the counts belong to: other tools, interpreters and libraries count differently."""
    tool = "perf" if perf_counts() else "callgrind"
    libc = "-".join(platform.libc_ver())
    return f"{tool}, Python {platform.python_version()}, {libc}, {platform.machine()}"


def count_instructions() -> dict[str, int]:
    """Instructions of each scenario. Raises MissingError where neither tool is here."""
    with tempfile.TemporaryDirectory(prefix="bench-check-") as name:
        directory = Path(name)
        with _counting(directory) as (steps, count):
            return {
                scenario: _per_turn(step, count) for scenario, step in steps.scenarios().items()
            }


@contextmanager
def _counting(directory: Path) -> Iterator[tuple[Lockstep, Counter]]:
    records = directory / "sessions.jsonl"
    if perf_counts():
        with lockstep(records) as (steps, _):
            yield steps, lambda work: _perf(steps.worker, directory, work)
        return
    find("valgrind")
    here = Path.cwd()
    os.environ.update(script_environment())
    os.chdir(directory)  # where the worker is, callgrind writes
    try:
        with lockstep(records, (sys.executable, "-m", "bench.check.launch")) as (steps, _):
            _control(steps.worker, "-i", "on")
            yield steps, lambda work: _callgrind(steps.worker, directory, work)
    finally:
        os.chdir(here)


def _per_turn(step: Callable[[], None], count: Counter) -> int:
    def turns(number: int) -> Callable[[], None]:
        def work() -> None:
            for _ in range(number):
                step()

        return work

    turns(_WARM_UP)()
    few = count(turns(_FEW))
    return round((count(turns(_MANY)) - few) / (_MANY - _FEW))


def _perf(pid: int, directory: Path, work: Callable[[], None]) -> int:
    """perf-stat(1): it says that it has begun through a pair of FIFOs."""
    control, answer = directory / "control", directory / "answer"
    for fifo in (control, answer):
        if not fifo.exists():
            os.mkfifo(fifo)
    command = [find("perf", "linux-perf"), "stat", "-x,", "-e", "instructions:u", "-p", str(pid)]
    command += ["-D", "-1", "--control", f"fifo:{control},{answer}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as perf:
        with control.open("w") as say, answer.open() as hear:
            for order in ("enable", "disable"):
                say.write(f"{order}\n")
                say.flush()
                hear.readline()
                if order == "enable":
                    work()
        perf.send_signal(2)
        assert perf.stderr is not None
        match = re.search(r"^(\d+),", perf.stderr.read(), re.MULTILINE)
    if match is None:
        raise FailedError("perf counted no instructions")
    return int(match[1])


def _callgrind(pid: int, directory: Path, work: Callable[[], None]) -> int:
    _control(pid, "-z")
    work()
    before = set(directory.glob("callgrind.out*"))
    _control(pid, "-d")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for dump in set(directory.glob("callgrind.out*")) - before:
            match = re.search(r"^totals: (\d+)", dump.read_text(), re.MULTILINE)
            if match is not None:
                return int(match[1])
        time.sleep(0.01)
    raise FailedError("callgrind wrote no counts")


def _control(pid: int, *words: str) -> None:
    run([find("callgrind_control", "valgrind"), *words, str(pid)], 30)
