"""From the API's answers to the rows that are shown: put together, filtered and sorted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from spliceproxy.cli.top.fields import FIELDS, SESSION_SORTS, Row
from spliceproxy.cli.top.state import State

Json = Mapping[str, Any]

FILTERS = ("listener", "pool", "upstream", "client", "route", "sni", "phase")
"""What may stand in front of a = in the filter of sessions; the API's parameters."""
_MOST = 200
"""Sessions that are asked for: as many as somebody may scroll through."""
_NUMBERS = re.compile("([0-9]+)")
_NO_TRAFFIC: Json = {
    "rates": dict.fromkeys(("bytes_up", "bytes_down", "ended", "errors"), 0.0),
    "connect_ms": {"p50": None, "p99": None},
}
"""Of what came between two answers."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What the proxy said last."""

    status: Json
    traffic: Json
    history: Json
    clock: str
    """When, as `12:34:56`."""
    sessions: Json | None = None
    """None: nobody looks at them."""
    problem: str = ""
    """Why it said no to the sessions."""


def rows_of(state: State, answers: Answers) -> list[Row]:
    """The rows of the view, in their order. Sessions come in the order in which they were asked."""
    if state.view == "sessions":
        found = answers.sessions or {"sessions": ()}
        return [one for one in found["sessions"] if _has(one, FILTERS, words_of(state))]
    rows = [*_ROWS[state.view](answers)]
    rows = [row for row in rows if _has(row, ("name", "pool", "addresses"), words_of(state))]
    return _sorted(rows, state)


def words_of(state: State) -> list[str]:
    """The words of the filter that are looked for here, and not by the proxy."""
    if state.view == "sessions":
        return _split(state.wanted)[1]
    return state.wanted.lower().split()


def session_query(state: State) -> list[tuple[str, object]]:
    """The parameters with which sessions are asked for."""
    sort = SESSION_SORTS[state.sort]
    named, _ = _split(state.wanted)
    order = f"-{sort}" if "sessions" in state.reversed else sort
    return [*named.items(), ("sort", order), ("limit", _MOST)]


def _split(wanted: str) -> tuple[dict[str, str], list[str]]:
    """Filters for the proxy, and words that are looked for here."""
    named: dict[str, str] = {}
    words = []
    for word in wanted.split():
        key, equals, value = word.partition("=")
        if equals and key in FILTERS:
            if value:
                named[key] = value
        else:
            words.append(word.lower())
    return named, words


def _has(row: Row, keys: Iterable[str], words: Iterable[str]) -> bool:
    texts = [str(row[key]).lower() for key in keys if row.get(key)]
    return all(any(word in one for one in texts) for word in words)


def _sorted(rows: list[Row], state: State) -> list[Row]:
    fields = {one.title: one.value for one in FIELDS[state.view]}
    value = fields.get(state.sort)
    rows.sort(key=lambda row: natural(row["name"]))
    if value is None:
        return rows
    # Names begin with the first one, numbers with the largest; equal ones stay as they are.
    named = bool(rows) and isinstance(value(rows[0]), str)
    largest_first = named == (state.view in state.reversed)
    order = (lambda row: natural(value(row))) if named else value
    return sorted(rows, key=order, reverse=largest_first)


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts numbers in names by what they are: 10.0.0.9 comes before 10.0.0.10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _NUMBERS.split(name)]


def _listeners(answers: Answers) -> Iterator[Row]:
    moving = answers.traffic["listeners"]
    for one in answers.status["listeners"]:
        yield {**one, "traffic": moving.get(one["name"], _NO_TRAFFIC)}


def _pools(answers: Answers) -> Iterator[Row]:
    moving = answers.traffic["pools"]
    for one in answers.status["pools"]:
        yield {**one, "traffic": moving.get(one["name"], _NO_TRAFFIC)}


def _upstreams(answers: Answers) -> Iterator[Row]:
    for pool in answers.status["pools"]:
        moving = answers.traffic["upstreams"].get(pool["name"], {})
        for one in pool["upstreams"]:
            traffic = moving.get(one["name"], _NO_TRAFFIC)
            yield {**one, "pool": pool["name"], "traffic": traffic}


_ROWS = {"listeners": _listeners, "pools": _pools, "upstreams": _upstreams}
