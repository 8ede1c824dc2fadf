"""Signals that come before the event loop listens, and after it does no longer.

As PID 1 of a container a process has no default actions: a signal that it does not handle is lost
(pid_namespaces(7)). Any other process would be killed, with its socket files left behind. So from
the first line on signals are remembered, for the event loop to hear.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
"""Those that the supervisor understands."""
_ENDS = {signal.SIGTERM, signal.SIGINT}


class Stopped(Exception):  # noqa: N818 - it is no error
    """The process was asked to end before it had begun to serve."""


class EarlySignals:
    """Remembers the signals that come from now on, until others handle them."""

    def __init__(self) -> None:
        self._pending: list[int] = []
        self._raises = False
        for number in SIGNALS:
            signal.signal(number, self._remember)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self._pending.append(number)
        if self._raises:
            self.check()

    def check(self) -> None:
        """Raise Stopped where SIGTERM or SIGINT has come."""
        if _ENDS.intersection(self._pending):
            raise Stopped

    @contextmanager
    def end_waiting(self) -> Iterator[None]:
        """Let them raise Stopped anywhere in the body, which waits and holds nothing that must be
        given back."""
        self._raises = True
        try:
            self.check()
            yield
        finally:
            self._raises = False

    def take(self) -> list[int]:
        """Those that have come, in order; to be called when somebody else handles them."""
        pending, self._pending = self._pending, []
        return pending

    @staticmethod
    def mute() -> None:
        """Hold back all of them: the process is about to exit, with a code of its own."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
