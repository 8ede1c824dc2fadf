"""Options that several commands have: times, and filters of sessions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from spliceproxy.cli import suggestions

F = TypeVar("F", bound=Callable[..., Any])


def seconds(_context: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    """The callback of an option with a time: `60s`, `5m`, `1h`, as in the configuration, or a
    plain number of seconds."""
    from spliceproxy.config import units

    if text is None:
        return None
    try:
        return units.time(text if text[-1:].isalpha() else f"{text}s")
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def filter_options(command: F) -> F:
    """Add the filters that sessions and their records have in common."""
    client = "Those of this client: an address, with or without its port, or a network."
    options = (
        _filter("--listener", "NAME", "Those of this listener.", suggestions.listeners),
        _filter("--pool", "NAME", "Those that were sent to this pool.", suggestions.pools),
        _filter("--upstream", "NAME", "Those with this upstream.", suggestions.upstreams),
        _filter("--client", "ADDRESS", client),
        _filter("--route", "NAME", "Those that took this route: routes[0] is the first one."),
        _filter("--sni", "NAME", "Those that asked for this name by TLS."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _filter(
    name: str, metavar: str, text: str, suggest: suggestions.Suggest | None = None
) -> Callable[[F], F]:
    return click.option(name, metavar=metavar, help=text, shell_complete=suggest)
