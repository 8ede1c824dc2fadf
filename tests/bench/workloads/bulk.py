"""Bulk: as many bytes as will go, in 1, 4 and 16 streams, up, down and both ways at once."""

from __future__ import annotations

from bench.cpu import Meter
from bench.load.iperf import iperf
from bench.peers.base import Target
from bench.workloads.base import Metric, Rig, Workload, proxy_cost

_QUICK = {(1, "down"), (4, "down")}


class Bulk(Workload):
    """iperf3 through the proxy."""

    group = "bulk"
    # On one CPU, iperf3's two ends are the limit long before any proxy is.
    pin = "free"
    tuning = "bulk"

    def __init__(
        self, streams: int, direction: str, *, workers: int = 1, network: str = "loopback"
    ) -> None:
        plain = workers == 1 and network == "loopback"
        where = "" if network == "loopback" else f"-{network}"
        crowd = "" if workers == 1 else f"-{workers}workers"
        self.name = f"bulk-{streams}-{direction}{where}{crowd}"
        self.title = f"bulk, {streams} stream{'s' if streams > 1 else ''} {direction}"
        self.label = f"{streams} {direction}"
        if not plain:
            self.group = network if workers == 1 else "workers"
            self.label = f"bulk {self.label}" + (f", {workers} w" if workers > 1 else "")
        self.quick = plain and (streams, direction) in _QUICK
        self.workers = workers
        self.network = network
        self._streams = streams
        self._direction = direction
        bounds = (1.0, 0.85) if plain and streams < 16 else (None, None)
        self.metrics = (
            Metric("gbit_per_s", "Gbit/s", True, *((1.0, 1.1) if plain else (None, None))),
            Metric("proxy_s_per_gb", "proxy CPU s/GB", False, *bounds),
            Metric("machine_s_per_gb", "machine CPU s/GB", False, plotted=False),
        )

    def measure(self, rig: Rig, target: Target) -> dict[str, float]:
        meter = Meter(target.pids)
        address = target.addresses["bulk"]
        report = iperf(rig.prefix("load"), address, self._direction, self._streams, rig.seconds)
        found = proxy_cost(meter, target, report.bytes / 1e9, "s_per_gb", 1)
        found["gbit_per_s"] = report.gbit_per_second
        return found


def bulk_workloads() -> list[Workload]:
    """Every number of streams in every direction."""
    return [Bulk(streams, way) for streams in (1, 4, 16) for way in ("up", "down", "bidir")]
