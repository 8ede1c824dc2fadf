"""What is measured. A workload is a class in a module of its own; `all_workloads` has them all."""

from __future__ import annotations

from bench.workloads.base import Metric, Rig, Workload
from bench.workloads.bulk import Bulk, bulk_workloads
from bench.workloads.connections import ConnectionRate
from bench.workloads.growth import Growth
from bench.workloads.idle import Idle
from bench.workloads.keepalive import KeepAlive, keep_alive_workloads
from bench.workloads.latency import EchoBesideBulk, OpenLoop
from bench.workloads.named import NamedRate
from bench.workloads.tls import TlsBulk, TlsHandshakes, TlsKeepAlive


def all_workloads() -> list[Workload]:
    """Every workload, in the order in which they are run."""
    return [
        *keep_alive_workloads(),
        ConnectionRate(),
        NamedRate(),
        TlsKeepAlive(),
        TlsBulk(1),
        TlsBulk(4),
        TlsHandshakes(),
        *bulk_workloads(),
        *(OpenLoop(percent) for percent in (25, 50, 75)),
        EchoBesideBulk(),
        Idle(spoken=False),
        Idle(spoken=True),
        Growth(),
        KeepAlive(12, 64, workers=2),
        ConnectionRate(workers=2),
        Bulk(4, "down", workers=2),
        KeepAlive(12, 64, network="veth"),
        KeepAlive(64 * 1024, 64, network="veth"),
        Bulk(1, "down", network="veth"),
        Bulk(4, "up", network="veth"),
    ]


__all__ = ["Metric", "Rig", "Workload", "all_workloads"]
