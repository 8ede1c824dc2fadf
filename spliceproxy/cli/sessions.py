"""`spliceproxy sessions`: those that live now, and their end by order."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from spliceproxy.cli import text
from spliceproxy.cli.client import Admin, admin_option, with_query
from spliceproxy.cli.options import filter_options, seconds
from spliceproxy.errors import EXIT_FAILED, EXIT_OK

if TYPE_CHECKING:
    from spliceproxy.cli.connection import Connection

_SORTS = ("age", "idle", "bytes", "rate", "rtt")
_NAMED = 12
"""Names that are told where one is not known."""
_PAGE = 1000
"""Sessions that one answer has at the most."""
_PHASES = ("accept", "proxy", "preread", "tls", "route", "queue", "connect", "relay")

Json = dict[str, Any]


@click.command(short_help="List the live sessions, or reset some of them.")
@click.argument("ids", metavar="[SESSION]...", nargs=-1)
@filter_options
@click.option("--phase", type=click.Choice(_PHASES), help="Those that have come so far.")
@click.option(
    "--min-age", metavar="TIME", callback=seconds, help="Those that live so long: 60s, 5m."
)
@click.option(
    "--min-idle", metavar="TIME", callback=seconds, help="Those that are silent for so long."
)
@click.option(
    "--sort",
    type=click.Choice([*_SORTS, *(f"-{one}" for one in _SORTS)]),
    default="age",
    show_default=True,
    help="The largest first; with a minus the smallest first.",
)
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    help="How many of them are shown.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what the admin API answers.")
@click.option("--reset", is_flag=True, help="Reset those that match, all of them.")
@click.option("--yes", is_flag=True, help="Do not ask before that.")
@admin_option
def sessions(
    ids: Sequence[str],
    sort: str,
    limit: int,
    as_json: bool,
    reset: bool,
    yes: bool,
    admin: Admin,
    **filters: object,
) -> int:
    """List the live sessions that match all that is asked for.

    SESSION is what the column of that name shows; without it all sessions are meant. A session is
    in the phase that it has come to, or in the relay `open`; beside a flow of which there is more
    to say stands its arrow: blocked (its other side takes no more), paused (by `bandwidth`),
    finished or broken. Rates are of the last second; rtt is the client's round-trip time.

    With --reset they are ended at once, on both sides and by a reset, and their records say
    `operator`. It asks first; where it cannot ask, it takes --yes. The exit code is 1 where not
    everybody answered.

    Sessions of before an upgrade are listed and reset as all others; while there are any, the
    column `process` tells which process has each, by its pid.

    \b
    Examples:
      spliceproxy sessions --pool app --sort rate
      spliceproxy sessions --client 10.0.0.0/8 --min-idle 5m --reset
    """
    where = {name: value for name, value in filters.items() if value is not None}
    with admin.connect() as connection:
        if reset:
            return _reset(connection, ids, where, yes)
        answer = _find(connection, ids, where, sort, limit)
        if not answer["matching"] and not as_json:
            _tell_none(connection, where)
    if as_json:
        click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
        return EXIT_OK
    _show(answer)
    return EXIT_OK


def _find(
    connection: Connection, ids: Sequence[str], where: Json, sort: str = "age", limit: int = 1
) -> Json:
    """The first answer, with the sessions of as many further ones as it takes."""
    asked = [*(("id", one) for one in ids), *where.items(), ("sort", sort)]
    found: Json = {}
    sessions: dict[str, Json] = {}
    offset = 0
    while True:
        size = min(limit - offset, _PAGE)
        page = [("offset", offset), ("limit", size)]
        answer = connection.ask("GET", with_query("/api/v1/sessions", [*asked, *page]))
        found = found or answer
        sessions |= {one["session"]: one for one in answer["sessions"]}
        offset += size
        if offset >= limit or len(answer["sessions"]) < size:
            return {**found, "sessions": [*sessions.values()]}


def _show(answer: Json) -> None:
    from spliceproxy.cli.session_table import session_table
    from spliceproxy.cli.tables import open_console, room, show

    shown = answer["sessions"]
    if shown:
        console = open_console()
        show(console, session_table(shown, answer["process"]).lines(room(console)))
    if len(shown) < answer["matching"]:
        click.echo(f"{len(shown)} of {answer['matching']}; --limit shows more", err=True)
    _tell_silent(answer)


def _tell_silent(answer: Json, what: str = "its sessions are missing") -> int:
    """Tell who did not answer, and what that means; how many they are."""
    silent = text.silent(answer)
    for one in silent:
        click.echo(f"{one} did not answer: {what}", err=True)
    return len(silent)


def _tell_none(connection: Connection, where: Json) -> None:
    """Tell that no session matches, and which name that was asked for there is not."""
    told = "no session matches"
    if where.keys() & {"listener", "pool", "upstream"}:
        status = connection.ask("GET", "/api/v1/status")
        upstreams = (one["name"] for pool in status["pools"] for one in pool["upstreams"])
        known = {
            "listener": [one["name"] for one in status["listeners"]],
            "pool": [one["name"] for one in status["pools"]],
            "upstream": list(dict.fromkeys(upstreams)),
        }
        for kind, names in known.items():
            if kind in where and where[kind] not in names:
                some = ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
                told += f"; there is no {kind} {where[kind]}; there are {some or 'none'}"
    click.echo(told, err=True)


def _reset(connection: Connection, ids: Sequence[str], where: Json, yes: bool) -> int:
    """The exit code."""
    if ids and where:
        raise click.UsageError("--reset takes sessions or filters, not both")
    if not ids and not where:
        raise click.UsageError("--reset needs a filter, or sessions; --listener NAME is one")
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("--reset asks on a terminal only; say --yes")
        answer = _find(connection, ids, where)
        _tell_silent(answer)
        if not answer["matching"]:
            _tell_none(connection, where)
            return EXIT_OK
        click.confirm(f"Reset {text.plural(answer['matching'], 'session')}?", abort=True, err=True)
    order: Json = {"sessions": list(ids)} if ids else {"where": where}
    done = connection.ask("POST", "/api/v1/reset", order)
    click.echo(f"{text.plural(done['reset'], 'session')} reset")
    return EXIT_FAILED if _tell_silent(done, "its sessions may live on") else EXIT_OK
