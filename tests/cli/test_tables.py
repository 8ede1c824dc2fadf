"""Tables that fit, and how numbers are written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from spliceproxy.cli import text
from spliceproxy.cli.tables import Cell, Column, Table, cut


def table() -> Table:
    made = Table(
        [
            Column("name"),
            Column("least", right=True, rank=2),
            Column("more", right=True, rank=1),
            Column("needed", right=True),
        ]
    )
    made.add("one", "1", "10", "100")
    made.add(Cell("a-name-of-30-characters-and-no-"), "2", "20", "200")
    return made


def plain(made: Table, width: int | None, *, fold: bool = True) -> list[str]:
    return [line.plain for line in made.lines(width, fold=fold)]


def test_without_a_width_nothing_is_cut() -> None:
    assert plain(table(), None) == [
        "name                             least  more  needed",
        "one                                  1    10     100",
        "a-name-of-30-characters-and-no-      2    20     200",
    ]


def test_names_are_folded_before_a_column_is_left_out() -> None:
    assert plain(table(), 43) == [
        "name                    least  more  needed",
        "one                         1    10     100",
        "a-name-of-30-character      2    20     200",
        "s-and-no-",
    ]


def test_columns_are_left_out_by_their_rank_and_those_without_never() -> None:
    assert plain(table(), 42)[0].split() == ["name", "more", "needed"]
    assert plain(table(), 35)[0].split() == ["name", "needed"]
    assert plain(table(), 12)[0].split() == ["name", "needed"]


def test_what_is_too_long_may_be_cut_instead() -> None:
    assert plain(table(), 43, fold=False)[2].startswith("a-name-of-30-characte…  ")
    assert cut("日本語", 5) == "日本…"
    assert cut("日本語", 6) == "日本語"


CELLS = st.text("ab日é-", max_size=30)
TITLES = st.text("tuv", min_size=1, max_size=8)


@given(
    st.lists(st.tuples(TITLES, st.booleans(), st.integers(0, 3)), min_size=1, max_size=6),
    st.data(),
    st.integers(60, 150),
)
def test_no_line_is_wider_than_there_is_room(
    columns: list[tuple[str, bool, int]], data: st.DataObject, width: int
) -> None:
    made = Table([Column(title, right=right, rank=rank) for title, right, rank in columns])
    for _ in range(3):
        # Numbers are short: they are never broken.
        made.add(*(data.draw(CELLS)[: 4 if right else 30] for _, right, _ in columns))
    lines = plain(made, width)
    assert max(map(cell_len, lines)) <= width
    # Nothing is lost in the columns that are there.
    if all(not rank for _, _, rank in columns):
        kept = "".join(lines[1:]).replace(" ", "")
        assert sorted(kept) == sorted("".join(cell.text for row in made.rows for cell in row))


@pytest.mark.parametrize(
    ("write", "values"),
    [
        (text.rate, {0: "0", 0.04: "0.04", 0.5: "0.50", 4.54: "4.5", 99.7: "100", 45_100: "45k"}),
        (text.size, {0: "0", 1023: "1023B", 1536: "1.5KiB", 3 << 40: "3.0TiB"}),
        (text.share, {0: "0%", 0.045: "4.5%", 0.05: "5%", 0.314: "31%", 1: "100%"}),
        (text.age, {0.02: "0.0s", 3.21: "3.2s", 307: "5m07s", 8100: "2h15m", 273_600: "3d04h"}),
        (text.microseconds, {112: "112µs", 1120: "1.12ms"}),
        (text.milliseconds, {0.3: "0.30ms", 900: "900ms"}),
        (text.duration, {4: "4s", 184: "3m 4s", 7380: "2h 3m", 93_600: "1d 2h"}),
    ],
)
def test_numbers_have_three_figures_and_a_unit(
    write: Callable[[float], str], values: dict[float, str]
) -> None:
    assert {value: write(value) for value in values} == values


def test_what_is_not_known_is_a_dash() -> None:
    assert text.milliseconds(None) == text.microseconds(None) == text.UNKNOWN == "-"
