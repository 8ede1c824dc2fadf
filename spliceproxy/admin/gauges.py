"""What `/metrics` tells beside what was counted: states, workers, certificates."""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from spliceproxy.admin.ready import usable
from spliceproxy.admin.status import state_words
from spliceproxy.control.house import House
from spliceproxy.telemetry.moment import Moment, PoolNow, UpstreamNow, WorkerNow

if TYPE_CHECKING:
    from spliceproxy.admin.labels import UpstreamLabels
    from spliceproxy.admin.present import Present
    from spliceproxy.ipc import PoolPlan, Snapshot


class Shown(NamedTuple):
    """What clients of TLS are shown."""

    certificates: Sequence[tuple[str, str, float]] = ()
    """Listener, file, and the end in seconds since the epoch."""
    broken_files: Mapping[str, int] = MappingProxyType({})
    """How many of a listener's files cannot be used now."""

    @classmethod
    def of(cls, house: House, snapshot: Snapshot) -> Shown:
        """To be asked in the event loop's thread, like all that reads files."""
        ended = [one.name for one in snapshot.listeners if one.tls is not None]
        certificates = [
            (name, one["file"], datetime.fromisoformat(one["not_after"]).timestamp())
            for name in ended
            for one in house.certificates(name)
        ]
        return cls(certificates, {name: len(house.broken_files(name)) for name in ended})


def metrics_moment(house: House, now: Present, shown: Shown, labels: UpstreamLabels) -> Moment:
    """All that `/metrics` tells of this moment."""
    limits = {one.name: one.max_sessions for one in now.snapshot.listeners}
    return Moment(
        ledger=now.ledger,
        sessions=now.by_listener,
        max_sessions={name: most for name, most in limits.items() if most is not None},
        older_sessions=house.older_sessions(),
        pools=[_pool(house, pool) for pool in now.snapshot.pools],
        workers=workers_now(house),
        certificates=shown.certificates,
        broken_files=shown.broken_files,
        reloaded=house.reloaded(),
        told_as=labels,
    )


def workers_now(house: House) -> list[WorkerNow]:
    """The workers, in order, also those that are away."""
    found = [WorkerNow(False, None)] * house.board.workers
    for worker in house.fleet.workers():
        found[worker.index] = WorkerNow(worker.ready, _memory(worker.pid))
    return found


def _memory(pid: int) -> int | None:
    """Resident memory of a process, bytes; None: it is gone. Source: proc_pid_statm(5)."""
    try:
        resident = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except OSError:
        return None
    return int(resident) * resource.getpagesize()


def _pool(house: House, pool: PoolPlan) -> PoolNow:
    upstreams = []
    for one in pool.upstreams:
        states = state_words(house.states.flags(one.slot))
        upstreams.append(UpstreamNow(one.name, states, one.weight))
    waiting = house.board.upstreams.queued(pool.slot)
    return PoolNow(pool.name, waiting, usable(house, pool), upstreams)
