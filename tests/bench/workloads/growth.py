"""What idle sessions cost the busy ones."""

from __future__ import annotations

from bench.cpu import Meter
from bench.load.hold import holding
from bench.load.wrk import wrk
from bench.peers.base import Target
from bench.workloads.base import Metric, Rig, Workload

SIZES = (10, 100, 1000, 8000)


class Growth(Workload):
    """64 busy connections, while more and more others are connected and silent."""

    name = "growth"
    title = "12 B body, 64 busy connections beside idle ones"
    group = "growth"
    quick = True
    rounds = 3
    metrics = (
        *(Metric(f"requests_per_s_{size}", f"requests/s beside {size}", True) for size in SIZES),
        Metric("kept", "share of the requests/s kept", True, 0.95, absolute=True),
        *(
            Metric(f"proxy_us_{size}", f"proxy CPU µs/request beside {size}", False, plotted=False)
            for size in (0, 8000)
        ),
    )

    def measure(self, rig: Rig, target: Target) -> dict[str, float]:
        found = {}
        for size in (0, 8000) if rig.quick else (0, *SIZES):
            with holding(rig.prefix("load"), target.addresses["hold"], size):
                meter = Meter(target.pids)
                report = wrk(rig.prefix("load"), target.addresses["http"], "/12", 64, rig.seconds)
                used = meter.used()
            found[f"requests_per_s_{size}"] = report.requests / report.seconds
            if target.running is not None:
                found[f"proxy_us_{size}"] = used.proxy / report.requests * 1e6
        found["kept"] = found["requests_per_s_8000"] / found["requests_per_s_0"]
        return found
