"""`spliceproxy reload`: have the running proxy read its configuration again."""

from __future__ import annotations

import click

from spliceproxy.cli.client import Admin, admin_option, ask

_TIMEOUT = 60.0
"""Seconds: host names are looked up again, and DNS servers may be silent."""


@click.command
@admin_option
def reload(admin: Admin) -> None:
    """Put the configuration in force as it is now in its file.

    Tells what differs, once every worker obeys it. If the file is wrong, nothing changes, the
    problems are told, and the exit code is 1.

    \b
    + listener db
    ~ pool app: upstream 10.0.0.1:80: weight 1 → 3
    """
    for line in ask(admin, "POST", "/api/v1/reload", timeout=_TIMEOUT)["changes"] or [
        "nothing changed"
    ]:
        click.echo(line)
