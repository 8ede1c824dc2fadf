"""TLS that is passed on by its name: how many sessions a second."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from bench.cpu import Meter
from bench.load.tls import hello_script
from bench.load.wrk import wrk
from bench.origins import NAMES
from bench.peers.base import Target
from bench.workloads.base import Metric, Rig, Workload, proxy_cost


class NamedRate(Workload):
    """wrk sends ClientHellos; the origin of each name answers a line and closes."""

    name = "sni"
    title = "ClientHello, routed by one of 8 names, answer, close; 64 at once"
    group = "tls-passed-on"
    label = "by SNI"
    quick = True
    tuning = "sni"
    metrics = (
        Metric("connections_per_s", "sessions/s", True),
        Metric("proxy_us", "proxy CPU µs/session", False),
        Metric("machine_us", "machine CPU µs/session", False, plotted=False),
    )

    def measure(self, rig: Rig, target: Target) -> dict[str, float]:
        with TemporaryDirectory(prefix="bench-sni-") as directory:
            script = Path(directory) / "hello.lua"
            script.write_text(hello_script(NAMES))
            meter = Meter(target.pids)
            address = target.addresses["sni"]
            report = wrk(rig.prefix("load"), address, "/", 64, rig.seconds, script=script)
            found = proxy_cost(meter, target, report.requests, "us", 1e6)
        found["connections_per_s"] = report.requests / report.seconds
        return found
