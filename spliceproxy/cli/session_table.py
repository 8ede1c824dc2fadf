"""Live sessions as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from spliceproxy.cli import text
from spliceproxy.cli.tables import Cell, Column, Table

COLUMNS = (
    Column("session", rank=10, fixed=True),
    Column("listener", rank=8),
    Column("route", rank=12),
    Column("pool", rank=7),
    Column("upstream"),
    Column("client"),
    Column("sni", rank=11),
    Column("state", rank=5),
    Column("age", right=True),
    Column("idle", right=True, rank=4),
    Column("↑", right=True, rank=6),
    Column("↓", right=True, rank=3),
    Column("↑/s", right=True, rank=2),
    Column("↓/s", right=True, rank=1),
    Column("rtt", right=True, rank=9),
)
_PROCESS = Column("process", right=True, rank=5)
_USUAL = ("open", "moving", None)
"""States of a flow of which there is nothing to say."""
_FLOWS = {"blocked": "yellow", "paused": "cyan", "broken": "red"}

Json = Mapping[str, Any]


def session_table(sessions: Iterable[Json], newest: int) -> Table:
    """A row for each of them, in their order. Who has it is told where one of them is with another
    process than the newest."""
    table = Table([*COLUMNS[:1], _PROCESS, *COLUMNS[1:]])
    processes = set()
    for one in sessions:
        first, *others = cells(one)
        table.add(first, str(one["process"]), *others)
        processes.add(one["process"])
    return table if processes - {newest} else table.without(_PROCESS.title)


def cells(session: Json) -> list[Cell]:
    """The cells of COLUMNS."""
    named = ("session", "listener", "route", "pool", "upstream", "client", "sni")
    return [
        *(Cell(session[key] or text.UNKNOWN) for key in named),
        state(session),
        Cell(text.age(session["age_seconds"])),
        Cell(text.age(session["idle_seconds"])),
        *(Cell(text.size(session[key])) for key in ("bytes_up", "bytes_down")),
        *(Cell(text.size(session[key])) for key in ("rate_up", "rate_down")),
        Cell(text.microseconds(session["client_rtt_us"])),
    ]


def state(session: Json) -> Cell:
    """How far it has come, and what is unusual about its flows."""
    if session["phase"] != "relay":
        return Cell(session["phase"], "cyan")
    flows = (("↑", session["flow_up"]), ("↓", session["flow_down"]))
    unusual = [(arrow, flow) for arrow, flow in flows if flow not in _USUAL]
    if not unusual:
        return Cell("open")
    style = next((_FLOWS[flow] for _, flow in unusual if flow in _FLOWS), "")
    return Cell(" ".join(f"{arrow} {flow}" for arrow, flow in unusual), style)
