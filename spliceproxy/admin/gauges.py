"""What `/metrics` tells beside what was counted: states, workers, certificates."""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from spliceproxy.control.report import House
from spliceproxy.telemetry.board import DOWN, DRAINING, EJECTED
from spliceproxy.telemetry.reading import PoolNow, Reading, UpstreamNow, WorkerNow

if TYPE_CHECKING:
    from spliceproxy.admin.labels import UpstreamLabels
    from spliceproxy.admin.present import Present
    from spliceproxy.ipc import PoolPlan, Snapshot

_STATES = {DRAINING: "draining", DOWN: "down", EJECTED: "ejected"}


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


def metrics_reading(house: House, now: Present, shown: Shown, labels: UpstreamLabels) -> Reading:
    """All that `/metrics` tells of this moment."""
    limits = {one.name: one.max_sessions for one in now.snapshot.listeners}
    return Reading(
        ledger=now.ledger,
        sessions=now.by_listener,
        max_sessions={name: most for name, most in limits.items() if most is not None},
        older_sessions=house.older_sessions(),
        pools=[_pool(house, pool) for pool in now.snapshot.pools],
        workers=workers_now(house),
        certificates=shown.certificates,
        broken_files=shown.broken_files,
        reloaded=(True, 0.0),
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
    usable = 0
    for one in pool.upstreams:
        flags = house.states.flags(one.slot)
        states = [word for flag, word in _STATES.items() if flags & flag]
        upstreams.append(UpstreamNow(one.name, states or ["up"], one.weight))
        usable += one.weight > 0 and not flags & (DOWN | DRAINING)
    return PoolNow(pool.name, house.board.upstreams.queued(pool.slot), usable, upstreams)
