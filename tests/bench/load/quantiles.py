"""Quantiles of measured times."""

from __future__ import annotations

from collections.abc import Sequence


def quantiles_us(nanoseconds: Sequence[int]) -> dict[str, float]:
    """p50, p99 and p99.9 in microseconds, and how many there were."""
    ordered = sorted(nanoseconds)

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] / 1000

    return {"count": len(ordered), "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999)}
