"""`spliceproxy upgrade`: have the running proxy replaced by a new process of the program."""

from __future__ import annotations

import click

from spliceproxy.cli.client import Admin, admin_option, ask

_TIMEOUT = 60.0
"""Seconds: the new process has 30 to be ready, and the old one's queues are emptied."""


@click.command(short_help="Replace the running proxy, and lose no connection.")
@admin_option
def upgrade(admin: Admin) -> None:
    """Replace the running proxy by a new process, without a lost connection.

    The new process is the program as it is installed now, with the same command line. It reads the
    configuration anew (keys that a reload cannot change too), and takes over the listening sockets
    and this door when it is ready. The old process stays until its sessions have ended, without
    limit. If the new one does not start, the old one goes on, the problems are told, and the exit
    code is 1.

    What was drained, and which upstreams are down, stays so. Session limits count for each of the
    two processes by itself.
    """
    done = ask(admin, "POST", "/api/v1/upgrade", timeout=_TIMEOUT)
    sessions = done["sessions"]
    if sessions:
        what = "1 session" if sessions == 1 else f"{sessions} sessions"
        click.echo(f"pid {done['pid']} serves now; {what} of before go on in the old process")
    else:
        click.echo(f"pid {done['pid']} serves now; no session of before is left")
