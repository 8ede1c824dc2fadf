"""What is on the screen: lines, no wider and no more than there is room for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from spliceproxy.cli import text
from spliceproxy.cli.session_table import COLUMNS as SESSION_COLUMNS
from spliceproxy.cli.session_table import cells as session_cells
from spliceproxy.cli.tables import Column, Table
from spliceproxy.cli.top.fields import FIELDS, Row, sortable
from spliceproxy.cli.top.rows import Answers, rows_of, words_of
from spliceproxy.cli.top.state import VIEW_KEYS, State
from spliceproxy.cli.views import BUSY, summary

_BLOCKS = " ▁▂▃▄▅▆▇█"
_LABEL = 14
"""Columns in front of a line of blocks."""
_HELP = (
    ("l p u s", "listeners, pools, upstreams, sessions"),
    ("< >", "sort by the column to the left, to the right; also arrows"),
    ("r", "turn the order around"),
    ("/", "show only what has this text in a name: Enter keeps it, Esc drops it"),
    ("", "in sessions also pool=app, client=10.0.0.0/8, phase=connect, …"),
    ("↑ ↓", "scroll; also PgUp, PgDn, Home and End"),
    ("space", "stand still, and go on"),
    ("? q", "this help, quit"),
    ("", ""),
    ("↑/s ↓/s", "bytes per second to upstreams, to clients, of the last ten seconds"),
    ("ended/s", "sessions that ended; errors/s: those of them that ended in an error"),
    ("connect", "the median of the last minute; p99: what 99 of 100 stay below"),
    ("blocks", "the last ten minutes, five seconds each"),
    ("lag", "how late a worker's loop comes to what waits for it"),
)

Json = Mapping[str, Any]


Wrong = tuple[str, str]
"""For how long there has been no answer, and why."""


def draw(
    state: State, answers: Answers, wrong: Wrong | None, width: int, height: int
) -> list[Text]:
    """The screen; `wrong` where these answers are no longer the newest.

    Tells `state` how many rows there is room for, and which can be sorted.
    """
    head = _head(state, answers, wrong, width)
    room = max(0, height - len(head) - 1)
    body = _help() if state.help else _body(state, answers, width, room)
    lines = [*head, *body[:room], *[Text()] * (room - len(body)), _foot(state, width)]
    return [_cropped(line, width) for line in lines[-height:] if height]


def snapshot(state: State, answers: Answers, width: int | None) -> list[Text]:
    """All of it once, for who does not look at a terminal."""
    head = _head(state, answers, None, width or 100)
    return [*head, *_table(state, rows_of(state, answers)).lines(width, fold=False)]


def _head(state: State, answers: Answers, wrong: Wrong | None, width: int) -> list[Text]:
    problem = "; ".join(answers.status["not_ready"]) if wrong is None else wrong[1]
    return [
        _apart(summary(answers.status), _mark(state, answers.clock, wrong), width),
        _sessions(answers),
        _sparkline("↑", answers, "bytes_up", width),
        _sparkline("↓", answers, "bytes_down", width),
        _workers(answers.traffic["workers"], width),
        Text(problem, "red"),
    ]


def _mark(state: State, clock: str, wrong: Wrong | None) -> Text:
    if wrong is not None:
        return Text(f" no answer for {wrong[0]} ", "bold white on red")
    if state.paused:
        return Text(f" paused at {clock} ", "reverse")
    return Text(clock, "dim")


def _sessions(answers: Answers) -> Text:
    status, total = answers.status, answers.traffic["total"]
    line = Text.assemble((text.plural(status["sessions"], "session"), "bold"))
    if status["older_sessions"]:
        line.append(f" and {status['older_sessions']} of before an upgrade")
    rates, connect = total["rates"], total["connect_ms"]
    line.append(f"   ended {text.rate(rates['ended'])}/s")
    line.append(f"   errors {text.rate(rates['errors'])}/s", "red" if rates["errors"] else "")
    if connect["p50"] is not None:
        p50, p99 = (text.milliseconds(connect[key]) for key in ("p50", "p99"))
        line.append(f"   connect p50 {p50} p99 {p99}")
    return line


def _sparkline(arrow: str, answers: Answers, key: str, width: int) -> Text:
    now = answers.traffic["total"]["rates"][key]
    label = Text(f"{arrow} {text.size(now)}/s".ljust(_LABEL), "bold")
    values = answers.history["total"][key]
    peak = max((value for value in values if value is not None), default=0.0)
    end = f" peak {text.size(peak)}/s"
    room = width - _LABEL - len(end)
    if room < 8 or not values:
        return label
    shown = [*[None] * (room - len(values)), *values[-room:]]  # now is at the right
    return Text.assemble(label, (blocks(shown, peak), "cyan"), (end, "dim"))


def blocks(values: Sequence[float | None], peak: float) -> str:
    """A block for each value, of eight heights: the lowest one is for nothing at all, and what is
    not known has none."""
    steps = len(_BLOCKS) - 1
    heights = (
        0 if value is None else max(2, round(value / peak * steps)) if value else 1
        for value in values
    )
    return "".join(_BLOCKS[height] for height in heights)


def _workers(workers: Sequence[Json], width: int) -> Text:
    line = Text.assemble(("worker ", "bold"))
    for number, one in enumerate(workers):
        line.append("   " if number else "")
        line.append(f"{one['worker']}", "bold")
        line.append(f"  cpu {text.share(one['cpu'])}", "yellow" if one["cpu"] >= BUSY else "")
        line.append(f" lag {text.milliseconds(one['lag_ms'])}")
    if cell_len(line.plain) <= width:
        return line
    cpus, lags = ([one[key] for one in workers] for key in ("cpu", "lag_ms"))
    return Text.assemble(
        (f"{len(workers)} workers", "bold"),
        f"  cpu {text.share(min(cpus))} to {text.share(max(cpus))}",
        f"  lag {text.milliseconds(min(lags))} to {text.milliseconds(max(lags))}",
    )


def _body(state: State, answers: Answers, width: int, room: int) -> list[Text]:
    rows = rows_of(state, answers)
    state.columns = sortable(state.view)
    state.page = max(1, room - 2)
    state.first = max(0, min(state.first, len(rows) - state.page))
    shown = rows[state.first : state.first + state.page]
    lines = _table(state, shown).lines(width, fold=False)
    return [_title(state, answers, len(rows), len(shown)), *lines]


def _title(state: State, answers: Answers, rows: int, shown: int) -> Text:
    """What the table has, and how much of it is seen."""
    number = rows
    if state.view == "sessions" and answers.sessions is not None and not words_of(state):
        number = answers.sessions["matching"]
    line = Text(text.plural(number, state.view[:-1]))
    if shown < number:
        line.append(f", {state.first + 1} to {state.first + shown}")
    line.append(f", by {state.sort}")
    if state.view in state.reversed:
        line.append(" turned around")
    if answers.problem and state.view == "sessions":
        line.append(f"  {answers.problem}", "red")
    if state.typing is not None:
        line.append("  /")
        line.append(f"{state.typing}█", "bold")
    elif state.filter:
        line.append("  with ")
        line.append(state.filter, "bold")
        line.append(" (Esc: all)", "dim")
    return line


def _table(state: State, rows: Iterable[Row]) -> Table:
    sort = state.sort
    if state.view == "sessions":
        table = Table([_headed(column, sort) for column in SESSION_COLUMNS])
        for row in rows:
            table.add(*session_cells(row))
        return table
    fields = FIELDS[state.view]
    table = Table([_headed(one.column, sort) for one in fields])
    for row in rows:
        table.add(*(one.cell(row) for one in fields))
    return table


def _headed(column: Column, sort: str) -> Column:
    """The column by which rows are sorted stands out, and is never left out."""
    if column.title != sort:
        return column
    return replace(column, style="bold reverse", rank=0)


def _help() -> list[Text]:
    return [Text.assemble((f"  {key:<10}", "bold"), what) for key, what in _HELP]


def _foot(state: State, width: int) -> Text:
    views = [
        Text(f"{key} {view}", "reverse" if view == state.view else "")
        for key, view in VIEW_KEYS.items()
    ]
    line = Text("  ").join(views)
    keys = Text("< > sort  r turn  / filter  space pause  ? help  q quit", "dim")
    if cell_len(line.plain) + cell_len(keys.plain) + 2 > width:
        keys = Text("<> sort  / filter  ? help  q quit", "dim")
    return _apart(line, keys, width)


def _apart(left: Text, right: Text, width: int) -> Text:
    gap = width - cell_len(left.plain) - cell_len(right.plain)
    return Text.assemble(left, " " * max(1, gap), right)


def _cropped(line: Text, width: int) -> Text:
    line = line.copy()
    line.truncate(width, overflow="crop")
    return line
