"""What `tail` writes on a terminal: columns, and nothing wrapped where less says enough."""

from __future__ import annotations

from datetime import datetime

import pytest
from fake_house import House

from spliceproxy.cli.tail_lines import RecordLines

MOMENT = datetime(2026, 11, 30, 11, 0, 0, 42_000)


def lines(columns: int, number: int = 5, *, colour: bool = False, **fields: object) -> list[str]:
    """The lines of so many records, once all of them were seen."""
    made = RecordLines(colour)
    records = [{**House().record(one), **fields} for one in range(number)]
    return [made.line(record, MOMENT, columns) for record in [*records, *records]][number:]


def test_columns_stand_below_each_other() -> None:
    told = lines(200)
    for mark in ("  192.0.2.", "↑", "↓"):
        assert len({line.index(mark) for line in told}) == 1, told
    assert told[0].startswith("11:00:00.042 web → 10.0.0.1:80")
    assert told[4].endswith("connect_timeout (reset by proxy, in connect)")


@pytest.mark.parametrize("columns", [80, 90, 100, 120, 160])
def test_what_says_least_is_left_out_before_a_line_is_too_long(columns: int) -> None:
    for line in lines(columns, client="203.0.113.200:44430", upstream="10.20.30.40:9000"):
        assert max(map(len, line.splitlines())) <= columns, line
        assert line.startswith("11:00:00")
        assert "203.0.113.200:44430" in line


def test_nothing_else_is_left_out_on_the_narrowest_one() -> None:
    for line in lines(20):
        assert "192.0.2." in line
        assert "↓" in line


def test_a_reason_that_has_no_room_gets_a_line_of_its_own() -> None:
    done, *_, refused = lines(80, client="203.0.113.200:44430", upstream="10.20.30.40:9000")
    assert done.endswith("  done")
    assert refused.splitlines()[1] == " " * 9 + "connect_timeout (reset by proxy, in connect)"


def test_colours_take_no_room() -> None:
    plain, painted = lines(90), lines(90, colour=True)
    for code in ("\x1b[2m", "\x1b[31m", "\x1b[1m", "\x1b[0m"):
        painted = [line.replace(code, "") for line in painted]
    assert painted == plain
