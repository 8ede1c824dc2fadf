"""What is measured. A workload is a class in a module of its own; `all_workloads` has them all."""

from __future__ import annotations

from bench.workloads.base import Metric, Rig, Workload
from bench.workloads.bulk import bulk_workloads
from bench.workloads.connections import ConnectionRate
from bench.workloads.keepalive import keep_alive_workloads


def all_workloads() -> list[Workload]:
    """Every workload, in the order in which they are run."""
    return [*keep_alive_workloads(), ConnectionRate(), *bulk_workloads()]


__all__ = ["Metric", "Rig", "Workload", "all_workloads"]
