"""`spliceproxy tail`: session records and events, live."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from spliceproxy.cli import suggestions, text
from spliceproxy.cli.client import Admin, DoorError, admin_option, with_query
from spliceproxy.cli.options import filter_options

if TYPE_CHECKING:
    from spliceproxy.cli.connection import Connection

_AGAIN = 0.5
"""Seconds between two tries to reach a proxy that is away."""

Json = dict[str, Any]


@click.command(short_help="Show session records as sessions end.")
@click.option(
    "--all/--errors",
    "everything",
    default=True,
    help="All records, or those of errors.  [default: all]",
)
@filter_options
@click.option(
    "--why",
    metavar="WHY",
    help="Those that ended for this reason: idle_timeout, …",
    shell_complete=suggestions.whys,
)
@click.option("--events", is_flag=True, help="Also what the proxy logs: states, reloads, orders.")
@click.option("--json", "as_json", is_flag=True, help="Print each as a line of JSON.")
@admin_option
def tail(
    everything: bool, events: bool, as_json: bool, admin: Admin, **filters: str | None
) -> None:
    """Show a line for each session that ends from now on, until Ctrl-C: when, which listener and
    upstream, the client, how long, how many bytes up and down, and why.

    It says so where more ended than it was told of. When the proxy goes away it waits for it to
    come back, and goes on; an upgrade is no end either.

    \b
    Examples:
      spliceproxy tail --errors --events
      spliceproxy tail --client 10.1.2.3 --json | jq .first_byte_ms
    """
    parameters = {
        **filters,
        "records": "all" if everything else "errors",
        "events": "on" if events else "off",
    }
    printer = _json_line if as_json else _console_lines(_colour_wanted())
    _Tail(admin, with_query("/api/v1/stream", parameters.items()), printer).run()


def _colour_wanted() -> bool:
    from spliceproxy.telemetry.log import colour_wanted

    return colour_wanted(1)


def _json_line(_name: str, value: Json) -> str:
    return json.dumps(value, ensure_ascii=False)


def _console_lines(colour: bool) -> Callable[[str, Json], str]:
    """What makes lines for a person: on a terminal in columns, else as the proxy itself does."""
    from spliceproxy.cli.tail_lines import RecordLines
    from spliceproxy.telemetry.record import render_console

    columns = RecordLines(colour) if sys.stdout.isatty() else None

    def line(name: str, value: Json) -> str:
        if name != "record":
            return event_line(value, colour)
        if columns is None or value.get("lost") is not None:
            return render_console(value, colour).decode().rstrip("\n")
        shown = columns.line(value, datetime.now(), shutil.get_terminal_size().columns)
        return shown.encode("utf-8", "backslashreplace").decode()

    return line


class _Tail:
    """Follows one stream, over the ends of the proxy that tells it."""

    def __init__(self, admin: Admin, path: str, printer: Callable[[str, Json], str]) -> None:
        """`printer` makes a line of an event's name and value."""
        self._admin = admin
        self._path = path
        self._printer = printer
        self._connection: Connection | None = None
        self._over = threading.Event()
        """Nobody reads our output any more, or Ctrl-C was pressed."""

    def run(self) -> None:
        """Print until nobody reads. Raises DoorError where there is nothing to begin with."""
        interrupted, there = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # A signal that comes right before a read does not end that read.
        signal.set_wakeup_fd(there)
        threading.Thread(target=self._watch, args=(interrupted,), daemon=True).start()
        self._follow()
        away = False
        while not self._over.is_set():
            try:
                self._follow(again=True)
                away = False
            except DoorError as error:
                if error.status:  # it is there, and refuses
                    raise
                if not away:
                    _say("the proxy is away; waiting for it")
                away = True
                self._over.wait(_AGAIN)

    def _follow(self, *, again: bool = False) -> None:
        """Print what comes, until it ends. Raises DoorError where it does not even begin."""
        with self._admin.connect() as connection:
            self._connection = connection
            events = connection.stream(self._path)
            if self._over.is_set():  # it was too early to interrupt that
                return
            if again:
                _say("connected again; what ended meanwhile is not shown")
            with suppress(DoorError):
                for name, data in events:
                    self._print(name, data)

    def _print(self, name: str, data: str) -> None:
        if name in ("record", "event"):
            print(self._printer(name, json.loads(data)), flush=True)
        elif name == "lost":
            [(kind, number)] = json.loads(data).items()  # records or events
            _say(f"{text.plural(number, kind.removesuffix('s'))} lost: too many at once")

    def _watch(self, interrupted: int) -> None:
        """Notice at once that the reader of a pipe has gone, also while nothing is to be told; and
        a signal."""
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        poll.register(interrupted, select.POLLIN)
        poll.poll()
        self._over.set()
        if self._connection is not None:
            self._connection.interrupt()


def _say(what: str) -> None:
    """Tell it beside the records, which may be read by a program."""
    clock = time.strftime("%H:%M:%S")
    click.echo(f"{clock} {what}", err=True)


def event_line(event: Json, colour: bool) -> str:
    """A line of the proxy's log for a person: when, what, and the fields."""
    return "".join(_event_parts(event, colour))


def _event_parts(event: Json, colour: bool) -> Iterator[str]:
    dim, bold, reset = ("\x1b[2m", "\x1b[1m", "\x1b[0m") if colour else ("", "", "")
    tint = _LEVELS.get(event["level"], "") if colour else ""
    moment = datetime.fromisoformat(event["time"]).astimezone()
    clock = moment.isoformat(timespec="milliseconds")[11:23]
    yield f"{dim}{clock}{reset} {tint}{event['level']:<7}{reset if tint else ''} "
    yield f"{bold}{event['event']}{reset}"
    for key, value in event.items():
        if key not in ("time", "level", "event"):
            plain = isinstance(value, str) and value.isprintable()
            shown = value if plain else json.dumps(value, ensure_ascii=isinstance(value, str))
            yield f"  {dim}{key}={reset}{shown}"


_LEVELS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
