"""Maglev tables for pools that hash, made here and not where sessions are moved."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from functools import lru_cache

from spliceproxy.balance.maglev import build_table
from spliceproxy.ipc import UpstreamPlan

HASHES = ("source_hash", "sni_hash")
"""The balancing policies that need a table."""


def plan_tables(upstreams: Sequence[UpstreamPlan]) -> Mapping[int, array[int]]:
    """The table of each tier, of indices into `upstreams`.

    Some 0.1 s for each; one whose upstreams did not change since is not made again.
    """
    tiers: dict[int, list[int]] = {}
    for index, upstream in enumerate(upstreams):
        tiers.setdefault(upstream.tier, []).append(index)
    tables = {}
    for tier, members in tiers.items():
        names = tuple(upstreams[index].name for index in members)
        weights = tuple(upstreams[index].weight for index in members)
        table = _table(names, weights)
        tables[tier] = array("H", map(members.__getitem__, table))
    return tables


@lru_cache(maxsize=64)
def _table(names: tuple[str, ...], weights: tuple[int, ...]) -> array[int]:
    return build_table(names, weights)
