"""What the person at the terminal chose: pure, and changed by keys alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

VIEW_KEYS = {"l": "listeners", "p": "pools", "u": "upstreams", "s": "sessions"}
DEFAULT_SORT = "↓/s"
"""The title of the column by which every view is sorted at first."""
_LAST = 1 << 30
"""A row behind all rows: whoever draws scrolls back to the last page."""


@dataclass(slots=True)
class State:
    """One look at the proxy."""

    view: str = "upstreams"
    columns: Sequence[str] = ()
    """Titles by which this view can be sorted, from left to right; set by whoever draws."""
    sorts: dict[str, str] = field(default_factory=dict)
    """By view, the title of the column that was chosen."""
    reversed: set[str] = field(default_factory=set)
    """The views whose order is turned around."""
    filter: str = ""
    typing: str | None = None
    """The filter while it is typed."""
    paused: bool = False
    help: bool = False
    first: int = 0
    """The first row that is shown."""
    page: int = 1
    """Rows that are shown at once; set by whoever draws."""

    @property
    def sort(self) -> str:
        """The title of the column by which the view is sorted."""
        return self.sorts.get(self.view, DEFAULT_SORT)

    @property
    def wanted(self) -> str:
        """The filter that holds now, also while it is typed."""
        return self.filter if self.typing is None else self.typing

    def press(self, key: str) -> bool:
        """Obey a key; False: the person wants to leave."""
        if self.typing is not None:
            self._type(key)
        elif self.help:
            self.help = False
            return key != "q"
        elif key == "q":
            return False
        elif key in VIEW_KEYS:
            self.view, self.first = VIEW_KEYS[key], 0
        elif key in _MOVES:
            self._move(key)
        else:
            self._change(key)
        return True

    def _change(self, key: str) -> None:
        match key:
            case "<" | "left":
                self._sort(-1)
            case ">" | "right":
                self._sort(1)
            case "r":
                self.reversed ^= {self.view}
            case " ":
                self.paused = not self.paused
            case "/":
                self.typing = self.filter
            case "esc":
                self.filter = ""
            case "?" | "h":
                self.help = True

    def _type(self, key: str) -> None:
        assert self.typing is not None
        self.first = 0
        match key:
            case "enter":
                self.filter, self.typing = self.typing, None
            case "esc":
                self.typing = None
            case "backspace":
                self.typing = self.typing[:-1]
            case "clear":
                self.typing = ""
            case _ if len(key) == 1:
                self.typing += key

    def _sort(self, step: int) -> None:
        columns = self.columns
        if columns:
            now = columns.index(self.sort) if self.sort in columns else 0
            self.sorts[self.view] = columns[(now + step) % len(columns)]
            self.first = 0

    def _move(self, key: str) -> None:
        match key:
            case "home":
                self.first = 0
            case "end":
                self.first = _LAST
            case _:
                steps = {"up": -1, "down": 1, "pgup": -self.page, "pgdn": self.page}
                self.first = max(0, self.first + steps[key])


_MOVES = ("up", "down", "pgup", "pgdn", "home", "end")
