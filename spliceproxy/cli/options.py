"""Options that several commands have: times, and filters of sessions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

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
    filters = (
        ("--listener", "NAME", "Those of this listener."),
        ("--pool", "NAME", "Those that were sent to this pool."),
        ("--upstream", "NAME", "Those with this upstream, as `status` names it."),
        (
            "--client",
            "ADDRESS",
            "Those of this client: an address, with or without its port, or a network.",
        ),
        ("--route", "NAME", "Those that took this route: routes[0] is the first one."),
        ("--sni", "NAME", "Those that asked for this name by TLS."),
    )
    for name, metavar, text in reversed(filters):
        command = click.option(name, metavar=metavar, help=text)(command)
    return command
