"""Processor time: of a proxy with all its processes, and of the whole machine."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.fds import children, rss_bytes

_TICKS = os.sysconf("SC_CLK_TCK")
QUIET = 0.05
"""Share of the CPUs that others may take before a figure is doubted."""
_CPUCLOCK_SCHED = 2
"""The scheduler's own account (linux/posix-timers.h), in nanoseconds, not in clock ticks."""


def process_tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    found = [pid]
    for each in found:
        found += children(each)
    return found


def process_seconds(pids: Sequence[int]) -> float:
    """Processor time of all threads of the processes, user and system; seconds."""
    total = 0
    for pid in pids:
        with suppress(OSError):  # it has ended
            total += time.clock_gettime_ns((~pid << 3) | _CPUCLOCK_SCHED)
    return total / 1e9


def machine_seconds() -> float:
    """Processor time of the machine that was not idle, interrupts included; seconds (proc(5))."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, _steal = map(int, fields)
    return (user + nice + system + irq + softirq) / _TICKS


def stolen_seconds() -> float:
    """Processor time that the hypervisor gave to other machines; seconds (proc(5))."""
    return int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8]) / _TICKS


@dataclass(frozen=True)
class Used:
    """What one measurement cost; seconds."""

    proxy: float
    machine: float
    wall: float

    @property
    def busy(self) -> float:
        """Share of one CPU that the proxy used."""
        return self.proxy / self.wall


class Meter:
    """Counts from its making to `used()`."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._wall = time.monotonic()
        self._machine = machine_seconds()
        self._proxy = process_seconds(pids)

    def used(self) -> Used:
        """What was used since the beginning."""
        return Used(
            process_seconds(self._pids) - self._proxy,
            machine_seconds() - self._machine,
            time.monotonic() - self._wall,
        )


def _interrupt_seconds() -> float:
    """Processor time in interrupts, where the kernel keeps it apart from the processes' own."""
    names = (Path(f"/boot/config-{os.uname().release}"),)
    if any(n.exists() and "CONFIG_IRQ_TIME_ACCOUNTING=y" in n.read_text() for n in names):
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        return (int(fields[6]) + int(fields[7])) / _TICKS
    return 0.0


def network_threads() -> list[int]:
    """The kernel's threads that move packets when the CPUs that sent them are at their limit."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and (entry / "comm").read_text().startswith("ksoftirqd"):
                found.append(int(entry.name))
    return found


def wait_at_rest(pids: Sequence[int], patience: float = 3.0) -> None:
    """Return when the processes have hardly anything left to do, after `patience` s at the latest.

    What one measurement leaves behind, such as thousands of sessions to end, is not the next one's.
    """
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        meter = Meter(pids)
        time.sleep(0.03)
        if meter.used().busy < 0.1:
            return


class Disturbance:
    """What processes that are not the benchmark's took meanwhile, and the hypervisor."""

    def __init__(self, pids: Sequence[int]) -> None:
        """`pids`: proxies and origins; this process and the load that it starts are known."""
        self._pids = [*pids, *network_threads()]
        self._began = time.monotonic(), machine_seconds(), self._own(), stolen_seconds()

    def _own(self) -> float:
        return process_seconds(self._pids) + sum(os.times()[:4]) + _interrupt_seconds()

    def share(self) -> float:
        """Share of the machine's processor time that was lost to others, 0 to 1."""
        wall, machine, own, stolen = self._began
        span = (time.monotonic() - wall) * (os.cpu_count() or 1)
        foreign = (machine_seconds() - machine) - (self._own() - own)
        return max(0.0, foreign + stolen_seconds() - stolen) / span


def memory_bytes(pids: Sequence[int]) -> int:
    """Memory that the processes hold themselves; programs and libraries, which other processes
    map as well, are not in it."""
    return sum(rss_bytes(pid) for pid in pids)
