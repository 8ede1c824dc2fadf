"""From SRV records to weights and tiers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from spliceproxy.control.discovery.resolver import Service

_HEAVIEST = 256
"""The highest weight of the configuration; a record's goes up to 65535."""


def ranked(services: Sequence[Service]) -> list[tuple[Service, int]]:
    """Each record with its tier: the lowest priority is 0, the next one 1, and so on.

    Weights become 1 to 256, in the same proportions where the highest is more than that. RFC 2782
    gives the weight 0 a small chance to be chosen, and so does the weight 1.
    """
    tiers = {priority: n for n, priority in enumerate(sorted({one.priority for one in services}))}
    heaviest: dict[int, int] = {}
    for one in services:
        heaviest[one.priority] = max(heaviest.get(one.priority, 0), one.weight)
    found = []
    for one in services:
        most = heaviest[one.priority]
        weight = one.weight if most <= _HEAVIEST else round(one.weight * _HEAVIEST / most)
        found.append((replace(one, weight=max(1, weight)), tiers[one.priority]))
    return found
