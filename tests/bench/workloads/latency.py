"""How long an answer takes: at fixed arrival rates, and beside bulk."""

from __future__ import annotations

import json
import random

from bench.cpu import Meter
from bench.load.iperf import parse_iperf, start_iperf
from bench.peers.base import Target
from bench.programs import run, script
from bench.workloads.base import Metric, Rig, Workload, proxy_cost

CONNECTIONS = 128


class OpenLoop(Workload):
    """Requests that come whether or not the last one was answered.

    The capacity is found by the same program in a closed loop through every peer, right before the
    first round; the slowest one's is 100 %.
    """

    group = "latency"

    def __init__(self, percent: int) -> None:
        self.name = f"latency-{percent}"
        self.title = f"open loop, 12 B body, {percent} % of the slowest peer's capacity"
        self.label = f"{percent} %"
        self.quick = percent == 50
        self._share = percent / 100
        self._rate = 0.0
        bounds = (1.1, 1.0) if percent == 50 else (None, None)
        self.metrics = (
            Metric("p50_us", "p50 µs", False),
            Metric("p99_us", "p99 µs", False, *bounds),
            Metric("p999_us", "p99.9 µs", False),
        )

    def prepare(self, rig: Rig, targets: list[Target]) -> None:
        rates = [
            self._ask(rig, target, 0, 1, 0)["per_second"]
            for target in targets
            if target.running is not None
        ]
        self._rate = min(rates) * self._share

    def measure(self, rig: Rig, target: Target) -> dict[str, float]:
        seconds = rig.seconds if rig.quick else rig.seconds + 1
        meter = Meter(target.pids)
        seed = random.SystemRandom().randrange(2**32)
        found = self._ask(rig, target, self._rate, seconds, seed)
        cost = proxy_cost(meter, target, max(found["count"], 1), "us", 1e6)
        return {**found, **cost, "rate": self._rate, "seed": seed}

    @staticmethod
    def _ask(rig: Rig, target: Target, rate: float, seconds: int, seed: int) -> dict[str, float]:
        host, port = target.addresses["http"]
        words = script("load.openloop", host, port, "/12", rate, seconds, CONNECTIONS, seed)
        found: dict[str, float] = json.loads(run([*rig.prefix("load"), *words], seconds + 30))
        return found


class EchoBesideBulk(Workload):
    """One message at a time goes there and back while four downloads take all that they can."""

    name = "echo-beside-bulk"
    title = "echo round trip, 100 B, beside 4 bulk downloads"
    group = "beside bulk"
    label = "echo"
    quick = True
    tuning = "bulk"
    metrics = (
        Metric("p50_us", "p50 µs", False),
        Metric("p99_us", "p99 µs", False, 1.5, 1.0),
        Metric("gbit_per_s", "Gbit/s beside it", True, plotted=False),
    )

    def measure(self, rig: Rig, target: Target) -> dict[str, float]:
        host, port = target.addresses["echo"]
        seconds = rig.seconds if rig.quick else rig.seconds + 1
        # The downloads begin before the first echo and end after the last.
        iperf = start_iperf(rig.prefix("load"), target.addresses["bulk"], "down", 4, seconds + 1)
        try:
            words = script("load.echo", host, port, seconds, 100)
            found: dict[str, float] = json.loads(run([*rig.prefix("load"), *words], seconds + 20))
            output, _ = iperf.communicate(timeout=20)
        except BaseException:
            iperf.kill()
            iperf.communicate()
            raise
        report = parse_iperf(output)
        return {**found, "gbit_per_s": report.gbit_per_second}
