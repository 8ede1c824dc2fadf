"""Session records as lines of a terminal: in columns, and as wide as there is room.

Lines come one by one, so a column is as wide as its widest word so far. On a terminal that is too
narrow what says least is left out, as in the tables of the other commands: the bytes up, parts of a
second, how an end came about. A reason that has no room then gets a line of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from spliceproxy.telemetry.amounts import duration_text, size_text
from spliceproxy.telemetry.record import NORMAL_ENDS, circumstances

_WIDEST: Final = 48
"""Letters that a column grows to; a longer name stands out."""


class RecordLines:
    """Makes a line of each record."""

    def __init__(self, colour: bool) -> None:
        names = ("dim", "red", "bold", "reset")
        codes = ("\x1b[2m", "\x1b[31m", "\x1b[1m", "\x1b[0m")
        self._paint = dict(zip(names, codes, strict=True)) if colour else dict.fromkeys(names, "")
        self._widths = {"place": 0, "client": 0, "lasted": 6, "up": 8, "down": 8, "why": 4}

    def line(self, record: Mapping[str, object], moment: datetime, columns: int) -> str:
        """The record, told at this moment, for a terminal with so many columns."""
        cells = {
            "place": f"{record['listener']} → {record['upstream'] or record['pool'] or '-'}",
            "client": str(record["client"]),
            "lasted": duration_text(record["duration_ms"]),
            "up": size_text(record["bytes_up"]),
            "down": size_text(record["bytes_down"]),
            "why": str(record["why"]),
        }
        for name, cell in cells.items():
            self._widths[name] = max(self._widths[name], min(len(cell), _WIDEST))
        clock = moment.isoformat(timespec="milliseconds")[11:23]
        with_up = self._room(len(clock), with_up=True) <= columns
        if self._room(len(clock), with_up=with_up) > columns:
            clock = clock[:8]
        return self._written(record, cells, clock, columns, with_up=with_up)

    def _room(self, clock: int, *, with_up: bool) -> int:
        """Columns of a line whose end is told in one word."""
        widths = {**self._widths, "up": self._widths["up"] + 2, "down": self._widths["down"] + 2}
        if not with_up:
            del widths["up"]
        return clock + 1 + sum(widths.values()) + 2 * (len(widths) - 1)

    def _written(
        self,
        record: Mapping[str, object],
        cells: Mapping[str, str],
        clock: str,
        columns: int,
        *,
        with_up: bool,
    ) -> str:
        dim, red, bold, reset = self._paint.values()
        widths = self._widths
        padded = {name: cell.ljust(widths[name]) for name, cell in cells.items()}
        listener, rest = str(record["listener"]), padded["place"]
        place = f"{bold}{listener}{reset}{rest[len(listener) :]}"
        moved = f"↓ {cells['down']:>{widths['down']}}"
        if with_up:
            moved = f"↑ {cells['up']:>{widths['up']}}  {moved}"
        lasted = f"{cells['lasted']:>{widths['lasted']}}"
        client = f"{dim}{padded['client']}{reset}"
        why = cells["why"]
        end = why if why == "done" else f"{why} ({circumstances(record)})"
        room = columns - self._room(len(clock), with_up=with_up) + widths["why"]
        gap = "  "
        if len(why) > room:
            gap = "\n" + " " * (len(clock) + 1)
        elif len(end) > room:
            end = why
        end = end if why in NORMAL_ENDS else f"{red}{end}{reset}"
        return f"{dim}{clock}{reset} {place}  {client}  {lasted}  {moved}{gap}{end}"
