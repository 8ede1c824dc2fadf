"""The columns of each view: what stands in a cell, and by what its rows are sorted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from spliceproxy.cli import text
from spliceproxy.cli.tables import Cell, Column
from spliceproxy.cli.views import session_limit, state_cell, weight_text

Row = Mapping[str, Any]
"""One listener, pool or upstream as the status has it, with its `traffic`."""


@dataclass(frozen=True, slots=True)
class Field:
    """One column of a view."""

    column: Column
    cell: Callable[[Row], str | Cell]
    value: Callable[[Row], Any] | None = None
    """What rows are sorted by; None: they cannot be sorted by this one."""

    @property
    def title(self) -> str:
        return self.column.title


def _named(title: str, key: str, rank: int = 0) -> Field:
    return Field(Column(title, rank=rank), lambda row: row[key], lambda row: row[key])


def _rate(title: str, key: str, rank: int, write: Callable[[float], str]) -> Field:
    def cell(row: Row) -> Cell:
        rate = row["traffic"]["rates"][key]
        return Cell(write(rate), "red" if key == "errors" and rate else "")

    column = Column(
        title, right=True, rank=rank, least=len("999.9KiB") if write is text.size else 5
    )
    return Field(column, cell, lambda row: row["traffic"]["rates"][key])


def _connect(title: str, key: str, rank: int) -> Field:
    def value(row: Row) -> float | None:
        found: float | None = row["traffic"]["connect_ms"][key]
        return found

    column = Column(title, right=True, rank=rank, least=len("0.41ms"))
    return Field(column, lambda row: text.milliseconds(value(row)), lambda row: value(row) or 0.0)


_SESSIONS = Field(Column("sessions", right=True), session_limit, lambda row: row["sessions"])
_MOVING = (
    _rate("↑/s", "bytes_up", 3, text.size),
    _rate("↓/s", "bytes_down", 1, text.size),
    _rate("ended/s", "ended", 4, text.rate),
    _rate("errors/s", "errors", 2, text.rate),
    _connect("connect p50", "p50", 6),
    _connect("p99", "p99", 7),
)
_ORDER = ("up", "ejected", "draining", "down")
"""States, the best one first."""


def _worst(row: Row) -> int:
    return max(_ORDER.index(state) if state in _ORDER else 0 for state in row["states"])


FIELDS: Mapping[str, tuple[Field, ...]] = {
    "listeners": (
        _named("listener", "name"),
        Field(
            Column("addresses", rank=8),
            lambda row: state_cell("draining") if row["draining"] else ", ".join(row["addresses"]),
        ),
        Field(Column("pools", rank=9), lambda row: ", ".join(row["pools"])),
        _SESSIONS,
        *_MOVING,
    ),
    "pools": (
        _named("pool", "name"),
        _named("balance", "balance", rank=9),
        Field(
            Column("usable", right=True),
            lambda row: Cell(
                f"{row['usable']} of {len(row['upstreams'])}", "" if row["usable"] else "red"
            ),
            lambda row: row["usable"],
        ),
        Field(
            Column("waiting", right=True, rank=5),
            lambda row: Cell(str(row["waiting"]), "yellow" if row["waiting"] else ""),
            lambda row: row["waiting"],
        ),
        _SESSIONS,
        *_MOVING,
    ),
    "upstreams": (
        _named("upstream", "name"),
        _named("pool", "pool", rank=5),
        Field(
            Column("state", fixed=True),
            lambda row: state_cell(*row["states"], held_back=row["held_back"]),
            _worst,
        ),
        Field(Column("weight", right=True, rank=8), weight_text, lambda row: row["weight"]),
        _SESSIONS,
        *_MOVING,
    ),
}


SESSION_SORTS = {"age": "age", "idle": "idle", "↓": "bytes", "↓/s": "rate", "rtt": "rtt"}
"""By the titles of columns, what the API calls the orders of sessions: it alone knows them all."""


def sortable(view: str) -> list[str]:
    """The titles of the columns by which a view can be sorted."""
    if view == "sessions":
        return [*SESSION_SORTS]
    return [one.title for one in FIELDS[view] if one.value is not None]
