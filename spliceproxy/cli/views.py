"""What several commands show in the same way: states, weights, limits, rates, and the head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from spliceproxy.cli import text
from spliceproxy.cli.tables import Cell, Column

STATES = {"up": "green", "draining": "cyan", "down": "red", "ejected": "yellow"}
"""The colour of each state of an upstream."""
WORKERS = (
    Column("sessions", right=True),
    Column("cpu", right=True),
    Column("lag", right=True, rank=1),
)
"""The columns of `worker_cells`."""
RATES = (
    Column("↑/s", right=True, rank=2),
    Column("↓/s", right=True, rank=1),
    Column("ended/s", right=True, rank=4),
    Column("errors/s", right=True, rank=3),
)
"""The columns of `rate_cells`."""
CONNECT = (Column("connect p50", right=True, rank=6), Column("p99", right=True, rank=7))
"""The columns of `connect_cells`."""
BUSY = 0.9
"""From this share of a CPU on a worker has little left."""

Json = Mapping[str, Any]


def summary(status: Json) -> Text:
    """Who runs, for how long, and whether it is ready."""
    ready = ("ready", "green") if status["ready"] else ("not ready", "red")
    return Text.assemble(
        (f"spliceproxy {status['version']}", "bold"),
        f"  pid {status['pid']}  up {text.duration(status['uptime_seconds'])}  ",
        ready,
    )


def state_cell(*states: str, held_back: int = 0) -> Cell:
    """The states of one upstream; one that starts slowly has a part of its share."""
    words = ", ".join(states)
    if held_back and states == ("up",):
        return Cell(f"up at {100 - held_back}%", "green")
    return Cell(words, STATES.get(states[0], ""))


def weight_text(upstream: Json) -> str:
    """The weight in force, behind the configured one where somebody set it."""
    weight, configured = upstream["weight"], upstream["configured_weight"]
    return str(weight) if weight == configured else f"{configured} → {weight}"


def session_limit(one: Json) -> str:
    """Live sessions, and how many there may be."""
    return text.of(one["sessions"], one["max_sessions"])


def totals(traffic: Json) -> str:
    """What moves, in one line."""
    rates = traffic["total"]["rates"]
    up, down = text.size(rates["bytes_up"]), text.size(rates["bytes_down"])
    ended, errors = text.rate(rates["ended"]), text.rate(rates["errors"])
    return f"↑ {up}/s  ↓ {down}/s  ended {ended}/s  errors {errors}/s"


def rate_cells(traffic: Json | None) -> tuple[Cell, ...]:
    """Bytes up and down, ends and errors, per second."""
    if traffic is None:
        return (Cell(text.UNKNOWN),) * 4
    rates = traffic["rates"]
    return (
        Cell(text.size(rates["bytes_up"])),
        Cell(text.size(rates["bytes_down"])),
        Cell(text.rate(rates["ended"])),
        Cell(text.rate(rates["errors"]), "red" if rates["errors"] else ""),
    )


def connect_cells(traffic: Json | None) -> tuple[Cell, ...]:
    """The median time of a connect, and its 99th percentile."""
    found = {} if traffic is None else traffic["connect_ms"]
    return tuple(Cell(text.milliseconds(found.get(key))) for key in ("p50", "p99"))


def worker_cells(worker: Json, moving: Json | None) -> tuple[Cell, ...]:
    """Sessions of one worker, the share of a CPU that it takes, and how late its loop is."""
    sessions = Cell(str(worker["sessions"]))
    if moving is None:
        return sessions, Cell(text.UNKNOWN), Cell(text.UNKNOWN)
    cpu = moving["cpu"]
    return (
        sessions,
        Cell(text.share(cpu), "yellow" if cpu >= BUSY else ""),
        Cell(text.milliseconds(moving["lag_ms"])),
    )
