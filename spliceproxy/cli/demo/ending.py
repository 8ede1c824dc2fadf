"""How Ctrl-C, SIGTERM and a closed terminal are heard: a signal only wakes whoever waits."""

from __future__ import annotations

import select
import signal
import socket
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class HasFileno(Protocol):
    def fileno(self) -> int: ...


class Ending:
    """While entered, SIGNALS end nothing by themselves: `wait` says that one came.

    The signal's number arrives in a socket (signal.set_wakeup_fd), so that a wait ends at once:
    a handler that only sets a flag is not noticed before the wait's timeout (PEP 475). To be used
    from the main thread.
    """

    def __init__(self) -> None:
        self.came = False
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def __enter__(self) -> Self:
        self._old_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._old = [(number, signal.signal(number, self._note)) for number in SIGNALS]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._old:
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        self._reader.close()
        self._writer.close()

    def wait(self, seconds: float, *others: HasFileno | int) -> Sequence[HasFileno | int]:
        """Wait until one of `others` is readable, a signal came, or `seconds` are over.

        Returns those of `others` that are readable.
        """
        if self.came:
            return ()
        ready, _, _ = select.select([self._reader, *others], [], [], max(0.0, seconds))
        return [one for one in ready if one is not self._reader]

    def _note(self, number: int, frame: object) -> None:  # noqa: ARG002 - what signal() wants
        self.came = True
