"""What the demo shows: lines that stay, and on a terminal a small table that moves."""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from spliceproxy.cli.demo.cast import Proxy

BAR = 30
"""Columns of the longest bar."""
WINDOW = 2.0
"""Seconds over which the rate of requests is taken."""

TELLING = {"upstream", "why", "retries"}
"""The fields of a record that the story is about."""


@dataclass(frozen=True, slots=True)
class Status:
    """What the table shows."""

    running: Mapping[str, bool]
    """By the name of the upstream."""
    answered: Counter[str]
    failed: int


class Screen:
    """The terminal, or whatever standard output is; nothing moves where it is no terminal."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._history: deque[tuple[float, Counter[str]]] = deque()
        self._start = time.monotonic()

    def open(self, proxy: Proxy) -> None:
        """Tell what runs, with which configuration, and what to try."""
        say = self._say
        say("")
        say("spliceproxy demo", ": three upstreams behind one address", style="bold")
        say("")
        say(f"  {proxy.file}", style="dim")
        for line in proxy.file.read_text().splitlines():
            say(f"    {line}", style="cyan")
        say("")
        say("  Try it from another terminal:", style="dim")
        say(f"    curl http://127.0.0.1:{proxy.port}/")
        say(f"    for i in 1 2 3 4 5 6; do curl -s http://127.0.0.1:{proxy.port}/; done")
        say(f"    tail -f {proxy.records}")
        say("")
        self._start = time.monotonic()
        if self._console.is_terminal:
            self._live.start()

    def close(self) -> None:
        """Take the table away."""
        self._live.stop()

    def tell(self, headline: str, details: str = "", style: str = "bold") -> None:
        """One event of the story, with the time since the beginning."""
        seconds = int(time.monotonic() - self._start)
        clock = f"  {seconds // 60:02}:{seconds % 60:02}  "
        text = Text.assemble((clock, "dim"), (headline, style), details)
        # Wrapped lines stand below the text, not below the clock; elsewhere than on a terminal
        # a line is a line.
        table = Table.grid()
        table.add_column(no_wrap=True)
        table.add_column()
        table.add_row(text[: len(clock)], text[len(clock) :])
        self._console.print(table if self._console.is_terminal else text, soft_wrap=True)

    def show_record(self, record: Mapping[str, object], title: str) -> None:
        """One session record; fields without a value are left out."""
        fields = {key: value for key, value in record.items() if value is not None}
        self._say("")
        self._say(f"  {title}", style="dim")
        if self._console.is_terminal:
            pairs = [
                Text.assemble((f"{json.dumps(key)}: ", "dim"), (json.dumps(value), _style(key)))
                for key, value in fields.items()
            ]
            text = Text("{") + Text.assemble((", ", "dim")).join(pairs) + Text("}")
            self._console.print(Padding(text, (0, 4)))
        else:
            self._say(f"    {json.dumps(fields)}")
        self._say("")

    def update(self, status: Status) -> None:
        """Draw the table anew."""
        now = time.monotonic()
        self._history.append((now, status.answered))
        while now - self._history[0][0] > WINDOW:
            self._history.popleft()
        if self._console.is_terminal:
            self._live.update(self._table(status, now), refresh=True)

    def _table(self, status: Status, now: float) -> Table:
        then, before = self._history[0]
        seconds = max(now - then, 0.001)
        rates = {name: (status.answered[name] - before[name]) / seconds for name in status.running}
        highest = max(*rates.values(), 1.0)
        table = Table.grid(padding=(0, 2))
        table.add_row()
        for name, running in status.running.items():
            filled = round(BAR * rates[name] / highest)
            table.add_row(
                "",
                Text(name, "bold"),
                Text("serves ", "green") if running else Text("stopped", "red"),
                Text("━" * filled, "green") + Text("━" * (BAR - filled), "bright_black"),
                Text(f"{rates[name]:3.0f} requests/s"),
                Text(f"{status.answered[name]} answered", "dim"),
            )
        failed = Text(f"{status.failed} failed", "red" if status.failed else "green")
        table.add_row("", "", "", Text("Ctrl-C ends the demo", "dim"), failed)
        table.add_row()
        return table

    def _say(self, text: str, details: str = "", style: str = "") -> None:
        self._console.print(Text.assemble((text, style), details), soft_wrap=True)


def _style(key: str) -> str:
    return "bold yellow" if key in TELLING else ""
