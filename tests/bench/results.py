"""What was measured, as it is kept in JSON, and the figures that follow from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.workloads.base import Metric, Workload

OURS = "spliceproxy"
Round = dict[str, float]
_AT_LIMIT = 0.95


@dataclass
class Measured:
    """One workload: for each peer the rounds, for each round the metrics' values."""

    name: str
    title: str
    group: str
    label: str
    metrics: list[Metric]
    pinning: str = ""
    rounds: dict[str, list[Round]] = field(default_factory=dict)
    compared: list[str] = field(default_factory=list)
    """The peers that ours is compared with."""
    took: float = 0.0
    """Seconds for all rounds."""
    notes: list[str] = field(default_factory=list)
    """What went wrong or is missing."""

    @classmethod
    def of(cls, workload: Workload, pinning: str) -> Measured:
        """An empty one."""
        return cls(
            workload.name,
            workload.title,
            workload.group,
            workload.label,
            list(workload.metrics),
            pinning,
        )

    def median(self, peer: str, metric: str) -> float | None:
        """The median over the rounds; None where it was not measured."""
        values = [r[metric] for r in self.rounds.get(peer, []) if metric in r]
        return median(values) if values else None

    def best_peer(self, metric: Metric) -> str | None:
        """The peer whose median is best; None where there is none to compare with."""
        found = {peer: self.median(peer, metric.name) for peer in self.compared}
        known = {peer: value for peer, value in found.items() if value is not None}
        if not known:
            return None
        pick = max if metric.higher_is_better else min
        return pick(known, key=lambda peer: known[peer])

    def ratio(self, metric: Metric, ours: str = OURS) -> float | None:
        """Ours to the best peer of the same round, median of the rounds."""
        ratios = []
        for number, mine in enumerate(self.rounds.get(ours, [])):
            others = [
                self.rounds[peer][number][metric.name]
                for peer in self.compared
                if number < len(self.rounds.get(peer, []))
                and metric.name in self.rounds[peer][number]
            ]
            if others and metric.name in mine:
                best = max(others) if metric.higher_is_better else min(others)
                # Where the best costs nothing that can be measured there is no ratio.
                if best > 0:
                    ratios.append(mine[metric.name] / best)
        return median(ratios) if ratios else None

    def limited_by_load(self) -> bool:
        """Whether neither ours nor a peer's CPU was at its limit: then rates say too little."""
        busy = [self.median(peer, "proxy_busy") for peer in (OURS, *self.compared)]
        known = [share for share in busy if share is not None]
        return bool(known) and max(known) < _AT_LIMIT

    def judged(self, metric: Metric) -> float | None:
        """What the metric's target speaks of: a ratio, or our own figure."""
        return self.median(OURS, metric.name) if metric.absolute else self.ratio(metric)


@dataclass
class Results:
    """One run of the benchmark."""

    machine: Mapping[str, Any]
    options: Mapping[str, Any]
    versions: Mapping[str, str]
    missing: dict[str, str]
    workloads: list[Measured] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Keep them."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Results:
        """What write() kept. Raises OSError, ValueError."""
        data = json.loads(path.read_text())
        measured = []
        for each in data.pop("workloads"):
            metrics = [Metric(**metric) for metric in each.pop("metrics")]
            measured.append(Measured(metrics=metrics, **each))
        return cls(workloads=measured, **data)
