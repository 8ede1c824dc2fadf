"""`spliceproxy drain TARGET` and `undrain TARGET`: an upstream keeps its sessions, takes no new."""

from __future__ import annotations

import time
from typing import Any

import click

from spliceproxy.cli.client import admin_option, ask
from spliceproxy.errors import EXIT_FAILED, EXIT_OK

_LOOK = 0.2
"""Seconds between two looks at the sessions that are left."""


@click.command
@click.argument("target")
@click.option(
    "--wait",
    "patience",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help="Wait until its sessions have ended; exit code 1 when they have not by then.",
)
@admin_option
def drain(target: str, patience: float | None, admin: str | None) -> int:
    """Let TARGET take no new sessions; those that it has go on.

    TARGET is pool/NAME for all upstreams of a pool, or pool/NAME/UPSTREAM for one of them, with
    the name that `spliceproxy status` shows. It stays drained over a reload, until `undrain`.

    \b
    Examples:
      spliceproxy drain pool/app/10.0.0.1:80
      spliceproxy drain pool/app/10.0.0.1:80 --wait 300 && ssh 10.0.0.1 upgrade
    """
    drained = ask(admin, "POST", "/v1/drain", {"target": target})
    click.echo(f"{target}: draining, {_sessions(drained['sessions'])}")
    if not drained["left"]:
        pool = target.split("/")[1]
        click.echo(f"every upstream of pool {pool} is draining: it takes no client", err=True)
    if patience is None:
        return EXIT_OK
    return _wait(target, drained["upstreams"], patience, admin)


@click.command
@click.argument("target")
@admin_option
def undrain(target: str, admin: str | None) -> None:
    """Let TARGET take new sessions again.

    TARGET is what was drained: pool/NAME or pool/NAME/UPSTREAM.
    """
    undrained = ask(admin, "POST", "/v1/undrain", {"target": target})
    what = "takes new sessions again" if undrained["changed"] else "was not draining"
    click.echo(f"{target}: {what}")


def _wait(target: str, upstreams: list[str], patience: float, admin: str | None) -> int:
    """Tell each change of the number of sessions until it is 0, or `patience` seconds are over."""
    deadline = time.monotonic() + patience
    shown = None
    while True:
        left = _left(ask(admin, "GET", "/v1/status"), target.split("/")[1], upstreams)
        if not left:
            click.echo(f"{target}: drained")
            return EXIT_OK
        pause = min(_LOOK, deadline - time.monotonic())
        if pause <= 0:
            click.echo(f"{target}: {_sessions(left)} left after {patience:g} s", err=True)
            return EXIT_FAILED
        if shown is not None and left != shown:
            click.echo(f"{target}: {_sessions(left)}")
        shown = left
        time.sleep(pause)


def _left(status: dict[str, Any], pool: str, upstreams: list[str]) -> int:
    """Live sessions of these upstreams of a pool; those of one that is gone have no place here."""
    return sum(
        int(upstream["sessions"])
        for one in status["pools"]
        if one["name"] == pool
        for upstream in one["upstreams"]
        if upstream["name"] in upstreams
    )


def _sessions(number: int) -> str:
    return f"{number} session" if number == 1 else f"{number} sessions"
