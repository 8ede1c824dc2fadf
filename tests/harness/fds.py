"""What /proc says of a process: its fds, time, memory, and how often it woke."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.wait import wait_until

_TICKS = os.sysconf("SC_CLK_TCK")


def open_fds(pid: int | None = None) -> dict[int, str]:
    """Open fds and what they are: `socket:[123]`, `pipe:[45]`, a path."""
    directory = Path(f"/proc/{os.getpid() if pid is None else pid}/fd")
    found = {}
    for entry in directory.iterdir():
        try:
            found[int(entry.name)] = str(entry.readlink())
        except FileNotFoundError:  # the fd by which the directory is read, or just closed
            continue
    return {fd: target for fd, target in found.items() if target != str(directory)}


def fd_kinds(pid: int | None = None) -> Counter[str]:
    """How many fds of each kind: socket, pipe, anon_inode:[eventpoll], a path."""
    names = (target.split(":[")[0] for target in open_fds(pid).values())
    return Counter(names)


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads, user and system, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_bytes(pid: int) -> int:
    """Anonymous memory: what the process holds itself, without the interpreter's own files."""
    return _rollup(pid, "Anonymous")


def pss_bytes(pid: int) -> int:
    """Its proportional share of all memory that it has mapped."""
    return _rollup(pid, "Pss")


def _rollup(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"/proc/{pid}/smaps_rollup has no {key}")


def context_switches(pid: int) -> int:
    """How often a thread of the process went to sleep of its own accord, and so woke."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                total += int(line.split()[1])
    return total


def parent_of(pid: int) -> int:
    """The parent's pid; 0 where the process is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def children(pid: int) -> list[int]:
    """Pids of the children, in order of their numbers."""
    every = sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [other for other in every if parent_of(other) == pid]


def alive(pid: int) -> bool:
    """Whether the process is there and not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")


@contextmanager
def same_fds(pid: int | None = None, timeout: float = 5.0) -> Iterator[None]:
    """Fails unless, within `timeout` after the block, fds of the same kinds are open as before."""
    gc.collect()  # what earlier tests left in cycles would go meanwhile
    before = fd_kinds(pid)
    yield

    def difference() -> str:
        now = fd_kinds(pid)
        return "" if now == before else f"more: {now - before}, fewer: {before - now}"

    try:
        wait_until(lambda: not difference(), timeout, "the same fds as before")
    except AssertionError:
        raise AssertionError(f"fds differ: {difference()}") from None
