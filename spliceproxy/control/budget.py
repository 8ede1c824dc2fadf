"""How the file descriptors of a process are shared out, and what they leave for sessions.

A worker may be lent the listening sockets of all its siblings, so it keeps room for every one of
them: a socket that finds none would be lost on its way (MSG_CTRUNC, unix(7)).
"""

from __future__ import annotations

import resource

from spliceproxy.control.machine import Machine
from spliceproxy.errors import SpliceproxyError
from spliceproxy.ipc import RelayPlan

SPARE_FDS = 64
"""What a process needs besides: standard fds, epoll, channels, its libraries, files; and sockets
of sessions that are over, until the end of a batch."""
FDS_PER_SESSION = 2
FDS_PER_PIPE = 2
_FDS_PER_WORKER = 2
"""The supervisor's: a channel and a pidfd."""
FEW_SESSIONS = 2000
"""Fewer than so many sessions of a worker surprise people who left `max_sessions` at auto."""


class FdBudgetError(SpliceproxyError):
    """The limit of open files leaves no room for sessions."""


def worker_sessions(machine: Machine, relay: RelayPlan, sockets: int, workers: int) -> int:
    """How many sessions one worker may hold, beside all listening `sockets` of all `workers`.

    Raises FdBudgetError where that is none.
    """
    left = machine.nofile - sockets - SPARE_FDS - FDS_PER_PIPE * relay.max_pipes
    supervisor = sockets + SPARE_FDS + _FDS_PER_WORKER * workers
    if left < FDS_PER_SESSION or machine.nofile < supervisor:
        raise FdBudgetError(
            f"RLIMIT_NOFILE: {machine.nofile} open files leave no room for sessions beside "
            f"{sockets} listening sockets (one for each address and worker); "
            f"{nofile_remedy(fds_wanted(relay, sockets, FEW_SESSIONS))}"
        )
    return left // FDS_PER_SESSION


def fds_wanted(relay: RelayPlan, sockets: int, sessions: int) -> int:
    """Fds of a worker that may hold `sessions`."""
    pipes = FDS_PER_PIPE * relay.max_pipes
    return sockets + SPARE_FDS + pipes + FDS_PER_SESSION * sessions


def nofile_remedy(fds: int) -> str:
    """How a process is allowed `fds` open files, in the two places where proxies live."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return f"LimitNOFILE={fds} in the systemd unit, or ulimit -Hn {fds} (the hard limit is {hard})"
