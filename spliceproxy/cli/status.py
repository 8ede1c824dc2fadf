"""`spliceproxy status`: what the running proxy does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from spliceproxy.cli.client import admin_option, ask

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_COLOURS = {"up": "green", "draining": "cyan", "down": "red", "ejected": "yellow"}
_ENDS = {"soon": "yellow", "expired": "red", "not_yet": "red"}
_NAMES = 4
"""Names of a certificate that are shown, at most."""
_WIDE = 10_000
"""Columns of an output that is no terminal: nothing is cut."""


@click.command(short_help="Show the running proxy: workers, listeners, pools.")
@click.option("--json", "as_json", is_flag=True, help="Print what the door answers.")
@admin_option
def status(as_json: bool, admin: str | None) -> None:
    """Show the running proxy: its workers, listeners, pools and upstreams.

    An upstream is up, down (its health checks fail), ejected (live sessions failed on it) or
    draining (somebody said so). A listener that is draining lets nobody in. Sessions are those
    that live at this moment; beside a pool stands how many clients wait in its queue, if any.
    Certificates of listeners are shown with the time that is left of them; of a file that cannot
    be used (broken) what was good last is shown to clients.
    """
    answer = ask(admin, "GET", "/api/v1/status")
    if as_json:
        click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
        return
    from rich.console import Console

    # Addresses are no markup, though [::1]:80 looks like it.
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDE
    for part in _parts(answer):
        console.print(part)


def _parts(answer: dict[str, Any]) -> list[RenderableType]:
    head = (
        f"spliceproxy {answer['version']}  pid {answer['pid']}  "
        f"up {_duration(answer['uptime_seconds'])}  sessions {answer['sessions']}"
    )
    if answer["older_sessions"]:
        head += f"  and {answer['older_sessions']} of before an upgrade"
    tables = [_workers(answer["workers"]), _listeners(answer["listeners"])]
    if any(one.get("certificates") for one in answer["listeners"]):
        tables.append(_certificates(answer["listeners"]))
    tables.append(_pools(answer["pools"]))
    return [head, *(part for table in tables for part in ("", table))]


def _workers(workers: list[dict[str, Any]]) -> Table:
    table = _table("worker", "pid", "state")
    for one in workers:
        state = "ready" if one["ready"] else "starting" if one["pid"] else "away"
        table.add_row(str(one["worker"]), str(one["pid"] or "-"), state, str(one["sessions"]))
    return table


def _listeners(listeners: list[dict[str, Any]]) -> Table:
    table = _table("listener", "addresses", "pool")
    for one in listeners:
        most = one["max_sessions"]
        sessions = f"{one['sessions']} of {most}" if most else str(one["sessions"])
        where = "draining" if one["draining"] else ", ".join(one["addresses"]) or "-"
        table.add_row(one["name"], where, ", ".join(one["pools"]), sessions)
    return table


def _certificates(listeners: list[dict[str, Any]]) -> Table:
    from rich.text import Text

    table = _table("listener", "certificate", "names", last="ends in")
    for listener in listeners:
        name = listener["name"]
        for one in listener["certificates"]:
            words = {"expired": "ended", "not_yet": "not valid yet"}
            ends = words.get(one["state"]) or _duration(one["days_left"] * 86_400)
            names = ", ".join(one["names"][:_NAMES])
            if len(one["names"]) > _NAMES:
                names += f" and {len(one['names']) - _NAMES} more"
            table.add_row(name, one["file"], names or "-", Text(ends, _ENDS.get(one["state"], "")))
            name = ""
        for one in listener.get("broken_files", ()):
            table.add_row(name, one["file"], one["problem"], Text("broken", "red"))
            name = ""
        if failed := listener["failed_handshakes"]:
            noun = "handshake" if failed == 1 else "handshakes"
            table.add_row(name, f"{failed} {noun} failed", "", "")
    return table


def _pools(pools: list[dict[str, Any]]) -> Table:
    from rich.text import Text

    table = _table("pool", "upstream", "state", "tier", "weight")
    for pool in pools:
        name = pool["name"]
        if pool["waiting"]:
            name += f" ({pool['waiting']} waiting)"
        for one in pool["upstreams"]:
            state = Text(", ".join(one["states"]), _COLOURS.get(one["states"][0], ""))
            numbers = (str(one[key]) for key in ("tier", "weight", "sessions"))
            table.add_row(name, one["name"], state, *numbers)
            name = ""
    return table


def _table(*columns: str, last: str = "sessions") -> Table:
    """A table without lines; its last column is a number."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        justify = "right" if column in ("tier", "weight") else "left"
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    table.add_column(last, justify="right", no_wrap=True)
    return table


def _duration(seconds: float) -> str:
    """`4s`, `3m 4s`, `2h 3m`, `1d 2h`: the two largest units."""
    left = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        number, left = divmod(left, size)
        if number or parts or unit == "s":
            parts.append(f"{number}{unit}")
    return " ".join(parts[:2])
