"""`spliceproxy weight TARGET N`: another share of the new sessions."""

from __future__ import annotations

import click

from spliceproxy.cli import suggestions
from spliceproxy.cli.client import Admin, admin_option, ask

_TIMEOUT = 30.0
"""Seconds for the answer: a reload under way may take so long."""
_DEFAULT = "default"


def _weight(_context: click.Context, _option: click.Parameter, text: str) -> int | None:
    if text == _DEFAULT:
        return None
    if not text.isdecimal():
        raise click.BadParameter(f'"{text}" is no weight; write a number, or {_DEFAULT}')
    return int(text)


@click.command(short_help="Give an upstream another share of the new sessions.")
@click.argument("target", shell_complete=suggestions.upstream_targets)
@click.argument("weight", metavar="N|default", callback=_weight)
@admin_option
def weight(target: str, weight: int | None, admin: Admin) -> None:
    """Give TARGET the weight N, whatever the configuration says; `default` takes that back.

    TARGET is pool/NAME/UPSTREAM, with the name that `spliceproxy status` shows. It gets its share
    of the new sessions by its weight; with 0 it gets none, and the sessions that it has go on. The
    weight stays over reloads and upgrades.

    \b
    Examples:
      spliceproxy weight pool/app/10.0.0.1:80 3
      spliceproxy weight pool/app/10.0.0.1:80 default
    """
    order = {"target": target, "weight": weight}
    done = ask(admin, "POST", "/api/v1/weight", order, _TIMEOUT)
    now, configured = done["weight"], done["configured_weight"]
    said = f"weight {now}" if now == configured else f"weight {now}, configured {configured}"
    click.echo(f"{target}: {said}" + ("" if done["changed"] else " (as before)"))
