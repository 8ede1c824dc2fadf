"""Connect, one request, close: how many sessions a second."""

from __future__ import annotations

from bench.cpu import Meter
from bench.load.wrk import wrk
from bench.peers.base import Target
from bench.workloads.base import Metric, Rig, Workload, proxy_cost


class ConnectionRate(Workload):
    """wrk with `Connection: close`: the origin closes after its answer."""

    title = "connect, 12 B request, close; 64 at once"
    group = "connections"
    label = "sessions"

    def __init__(self, workers: int = 1) -> None:
        self.name = "connections" if workers == 1 else f"connections-{workers}workers"
        if workers > 1:
            self.group, self.label = "workers", f"sessions, {workers} w"
        self.quick = workers == 1
        self.workers = workers
        bounds = (0.85, 1.0) if workers == 1 else (None, None)
        self.metrics = (
            Metric("connections_per_s", "sessions/s", True, *bounds),
            Metric("proxy_us", "proxy CPU µs/session", False),
            Metric("machine_us", "machine CPU µs/session", False, plotted=False),
        )

    def measure(self, rig: Rig, target: Target) -> dict[str, float]:
        meter = Meter(target.pids)
        address = target.addresses["http"]
        report = wrk(rig.prefix("load"), address, "/12", 64, rig.seconds, ["Connection: close"])
        found = proxy_cost(meter, target, report.requests, "us", 1e6)
        found["connections_per_s"] = report.requests / report.seconds
        return found
