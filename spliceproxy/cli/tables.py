"""Tables without lines, which fit the width that there is: what says least is left out first.

A cell is plain text, or text with a style of rich's. A line is rich's Text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len, chop_cells, set_cell_size
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

GAP = 2
"""Columns between two columns."""
_EASY = 22
"""Columns of text to which a wide one is made narrower before others are left out: an IPv4 address
with its port."""
_NARROWEST = 8
"""Columns to which one of text is made narrower at the least."""


class Cell(NamedTuple):
    """Text with a style."""

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """What stands over a column, and what becomes of it where there is no room."""

    title: str
    right: bool = False
    """Numbers stand at the right."""
    rank: int = 0
    """Where there is no room the highest ranks are left out; 0 never is."""
    style: str = ""
    """Of its title."""
    fixed: bool = False
    """It is not made narrower."""
    least: int = 0
    """Columns that it takes at the least, so that it keeps its place as its numbers change."""


@dataclass(slots=True)
class Table:
    """Rows of cells under their columns."""

    columns: Sequence[Column]
    rows: list[list[Cell]] = field(default_factory=list)

    def add(self, *cells: str | Cell) -> None:
        """Add a row: a cell for each column."""
        self.rows.append([one if isinstance(one, Cell) else Cell(one) for one in cells])

    def without(self, *titles: str) -> Table:
        """The same table without these columns."""
        return self._only([n for n, one in enumerate(self.columns) if one.title not in titles])

    def lines(self, width: int | None, *, fold: bool = True) -> list[Text]:
        """The lines of the table, its head first, no wider than `width` (None: as wide as it is).

        What is too long is continued on the next line, or cut where `fold` is False.
        """
        widths = self._widths()
        if width is not None and _total(widths) > width:
            kept = self._kept(widths, width)
            if len(kept) < len(widths):
                return self._only(kept).lines(width, fold=fold)
            widths = self._narrowed(widths, width)
        head = [Cell(one.title, one.style or "bold") for one in self.columns]
        lines = self._row(head, widths, fold=False)
        for row in self.rows:
            lines += self._row(row, widths, fold)
        return lines

    def _only(self, kept: Sequence[int]) -> Table:
        rows = [[row[n] for n in kept] for row in self.rows]
        return Table([self.columns[n] for n in kept], rows)

    def _widths(self) -> list[int]:
        widths = [max(column.least, cell_len(column.title)) for column in self.columns]
        for row in self.rows:
            for number, cell in enumerate(row):
                widths[number] = max(widths[number], cell_len(cell.text))
        return widths

    def _kept(self, widths: Sequence[int], width: int) -> list[int]:
        """The numbers of the columns for which there is room."""
        kept = list(range(len(widths)))
        widths = [
            size if self._is_stiff(number) else min(size, _EASY)
            for number, size in enumerate(widths)
        ]
        for number in sorted(kept, key=lambda n: -self.columns[n].rank):
            fits = _total([widths[n] for n in kept]) <= width
            if fits or not self.columns[number].rank:
                break
            kept.remove(number)
        return kept

    def _narrowed(self, widths: list[int], width: int) -> list[int]:
        """The widest columns made narrower, as far as that goes."""
        widths = list(widths)
        movable = [n for n in range(len(widths)) if not self._is_stiff(n)]
        while _total(widths) > width and movable:
            widest = max(movable, key=widths.__getitem__)
            if widths[widest] <= _NARROWEST:
                break
            widths[widest] -= 1
        return widths

    def _is_stiff(self, number: int) -> bool:
        """Whether a column keeps its width."""
        return self.columns[number].right or self.columns[number].fixed

    def _row(self, row: Sequence[Cell], widths: Sequence[int], fold: bool) -> list[Text]:
        pieces = [_pieces(cell.text, size, fold) for cell, size in zip(row, widths, strict=True)]
        return [
            self._line(row, widths, [one[n] if n < len(one) else "" for one in pieces])
            for n in range(max(map(len, pieces)))
        ]

    def _line(self, row: Sequence[Cell], widths: Sequence[int], texts: Sequence[str]) -> Text:
        line = Text(no_wrap=True, overflow="ignore", end="")
        for number, text in enumerate(texts):
            blank = " " * (widths[number] - cell_len(text))
            before, after = (blank, "") if self.columns[number].right else ("", blank)
            line.append(before)
            line.append(text, row[number].style)
            line.append(after + " " * GAP)
        line.rstrip()
        return line


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _pieces(text: str, width: int, fold: bool) -> list[str]:
    if cell_len(text) <= width:
        return [text]
    return chop_cells(text, width) if fold else [cut(text, width)]


def cut(text: str, width: int) -> str:
    """The text in `width` columns, with an ellipsis where something is missing."""
    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"


def open_console() -> Console:
    """Standard output as it is: a terminal of some width, or a pipe, which has no colours."""
    from rich.console import Console

    # Addresses are no markup, though [::1]:80 looks like it.
    return Console(highlight=False, markup=False, emoji=False)


def show(console: Console, lines: Iterable[Text | str]) -> None:
    """Print lines that are laid out already: nothing is cut or wrapped."""
    for line in lines:
        console.print(line, end="\n", no_wrap=True, overflow="ignore", crop=False)


def room(console: Console) -> int | None:
    """Columns that there are; None where nobody looks and nothing may be cut."""
    return console.width if console.is_terminal else None


def wrap(said: Text, width: int | None) -> list[Text]:
    """The lines of a text that may be long, broken between words; None: where it breaks itself."""
    from rich.console import Console

    lines = said.split("\n")
    if width is None:
        return [*lines]
    console = Console(width=width)
    return [piece for line in lines for piece in line.wrap(console, width)]
