"""The terminal, while it shows a live screen: taken, drawn on, and given back whatever happens.

- The alternate screen keeps what was there before (xterm's 1049); lines do not wrap meanwhile.
- Keys come one by one and are not echoed (cbreak, termios(3)); Ctrl-C and Ctrl-Z stay signals.
- Signals only write their number into a pipe, which the loop reads: Python's handlers would come
  in the middle of a drawing.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[H\x1b[2J"
ERASE = "\x1b[K"
"""Clears the rest of a line."""
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"
"""Around a drawing, of which terminals that know them show nothing before its end."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH, signal.SIGTSTP)
_REST = 0.05
"""Seconds for the rest of a key that is sent as several bytes."""
_SEQUENCES = {
    "[A": "up", "[B": "down", "[C": "right", "[D": "left",
    "OA": "up", "OB": "down", "OC": "right", "OD": "left",
    "[5~": "pgup", "[6~": "pgdn",
    "[H": "home", "OH": "home", "[1~": "home", "[7~": "home",
    "[F": "end", "OF": "end", "[4~": "end", "[8~": "end",
}  # fmt: skip
_CONTROLS = {
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x15": "clear",
}


class Terminal:
    """Standard input and output, which are a terminal."""

    def __init__(self) -> None:
        self._in, self._out = sys.stdin.fileno(), sys.stdout.fileno()
        self._before = termios.tcgetattr(self._in)
        self._wake_reader, self._wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._handlers: dict[int, Any] = {}
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Terminal:
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        for number in _SIGNALS:
            self._handlers[number] = signal.signal(number, _only_wake)
        self._take()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._give_back()
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            with self._lock:
                self._closed = True
                os.close(self._wake_reader)
                os.close(self._wake_writer)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        found = os.get_terminal_size(self._out)
        return found.columns, found.lines

    def draw(self, lines: Sequence[str]) -> None:
        """Put these lines on the screen, in place of all that is there.

        One that does not reach the right edge ends with ERASE: behind one that does the cursor
        stands on its last character.
        """
        self._write(f"{_BEGIN}\x1b[H" + "\r\n".join(lines) + _END)

    def wake(self) -> None:
        """Have `wait` return: something else happened. For any thread."""
        with self._lock, suppress(BlockingIOError):  # it is full, and will be read
            if not self._closed:
                os.write(self._wake_writer, b"\0")

    def wait(self, timeout: float) -> tuple[list[str], list[int]]:
        """The keys and the signals that came, within `timeout` seconds."""
        ready, _, _ = select.select([self._in, self._wake_reader], [], [], timeout)
        signals: list[int] = []
        if self._wake_reader in ready:
            signals = [number for number in os.read(self._wake_reader, 1024) if number]
        if self._in not in ready:
            return [], signals
        try:
            data = os.read(self._in, 1024)
        except OSError:
            data = b""
        if not data:  # it was hung up
            return [], [*signals, signal.SIGHUP]
        if (
            data.endswith((b"\x1b", b"\x1b[", b"\x1bO"))
            and select.select([self._in], [], [], _REST)[0]
        ):
            data += os.read(self._in, 1024)
        return [*keys(data.decode("utf-8", "ignore"))], signals

    def suspend(self) -> None:
        """Stop, as Ctrl-Z asks for, and go on when the shell says so."""
        self._give_back()
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)
        self._take()

    def _take(self) -> None:
        tty.setcbreak(self._in)
        self._write(_ENTER)

    def _give_back(self) -> None:
        with suppress(OSError, termios.error):  # it is gone
            self._write(_LEAVE)
            termios.tcsetattr(self._in, termios.TCSADRAIN, self._before)

    def _write(self, text: str) -> None:
        data = memoryview(text.encode("utf-8", "replace"))
        while data:
            data = data[os.write(self._out, data) :]


def keys(text: str) -> Iterator[str]:
    """The names of the keys that send these characters; what is no key is left out."""
    while text:
        key, text = _next_key(text)
        if key:
            yield key


def _next_key(text: str) -> tuple[str, str]:
    first, rest = text[0], text[1:]
    if first != "\x1b":
        return _CONTROLS.get(first, first if first.isprintable() else ""), rest
    if rest[:1] not in ("[", "O"):
        return "esc", rest
    end = next((n for n, char in enumerate(rest[1:], 1) if "@" <= char <= "~"), len(rest) - 1)
    return _SEQUENCES.get(rest[: end + 1], ""), rest[end + 1 :]


def _only_wake(_number: int, _frame: object) -> None:
    """The number is in the pipe already."""


def can_be_live() -> bool:
    """Whether there is a terminal that can be drawn on."""
    ours: Iterable[bool] = (sys.stdin.isatty(), sys.stdout.isatty())
    return all(ours) and os.environ.get("TERM", "dumb") != "dumb"
