"""The loop of `top`: keys, signals and answers come in, the screen goes out."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from rich.cells import cell_len

from spliceproxy.cli import text
from spliceproxy.cli.tables import open_console, room, show
from spliceproxy.cli.top.feed import Feed, Query
from spliceproxy.cli.top.rows import session_query
from spliceproxy.cli.top.screen import draw, snapshot
from spliceproxy.cli.top.state import State
from spliceproxy.cli.top.terminal import ERASE, Terminal, can_be_live

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from spliceproxy.cli.client import Admin

_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TICK = 1.0
"""Seconds after which the screen is drawn again without news: how long there are none."""


def run(admin: Admin, view: str, interval: float) -> None:
    """Show it until the person leaves. Raises DoorError where nobody answers at the start."""
    state = State(view)
    if not can_be_live():
        answers = Feed(admin, interval, lambda: None).first(_query(state))
        console = open_console()
        show(console, snapshot(state, answers, room(console)))
        return
    ended_by = _Live(admin, state, interval).run()
    if ended_by not in (None, signal.SIGINT):
        # Whoever sent it sees that it was obeyed: the handlers are what they were.
        os.kill(os.getpid(), ended_by)


def _query(state: State) -> Query | None:
    return session_query(state) if state.view == "sessions" else None


class _Live:
    def __init__(self, admin: Admin, state: State, interval: float) -> None:
        self._state = state
        self._feed = Feed(admin, interval, lambda: self._terminal.wake())
        self._answers = self._feed.first(_query(state))
        self._terminal = Terminal()
        self._console: Console = open_console()

    def run(self) -> int | None:
        """The signal that ended it; None: the person did."""
        with self._terminal:
            self._feed.start()
            while True:
                self._draw()
                keys, signals = self._terminal.wait(_TICK)
                for number in signals:
                    if number in _ENDS:
                        return number
                    if number == signal.SIGTSTP:
                        self._terminal.suspend()
                if not all(map(self._press, keys)):
                    return None

    def _press(self, key: str) -> bool:
        state, before = self._state, _query(self._state)
        goes_on = state.press(key)
        resumed = self._feed.paused and not state.paused
        self._feed.paused = state.paused
        if resumed or _query(state) != before:
            self._feed.look(_query(state))
        return goes_on

    def _draw(self) -> None:
        feed = self._feed
        self._answers = feed.answers or self._answers
        wrong = None
        if (trouble := feed.trouble) is not None:
            wrong = text.duration(time.monotonic() - trouble.since), trouble.text
        width, height = self._terminal.size
        lines = draw(self._state, self._answers, wrong, width, height)
        self._terminal.draw([self._paint(line, width) for line in lines])

    def _paint(self, line: Text, width: int) -> str:
        """The line with its colours, as far as the terminal has some."""
        with self._console.capture() as captured:
            show(self._console, [line])
        rest = "" if cell_len(line.plain) >= width else ERASE
        return captured.get().rstrip("\n") + rest
