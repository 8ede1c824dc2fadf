"""The pure parts of `top`: bytes as keys, keys as choices, numbers as blocks, rows in order."""

from __future__ import annotations

from typing import Any

import pytest
from fake_house import House

from spliceproxy.cli.top.fields import sortable
from spliceproxy.cli.top.rows import Answers, natural, rows_of, session_query
from spliceproxy.cli.top.screen import blocks, draw
from spliceproxy.cli.top.state import State
from spliceproxy.cli.top.terminal import keys


def answers(**more: Any) -> Answers:
    house = House()
    return Answers(house.status(), house.traffic(), house.history(), "12:34:56", **more)


@pytest.mark.parametrize(
    ("sent", "names"),
    [
        ("q", ["q"]),
        ("\x1b[A\x1b[B\x1bOC\x1b[D", ["up", "down", "right", "left"]),
        ("\x1b[5~\x1b[6~\x1b[1~\x1b[F", ["pgup", "pgdn", "home", "end"]),
        ("\x1b", ["esc"]),
        ("\x1bx", ["esc", "x"]),
        ("\r\x7f\x15", ["enter", "backspace", "clear"]),
        ("\x1b[1;5C\x1b[200~é", ["é"]),
        ("\x01\x1b[", []),
    ],
)
def test_what_a_terminal_sends_are_keys(sent: str, names: list[str]) -> None:
    assert list(keys(sent)) == names


def test_each_view_keeps_its_own_order() -> None:
    state = State("pools", columns=sortable("pools"))
    for key in (">", ">", "r"):
        assert state.press(key)
    assert (state.sort, state.reversed) == ("errors/s", {"pools"})
    state.press("l")
    assert state.sort == "↓/s"
    state.press("p")
    assert state.sort == "errors/s"


def test_a_filter_is_typed_until_enter_or_escape() -> None:
    state = State()
    for key in ("/", "q", "?", "backspace", "x", "up"):
        assert state.press(key)
    assert (state.wanted, state.filter, state.help) == ("qx", "", False)
    state.press("enter")
    assert (state.filter, state.typing) == ("qx", None)
    for key in ("/", "clear", "a", "esc"):
        state.press(key)
    assert state.filter == "qx"
    state.press("esc")
    assert state.filter == ""


def test_any_key_leaves_the_help_and_q_leaves_all() -> None:
    state = State()
    state.press("?")
    assert state.help
    assert state.press("s")
    assert (state.help, state.view) == (False, "upstreams")
    assert not state.press("q")


@pytest.mark.parametrize("view", ["listeners", "pools", "upstreams"])
def test_rows_can_be_sorted_by_each_column_that_says_so(view: str) -> None:
    for title in sortable(view):
        state = State(view, sorts={view: title})
        forwards = [row["name"] for row in rows_of(state, answers())]
        state.press("r")
        backwards = [row["name"] for row in rows_of(state, answers())]
        assert sorted(forwards) == sorted(backwards)
        assert len(forwards) > 1


def test_numbers_in_names_count() -> None:
    assert sorted(["a10", "b", "a9", "10", "9:80"], key=natural) == ["9:80", "10", "a9", "a10", "b"]


def test_names_of_filters_are_for_the_proxy_and_words_for_us() -> None:
    state = State("sessions", filter="pool=app client=10.0.0.0/8 nobody= a=b www")
    assert session_query(state) == [
        ("pool", "app"),
        ("client", "10.0.0.0/8"),
        ("sort", "rate"),
        ("limit", 200),
    ]
    found = House().sessions({})
    state.filter = "www canary"
    assert rows_of(state, answers(sessions=found)) == []
    state.filter = "WWW app"
    assert len(rows_of(state, answers(sessions=found))) == 20


def test_blocks_are_as_high_as_their_values() -> None:
    assert blocks([None, 0.0, 0.001, 50.0, 100.0], 100.0) == " ▁▂▄█"
    assert blocks([0.0, 0.0], 0.0) == "▁▁"


@pytest.mark.parametrize("size", [(80, 24), (160, 50), (40, 10), (20, 5), (10, 2), (300, 100)])
@pytest.mark.parametrize("view", ["listeners", "pools", "upstreams", "sessions"])
def test_the_screen_is_full_and_no_line_too_long(size: tuple[int, int], view: str) -> None:
    width, height = size
    found = answers(sessions=House().sessions({}))
    for helps in (False, True):
        lines = draw(State(view, help=helps), found, None, width, height)
        assert len(lines) == height
        assert max(line.cell_len for line in lines) <= width


def test_what_came_between_two_answers_has_no_traffic_yet() -> None:
    found = answers()
    found.traffic["upstreams"]["app"].clear()
    found.traffic["listeners"].clear()
    found.traffic["pools"].clear()
    for view in ("listeners", "pools", "upstreams"):
        assert draw(State(view), found, None, 80, 24)
