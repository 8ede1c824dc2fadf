"""What a shell offers at Tab, where only the running proxy knows: names and targets.

Nothing is offered, and nothing is said, where no proxy answers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import click

from spliceproxy.cli.client import Admin, ask
from spliceproxy.errors import SpliceproxyError

_PATIENCE = 1.0
"""Seconds for which a shell may stand still."""

Suggest = Callable[[click.Context, click.Parameter, str], list[str]]
Json = dict[str, Any]


def _suggest(names_of: Callable[[Json], Iterator[str]]) -> Suggest:
    def suggest(context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
        admin = Admin(context.params.get("admin"), context.params.get("token_file"))
        try:
            status = ask(admin, "GET", "/api/v1/status", timeout=_PATIENCE)
        except SpliceproxyError:
            return []
        return [name for name in dict.fromkeys(names_of(status)) if name.startswith(begun)]

    return suggest


def _upstream_targets(status: Json) -> Iterator[str]:
    for pool in status["pools"]:
        for upstream in pool["upstreams"]:
            yield f"pool/{pool['name']}/{upstream['name']}"


def _drain_targets(status: Json) -> Iterator[str]:
    yield "all"
    yield from (f"listener/{one['name']}" for one in status["listeners"])
    yield from (f"pool/{one['name']}" for one in status["pools"])
    yield from _upstream_targets(status)


listeners = _suggest(lambda status: (one["name"] for one in status["listeners"]))
pools = _suggest(lambda status: (one["name"] for one in status["pools"]))
upstreams = _suggest(
    lambda status: (one["name"] for pool in status["pools"] for one in pool["upstreams"])
)
drain_targets = _suggest(_drain_targets)
"""What can be drained."""
upstream_targets = _suggest(_upstream_targets)
"""Single upstreams, as orders name them."""


def whys(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Reasons for which sessions end."""
    from spliceproxy.telemetry.record import WHYS

    return sorted(why for why in WHYS if why.startswith(begun))
