"""Requests on connections that stay: bodies of 12 B to 1 MiB."""

from __future__ import annotations

from bench.cpu import Meter
from bench.load.wrk import wrk
from bench.origins import BODIES
from bench.peers.base import Target
from bench.workloads.base import Metric, Rig, Workload, proxy_cost

CONNECTIONS = (1, 64, 512)
_LARGE = 64 * 1024
_QUICK = {(12, 64), (16 * 1024, 64), (256 * 1024, 64)}


def size_name(size: int) -> str:
    """12B, 16KiB, 1MiB."""
    if size < 1024:
        return f"{size}B"
    return f"{size // 1024}KiB" if size < 1024 * 1024 else f"{size // 1024 // 1024}MiB"


class KeepAlive(Workload):
    """wrk fetches one body again and again."""

    group = "keep-alive"

    def __init__(
        self, size: int, connections: int, *, workers: int = 1, network: str = "loopback"
    ) -> None:
        plain = workers == 1 and network == "loopback"
        where = "" if network == "loopback" else f"-{network}"
        crowd = "" if workers == 1 else f"-{workers}workers"
        kind = "small" if size < _LARGE else "large"
        self.name = f"{kind}-{size_name(size)}-c{connections}{where}{crowd}"
        self.title = f"keep-alive, {size_name(size)} body, {connections} connections"
        self.label = f"{size_name(size)} c{connections}"
        if not plain:
            self.group = network if workers == 1 else "workers"
            self.label = f"{self.label}, {workers} w" if workers > 1 else self.label
        self.quick = plain and (size, connections) in _QUICK
        self.tuning = "small" if size < _LARGE else "bulk"
        self.workers = workers
        self.network = network
        self._size = size
        self._connections = connections
        bounds = (1.0, 1.1) if size >= _LARGE else (0.9, 1.0) if connections == 64 else (None, None)
        if not plain:
            bounds = (None, None)
        self.metrics = (
            Metric("requests_per_s", "requests/s", True, *bounds),
            Metric("proxy_us", "proxy CPU µs/request", False),
            Metric("machine_us", "machine CPU µs/request", False, plotted=False),
        )

    def measure(self, rig: Rig, target: Target) -> dict[str, float]:
        meter = Meter(target.pids)
        address = target.addresses["http"]
        report = wrk(rig.prefix("load"), address, f"/{self._size}", self._connections, rig.seconds)
        found = proxy_cost(meter, target, report.requests, "us", 1e6)
        found["requests_per_s"] = report.requests / report.seconds
        found["p99_us"] = report.p99_us
        return found


def keep_alive_workloads() -> list[Workload]:
    """Every size with every number of connections."""
    return [KeepAlive(size, number) for size in BODIES for number in CONNECTIONS]
