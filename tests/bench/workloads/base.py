"""What a workload is: a name, what it needs, and one measurement through one target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.cpu import Meter, Used
from bench.peers.base import Target
from bench.place import Network, Pinning


@dataclass(frozen=True)
class Metric:
    """One figure of a workload."""

    name: str
    unit: str
    higher_is_better: bool
    target: float | None = None
    """Ratio of ours to the best peer that is asked for: at least, or at most."""
    stretch: float | None = None
    absolute: bool = False
    """The target is a bound on our own figure, not a ratio."""
    plotted: bool = True

    def meets(self, value: float, bound: float) -> bool:
        """Whether a ratio (or figure) is as good as the bound."""
        return value >= bound if self.higher_is_better else value <= bound


@dataclass
class Rig:
    """Where one measurement happens."""

    network: Network
    pinning: Pinning
    seconds: int
    """How long one measurement lasts; whole seconds, which is what wrk knows."""
    quick: bool
    progress: Callable[[str], None]

    def prefix(self, part: str) -> list[str]:
        """What goes in front of a command of that part: load, proxy, origin."""
        return [*self.network.prefix(part), *self.pinning.prefix(part)]


class Workload:
    """One thing to measure. A subclass sets what differs, and measures."""

    name = ""
    title = ""
    """What it is, in a line, for people."""
    group = ""
    """Workloads of a group are plotted together."""
    label = ""
    """Its place within the group's plot."""
    quick = False
    """Whether `--quick` has it."""
    tuning = "small"
    """Which of a peer's files it needs, or is its best: small, bulk, sni or tls."""
    workers = 1
    network = "loopback"
    pin = "split"
    """How its parts share the CPUs: see place.py."""
    fresh = False
    """Whether each measurement wants a proxy that has just started."""
    rounds = 0
    """At most so many; 0: as many as are asked for."""
    metrics: tuple[Metric, ...] = ()

    def prepare(self, rig: Rig, targets: list[Target]) -> None:
        """Find out what the measurements need, once before the first round."""

    def measure(self, rig: Rig, target: Target) -> dict[str, float]:
        """One measurement: the value of each metric, and anything else worth keeping."""
        raise NotImplementedError


def proxy_cost(
    meter: Meter, target: Target, units: float, name: str, scale: float
) -> dict[str, float]:
    """Cost per unit of the proxy and of the whole machine; `scale` turns seconds into the unit."""
    used: Used = meter.used()
    cost = {f"machine_{name}": used.machine / units * scale}
    if target.running is not None:
        cost[f"proxy_{name}"] = used.proxy / units * scale
        cost["proxy_busy"] = used.busy
    return cost
