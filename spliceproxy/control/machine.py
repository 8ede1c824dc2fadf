"""What this machine gives: CPUs, file descriptors, capabilities, and the kernel's settings."""

from __future__ import annotations

import math
import os
import resource
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")

# Bits of CapEff, capability.h.
CAP_SYS_ADMIN = 21
CAP_SYS_RESOURCE = 24

_PIPE_RESERVE = 8
"""One page of so many is left to the user's other programs: the limit counts them all together."""


def usable_cpus(proc: Path = _PROC, cgroup: Path = _CGROUP) -> int:
    """CPUs that this process may keep busy: its affinity, cut to the CPU quota of its cgroups.

    A quota of one and a half CPUs is rounded up: the second worker uses the half.
    """
    cpus = len(os.sched_getaffinity(0))
    quota = _cpu_quota(proc, cgroup)
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def _cpu_quota(proc: Path, cgroup: Path) -> float | None:
    """CPUs by the tightest quota of our cgroup and those above it; None: no quota.

    A container often sees its own cgroup mounted as the root while /proc/self/cgroup still names
    the host's path. Walking up from that path to the root meets the file in both cases.
    """
    quotas = []
    for line in _read(proc / "self/cgroup").splitlines():
        _number, controllers, path = line.split(":", 2)
        if controllers == "":
            roots, read = (cgroup, cgroup / "unified"), _quota_v2
        elif "cpu" in controllers.split(","):
            roots, read = (cgroup / "cpu", cgroup / controllers), _quota_v1
        else:
            continue
        here = Path(path.lstrip("/"))
        for root in roots:
            quotas += [read(root / step) for step in (here, *here.parents)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_v2(directory: Path) -> float | None:
    """cpu.max is `QUOTA PERIOD` in microseconds, or `max PERIOD` (cgroup-v2.rst)."""
    match _read(directory / "cpu.max").split():
        case [quota, period] if quota != "max":
            return int(quota) / int(period)
    return None


def _quota_v1(directory: Path) -> float | None:
    """cpu.cfs_quota_us is microseconds of each cpu.cfs_period_us, or -1 (sched-bwc.rst)."""
    quota = _read(directory / "cpu.cfs_quota_us")
    period = _read(directory / "cpu.cfs_period_us")
    if not quota or not period or int(quota) <= 0:
        return None
    return int(quota) / int(period)


@dataclass(frozen=True, slots=True)
class Machine:
    """The settings that decide what fits, read once at the start."""

    nofile: int
    """File descriptors of one process (RLIMIT_NOFILE, the soft limit)."""
    somaxconn: int
    """Clients that may wait in one accept queue, whatever listen() asks for."""
    ports: int
    """Local ports for connections to one upstream from one source address."""
    pipe_max_size: int | None
    """Bytes of one pipe; None: no limit for this user."""
    pipe_user_pages: int | None
    """Pages in all pipes of this user together; None: no limit for this user."""


def read_machine(proc: Path = _PROC) -> Machine:
    """Read the settings of this machine, as they hold for this process."""
    sysctl = proc / "sys"
    low, high = _read(sysctl / "net/ipv4/ip_local_port_range").split() or (32768, 60999)
    pages = _number(sysctl / "fs/pipe-user-pages-soft", 16384)
    # pipe(7): the size of one pipe is limited without CAP_SYS_RESOURCE, their sum without that
    # and without CAP_SYS_ADMIN.
    capabilities = effective_capabilities(proc)
    may_exceed_size = bool(capabilities & 1 << CAP_SYS_RESOURCE)
    may_exceed_sum = may_exceed_size or bool(capabilities & 1 << CAP_SYS_ADMIN)
    return Machine(
        nofile=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        somaxconn=_number(sysctl / "net/core/somaxconn", 4096),
        ports=int(high) - int(low) + 1,
        pipe_max_size=(
            None if may_exceed_size else _number(sysctl / "fs/pipe-max-size", 1024 * 1024)
        ),
        pipe_user_pages=None if may_exceed_sum or pages == 0 else pages - pages // _PIPE_RESERVE,
    )


def effective_capabilities(proc: Path = _PROC) -> int:
    """The bits of CapEff of this process (capabilities(7))."""
    for line in _read(proc / "self/status").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def raise_nofile() -> int:
    """Raise the soft limit of file descriptors to the hard one, and return it.

    Workers inherit it, so this is done before they start.
    """
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def has_ipv6(proc: Path = _PROC) -> bool:
    """Whether the kernel speaks IPv6 and it is not switched off on every interface."""
    if not (proc / "net/if_inet6").exists():
        return False
    return _number(proc / "sys/net/ipv6/conf/all/disable_ipv6", 0) == 0


def _read(path: Path) -> str:
    """The text of a file of /proc or /sys; empty where there is none or it is hidden from us."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(path: Path, default: int) -> int:
    text = _read(path).strip()
    return int(text) if text else default
