"""System calls of one session and of one request, by strace."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median_low

from harness.wait import wait_until

from bench.check.lockstep import lockstep
from bench.programs import find

_WARM_UP = 20
_TIMES = 40
_LINE = re.compile(r"^\d+ +(\d+\.\d+) (\w+)\((.*)$")

Counts = dict[str, int]


def count_system_calls() -> tuple[dict[str, Counts], dict[str, list[str]]]:
    """For each scenario the calls by name, and one sequence of them as strace has it.

    A scenario is run forty times, and each call's count is the median: what the worker does each
    second or once for many sessions is none of a single session's calls. Raises MissingError.
    """
    program = find("strace")
    counts, sequences = {}, {}
    with tempfile.TemporaryDirectory(prefix="bench-check-") as name:
        directory = Path(name)
        with lockstep(directory / "sessions.jsonl") as (steps, _):
            for number, (scenario, step) in enumerate(steps.scenarios().items()):
                for _ in range(_WARM_UP):
                    step()
                trace = directory / f"trace-{number}"
                marks = _traced(program, steps.worker, trace, step)
                counts[scenario], sequences[scenario] = _read(trace, marks)
    return counts, sequences


def _traced(program: str, pid: int, trace: Path, step: Callable[[], None]) -> list[float]:
    """Run the step under strace; wall-clock seconds before each, and after the last."""
    command = [program, "-f", "-ttt", "-s", "24", "-o", str(trace), "-p", str(pid)]
    said = trace.with_suffix(".said")
    with said.open("wb") as output:
        strace = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=output)
    try:
        wait_until(lambda: "attached" in said.read_text(), 10, "strace attached")
        step()
        marks = [time.time()]
        for _ in range(_TIMES):
            step()
            marks.append(time.time())
    finally:
        strace.terminate()
        strace.wait(10)
    return marks


def _read(trace: Path, marks: list[float]) -> tuple[Counts, list[str]]:
    """The median of each call's counts between two marks, and the calls of the usual turn."""
    turns: list[list[tuple[str, str]]] = [[] for _ in marks[1:]]
    index = 0
    for line in trace.read_text().splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        at = float(match[1])
        if at < marks[0]:
            continue
        while index < len(turns) and at >= marks[index + 1]:
            index += 1
        if index == len(turns):
            break
        turns[index].append((match[2], match[3]))
    counted = [Counter(name for name, _ in turn) for turn in turns]
    names = sorted(set().union(*counted))
    usual = {name: median_low([each[name] for each in counted]) for name in names}
    usual = {name: count for name, count in usual.items() if count}
    shown = next((t for t, c in zip(turns, counted, strict=True) if dict(c) == usual), turns[-1])
    return usual, [f"{name}({rest}" for name, rest in shown]
