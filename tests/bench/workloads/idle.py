"""Memory of sessions that say nothing."""

from __future__ import annotations

from bench.cpu import memory_bytes
from bench.load.hold import holding
from bench.peers.base import Target
from bench.workloads.base import Metric, Rig, Workload

SESSIONS = 3500


class Idle(Workload):
    """Memory of the proxy's processes, before and with 3,500 sessions, in a fresh process."""

    group = "idle"
    fresh = True
    rounds = 3

    def __init__(self, spoken: bool) -> None:
        self.name = "idle-spoken" if spoken else "idle"
        self.title = f"{SESSIONS} idle sessions" + (", each after one byte both ways" * spoken)
        self.label = "after a byte" if spoken else "never spoke"
        self.quick = not spoken
        self._spoken = spoken
        self.metrics = (Metric("kib_each", "KiB/session", False, 2.0, 1.0, absolute=True),)

    def measure(self, rig: Rig, target: Target) -> dict[str, float]:
        if target.running is None:
            return {}
        before = memory_bytes(target.pids)
        with holding(rig.prefix("load"), target.addresses["hold"], SESSIONS, self._spoken):
            after = memory_bytes(target.pids)
        return {"kib_each": (after - before) / 1024 / SESSIONS, "process_kib": before / 1024}
