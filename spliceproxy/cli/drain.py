"""`spliceproxy drain TARGET` and `undrain TARGET`: no new sessions; those that are there go on, or
end one by one over a time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import click

from spliceproxy.cli import suggestions, text
from spliceproxy.cli.client import Admin, admin_option, ask, with_query
from spliceproxy.cli.options import seconds
from spliceproxy.errors import EXIT_FAILED, EXIT_OK

_LOOK = 0.2
"""Seconds between two looks at the sessions that are left."""
_TELL = 1.0
"""Seconds between two lines about sessions that are being ended."""
_GRACE = 10.0
"""Seconds after its time in which a paced drain must be over."""
_TIMEOUT = 30.0
"""Seconds for the answer to an order: a reload under way, or names that are looked up, may take
so long."""


@click.command
@click.argument("target", shell_complete=suggestions.drain_targets)
@click.option(
    "--over",
    metavar="TIME",
    callback=seconds,
    help="End its sessions within this time, the idle ones first: 60s, 5m, 0 for at once.",
)
@click.option(
    "--wait",
    "patience",
    metavar="TIME",
    callback=seconds,
    help="Wait so long for its sessions to end: 300, 5m; exit code 1 when they have not by then.",
)
@admin_option
def drain(target: str, over: float | None, patience: float | None, admin: Admin) -> int:
    """Let TARGET take no new sessions; those that it has go on.

    TARGET is pool/NAME for all upstreams of a pool, pool/NAME/UPSTREAM for one of them, with the
    name that `spliceproxy status` shows, listener/NAME, or all, which is every listener. A
    listener gives up its addresses, so that new clients are refused. TARGET stays drained over
    reloads and upgrades, until `undrain`.

    With --over its sessions are ended, by a reset, evenly and at random moments, those that are
    silent longest first, and none is left after TIME. The command tells how many there are, and
    ends with them; interrupting it stops only the telling.

    Sessions of before an upgrade, which an old process has, are TARGET's as all others. An old
    process that does not answer is told: its sessions may be left.

    \b
    Examples:
      spliceproxy drain pool/app/10.0.0.1:80 --over 60s
      spliceproxy drain pool/app/10.0.0.1:80 --wait 300 && ssh 10.0.0.1 upgrade
      spliceproxy drain all --over 5m && systemctl stop spliceproxy
    """
    if over is not None and patience is not None:
        raise click.UsageError("--over ends when the sessions have; leave --wait out")
    order: dict[str, Any] = {"target": target} | ({} if over is None else {"over": over})
    drained = ask(admin, "POST", "/api/v1/drain", order, _TIMEOUT)
    click.echo(f"{target}: draining, {_sessions(drained['sessions'])}")
    if not drained["left"]:
        click.echo(_nobody_left(target), err=True)
    _tell_unreached(drained)
    if over is not None:
        return _follow(drained, over, admin)
    if patience is not None:
        return _wait(drained, patience, admin)
    return EXIT_OK


@click.command(short_help="Let TARGET take new sessions again.")
@click.argument("target", shell_complete=suggestions.drain_targets)
@admin_option
def undrain(target: str, admin: Admin) -> None:
    """Let TARGET take new sessions again, and let those that it has live.

    TARGET is what was drained: pool/NAME, pool/NAME/UPSTREAM, listener/NAME or all. A listener
    binds its addresses again; if one of them is in use by now, nothing changes.
    """
    undrained = ask(admin, "POST", "/api/v1/undrain", {"target": target}, _TIMEOUT)
    what = "takes new sessions again" if undrained["changed"] else "was not draining"
    click.echo(f"{target}: {what}")
    _tell_unreached(undrained)


def _tell_unreached(answer: dict[str, Any]) -> None:
    for one in text.silent(answer):
        click.echo(f"not reached: {one}", err=True)


def _nobody_left(target: str) -> str:
    if target.startswith("pool/"):
        pool = target.split("/")[1]
        return f"every upstream of pool {pool} is draining: it takes no client"
    return "every listener is draining: no client gets in"


def _wait(drained: dict[str, Any], patience: float, admin: Admin) -> int:
    """Tell each change of the number of sessions until it is 0, or `patience` seconds are over."""
    target = drained["target"]
    deadline = time.monotonic() + patience
    shown: int | None = None
    while True:
        now = _look(drained, admin)
        if now.over:
            click.echo(f"{target}: drained")
            return EXIT_OK
        pause = min(now.pause, deadline - time.monotonic())
        if pause <= 0:
            click.echo(f"{target}: {now.told} left after {patience:g} s", err=True)
            return EXIT_FAILED
        if shown not in (None, now.sessions):
            click.echo(f"{target}: {_sessions(now.sessions)}")
        shown = now.sessions
        time.sleep(pause)


def _follow(drained: dict[str, Any], over: float, admin: Admin) -> int:
    """Tell once a second how many sessions are left, until there is none.

    Somebody may call it off meanwhile; then the exit code is 1. Those of an upgrade meanwhile end
    in their time as well.
    """
    target = drained["target"]
    began = told = time.monotonic()
    shown = drained["sessions"]
    while True:
        now = _look(drained, admin)
        time_now = time.monotonic()
        if now.over:
            click.echo(f"{target}: drained")
            return EXIT_OK
        if not _is_draining(now.status, drained):
            left = _sessions(now.sessions)
            click.echo(f"{target}: undrained meanwhile, {left} left", err=True)
            return EXIT_FAILED
        if time_now - began > over + _GRACE:
            click.echo(f"{target}: {now.told} left after {time_now - began:.0f} s", err=True)
            return EXIT_FAILED
        if now.sessions != shown and time_now - told >= _TELL:
            click.echo(f"{target}: {_sessions(now.sessions)}")
            shown, told = now.sessions, time_now
        time.sleep(now.pause)


@dataclass(frozen=True, slots=True)
class _Look:
    """What is left of the sessions that were drained, at one moment."""

    status: dict[str, Any]
    sessions: int
    silent: list[str]
    """Who did not tell whether there are more."""
    pause: float
    """Seconds until the next look."""

    @property
    def over(self) -> bool:
        return not self.sessions and not self.silent

    @property
    def told(self) -> str:
        number = _sessions(self.sessions)
        return f"{number} (not told by {', '.join(self.silent)})" if self.silent else number


def _look(drained: dict[str, Any], admin: Admin) -> _Look:
    """Ask the status; while an old process has sessions, whether they are meant is asked of all."""
    status = ask(admin, "GET", "/api/v1/status")
    if not status.get("older_sessions", 0):
        return _Look(status, _left(status, drained), [], _LOOK)
    found = ask(admin, "GET", with_query("/api/v1/sessions", [*_filters(drained), ("limit", 1)]))
    return _Look(status, int(found["matching"]), text.silent(found), _TELL)


def _filters(drained: dict[str, Any]) -> list[tuple[str, str]]:
    """Those of `sessions` that mean what was drained."""
    kind, _, rest = drained["target"].partition("/")
    if kind != "pool":
        return [(kind, rest)] if rest else []
    pool, _, upstream = rest.partition("/")
    # Who waits in the pool's queue has no upstream yet, and is not meant.
    connected = [("pool", pool), ("phase", "relay")]
    return [*connected, ("upstream", upstream)] if upstream else connected


def _left(status: dict[str, Any], drained: dict[str, Any]) -> int:
    """Live sessions of what was drained; those of what is gone have no place here."""
    if drained["target"] == "all":
        return int(status["sessions"])
    return sum(int(one["sessions"]) for one in _meant(status, drained))


def _is_draining(status: dict[str, Any], drained: dict[str, Any]) -> bool:
    """Whether all of it is draining, as far as it is configured."""
    return all(
        one["draining"] if "draining" in one else "draining" in one["states"]
        for one in _meant(status, drained)
    )


def _meant(status: dict[str, Any], drained: dict[str, Any]) -> list[dict[str, Any]]:
    """The upstreams or listeners of the status that the order named."""
    if not drained["target"].startswith("pool/"):
        return [one for one in status["listeners"] if one["name"] in drained["listeners"]]
    pool, names = drained["target"].split("/")[1], set(drained["upstreams"])
    return [
        upstream
        for one in status["pools"]
        if one["name"] == pool
        for upstream in one["upstreams"]
        if upstream["name"] in names
    ]


def _sessions(number: int) -> str:
    return text.plural(number, "session")
