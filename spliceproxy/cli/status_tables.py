"""The status of a proxy as lines: its head, and a table for each kind of thing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text

from spliceproxy.cli import text
from spliceproxy.cli.tables import Cell, Column, Table
from spliceproxy.cli.views import (
    CONNECT,
    RATES,
    WORKERS,
    connect_cells,
    rate_cells,
    session_limit,
    state_cell,
    summary,
    totals,
    weight_text,
    worker_cells,
)

_ENDS = {"soon": "yellow", "expired": "red", "not_yet": "red"}
_NAMES = 4
"""Names of a certificate that are shown, at most."""

Json = Mapping[str, Any]


def status_lines(status: Json, traffic: Json, width: int | None) -> Iterator[Text]:
    """What is printed, no wider than `width` (None: as wide as it is)."""
    yield from _head(status, traffic)
    tables = [
        _workers(status, traffic),
        _listeners(status, traffic),
        _certificates(status),
        _upstreams(status, traffic),
    ]
    for table in tables:
        if table.rows:
            yield Text()
            yield from table.lines(width)


def _head(status: Json, traffic: Json) -> Iterator[Text]:
    yield summary(status)
    if status["not_ready"]:
        yield Text("not ready: " + "; ".join(status["not_ready"]), "red")
    sessions = text.plural(status["sessions"], "session")
    if status["older_sessions"]:
        sessions += f" and {status['older_sessions']} of before an upgrade"
    yield Text(f"{sessions}  {totals(traffic)}")


def _workers(status: Json, traffic: Json) -> Table:
    table = Table([Column("worker"), Column("pid"), Column("state"), *WORKERS])
    moving = {one["worker"]: one for one in traffic["workers"]}
    for one in status["workers"]:
        state = "ready" if one["ready"] else "starting" if one["pid"] else "away"
        table.add(
            str(one["worker"]),
            str(one["pid"] or text.UNKNOWN),
            Cell(state, "" if one["ready"] else "yellow"),
            *worker_cells(one, moving.get(one["worker"])),
        )
    return table


def _listeners(status: Json, traffic: Json) -> Table:
    columns = (
        Column("listener"),
        Column("addresses"),
        Column("pool"),
        Column("sessions", right=True),
        *RATES,
    )
    table = Table(columns)
    for one in status["listeners"]:
        where = Cell(", ".join(one["addresses"]) or text.UNKNOWN)
        if one["draining"]:
            where = state_cell("draining")
        table.add(
            one["name"],
            where,
            ", ".join(one["pools"]),
            session_limit(one),
            *rate_cells(traffic["listeners"].get(one["name"])),
        )
    return table


def _certificates(status: Json) -> Table:
    table = Table(
        [Column("listener"), Column("certificate"), Column("names"), Column("ends in", right=True)]
    )
    for listener in status["listeners"]:
        rows = [*_certificate_rows(listener)]
        for number, row in enumerate(rows):
            table.add("" if number else listener["name"], *row)
    return table


def _certificate_rows(listener: Json) -> Iterator[tuple[str | Cell, ...]]:
    for one in listener["certificates"]:
        words = {"expired": "ended", "not_yet": "not valid yet"}
        ends = words.get(one["state"]) or text.duration(one["days_left"] * 86_400)
        names = ", ".join(one["names"][:_NAMES])
        if len(one["names"]) > _NAMES:
            names += f" and {len(one['names']) - _NAMES} more"
        yield one["file"], names or text.UNKNOWN, Cell(ends, _ENDS.get(one["state"], ""))
    for one in listener["broken_files"]:
        yield one["file"], one["problem"], Cell("broken", "red")
    if failed := listener["failed_handshakes"]:
        yield f"{text.plural(failed, 'handshake')} failed", "", ""


def _upstreams(status: Json, traffic: Json) -> Table:
    table = Table(
        [
            Column("pool"),
            Column("upstream"),
            Column("state"),
            Column("tier", right=True, rank=8),
            Column("weight", right=True, rank=5),
            Column("sessions", right=True),
            *RATES,
            *CONNECT,
        ]
    )
    for pool in status["pools"]:
        name = pool["name"]
        if pool["waiting"]:
            name += f" ({pool['waiting']} waiting)"
        moving = traffic["upstreams"].get(pool["name"], {})
        for one in pool["upstreams"]:
            table.add(
                name,
                one["name"],
                state_cell(*one["states"], held_back=one["held_back"]),
                str(one["tier"]),
                weight_text(one),
                session_limit(one),
                *rate_cells(moving.get(one["name"])),
                *connect_cells(moving.get(one["name"])),
            )
            name = ""
        if not pool["upstreams"]:
            table.add(name, "no upstream is known", *[""] * (len(table.columns) - 2))
    return table
