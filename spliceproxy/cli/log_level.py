"""`spliceproxy log-level LEVEL`: how much the running proxy logs."""

from __future__ import annotations

import click

from spliceproxy.cli.client import Admin, admin_option, ask

LEVELS = ("debug", "info", "warning", "error")


@click.command("log-level", short_help="Have the running proxy log more, or less.")
@click.argument("level", metavar="LEVEL", type=click.Choice(LEVELS))
@admin_option
def log_level(level: str, admin: Admin) -> None:
    """Have the running proxy log messages of LEVEL and above, without touching its configuration:
    debug, info, warning or error.

    It holds until a reload that changes `log.level`, or the end of the process.
    """
    done = ask(admin, "POST", "/api/v1/log-level", {"level": level})
    click.echo(f"log level {done['before']} → {done['level']}")
