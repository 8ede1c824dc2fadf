"""A terminal in which a command runs, as tmux has it: keys go in, the screen comes out."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from harness.wait import wait_until

_numbers = count()


class Terminal:
    """One tmux server with one pane."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def screen(self, *options: str) -> str:
        """What is to be seen now."""
        return self._tmux("capture-pane", "-p", *options, "-t", "0")

    def lines(self) -> list[str]:
        """The same, line by line."""
        return self.screen().splitlines()

    def press(self, *keys: str) -> None:
        """Keys as tmux names them: q, Space, Down, C-c."""
        self._tmux("send-keys", "-t", "0", *keys)

    def type(self, text: str) -> None:
        """Keys that are characters."""
        self._tmux("send-keys", "-t", "0", "-l", text)

    def resize(self, width: int, height: int) -> None:
        """Have a window of another size."""
        self._tmux("resize-window", "-t", "0", "-x", str(width), "-y", str(height))

    def wait(self, seen: Callable[[str], object], what: str, timeout: float = 15) -> str:
        """The first screen of which that is true; none that is being drawn."""

        def look() -> str:
            screen = self.screen()
            return screen if seen(screen) and screen == self.screen() else ""

        try:
            return wait_until(look, timeout, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.screen()}") from None

    def wait_for(self, text: str) -> str:
        """The first screen on which that text stands."""
        return self.wait(lambda screen: text in screen, f"{text!r} on the screen")

    @property
    def pid(self) -> int:
        """The process that runs in the pane: a shell."""
        return int(self._tmux("display-message", "-p", "-t", "0", "#{pane_pid}"))

    def _tmux(self, *arguments: str) -> str:
        command = ["tmux", "-S", str(self._socket), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@contextmanager
def terminal(
    directory: Path, width: int = 80, height: int = 24, env: Mapping[str, str] | None = None
) -> Iterator[Terminal]:
    """A terminal with a shell that has no start-up files, as long as the block lasts."""
    socket = directory / f"tmux{next(_numbers)}"
    kept = {name: value for name, value in os.environ.items() if name not in ("TMUX", "NO_COLOR")}
    environment = {**kept, "LANG": "C.UTF-8", "PS1": "$ ", **(env or {})}
    start = [
        "tmux", "-S", str(socket), "-f", "/dev/null", "-u", "new-session", "-d",
        "-x", str(width), "-y", str(height), "bash", "--norc", "--noprofile",
    ]  # fmt: skip
    subprocess.run(start, check=True, env=environment, cwd=directory, stdin=subprocess.DEVNULL)
    shown = Terminal(socket)
    try:
        shown.wait_for("$")
        yield shown
    finally:
        subprocess.run(["tmux", "-S", str(socket), "kill-server"], check=False)


def quoted(*words: object) -> str:
    """A command line that means these words."""
    return shlex.join(map(str, words))
