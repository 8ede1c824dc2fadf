"""The event loop of a worker: epoll, timers, a queue for unfinished turns, signals.

- I7: a flow that used up its turn waits in the run-again queue. One round of that queue is worked
  off between two looks at epoll, which then does not wait.
- I9: with nothing to move and nothing to time the loop sleeps in epoll_wait.
- I10: sockets closed while a batch is handled are closed at its end. Until then their numbers
  cannot come back, so an event later in the same batch never reaches a stranger.
- A signal handler only writes a byte to a socket pair that epoll watches (signal.set_wakeup_fd):
  epoll.poll() resumes after EINTR (PEP 475), so a flag set by a handler would be seen at the next
  timeout.
- A handler that fails ends its session, not the process: `on_failure` is told whose it was, and
  the rest of the batch is handled, because an edge-triggered event does not come twice.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from select import EPOLL_CLOEXEC, epoll
from typing import Final, Protocol

from spliceproxy.worker.timers import Timer, Wheel

Handler = Callable[[int], None]

BATCH: Final = 64
"""Events of one epoll_wait, at most. Where thousands of clients leave at once, each is the end of a
session, and many in a row would keep the others waiting; what is left comes with the next."""
LONGEST_WAIT: Final = 86_400.0
"""Seconds: epoll_wait(2) takes no more than 24 days."""


class Closable(Protocol):
    def close(self) -> None: ...


class Loop:
    """One thread, one epoll. `now` is time.monotonic() of the current batch, in seconds.

    `handlers[fd]` is called with the events of an fd. A closed fd's handler does nothing.
    """

    __slots__ = (
        "_again",
        "_closing",
        "_epoll",
        "_on_failure",
        "_running",
        "_signal_calls",
        "_wakeup",
        "batches",
        "busy",
        "clock",
        "events",
        "handlers",
        "longest",
        "now",
        "wheel",
    )

    def __init__(self, on_failure: Callable[[object, Exception], None]) -> None:
        """`on_failure(owner, error)`: a method of `owner` raised `error`. May raise it again."""
        self._on_failure = on_failure
        self._epoll = epoll(flags=EPOLL_CLOEXEC)
        self._again: list[Callable[[], None]] = []
        self._closing: list[Closable] = []
        self._running = False
        self._signal_calls: dict[int, Callable[[], None]] = {}
        self._wakeup: tuple[socket.socket, socket.socket] | None = None
        self.handlers: list[Handler] = [_nobody] * 256
        self.wheel = Wheel()
        self.now = time.monotonic()
        self.batches = 0
        """Times that epoll_wait returned."""
        self.events = 0
        """Events that it has told, as timers see it."""
        self.busy = 0.0
        """Seconds between its returns and the waits that followed; so too."""
        self.longest = 0.0
        """The longest of these; whoever reads it may set it to 0."""
        self.clock = time.monotonic

    def add(self, fd: int, mask: int, handler: Handler) -> None:
        """Register an fd. Raises OSError (ENOSPC, ENOMEM) where the kernel cannot."""
        handlers = self.handlers
        if fd >= len(handlers):
            handlers.extend([_nobody] * (fd + 256 - len(handlers)))
        self._epoll.register(fd, mask)
        handlers[fd] = handler

    def modify(self, fd: int, mask: int) -> None:
        """Change what a registered fd is watched for; what is ready already is told again."""
        self._epoll.modify(fd, mask)

    def set_handler(self, fd: int, handler: Handler) -> None:
        """Replace the handler of a registered fd."""
        self.handlers[fd] = handler

    def remove(self, fd: int) -> None:
        """Unregister an fd that lives on, here or in another process."""
        self._epoll.unregister(fd)
        self.handlers[fd] = _nobody

    def close_socket_later(self, sock: socket.SocketType) -> None:
        """Close a socket, registered or not, at the end of the batch; nobody hears of it any more.

        Closing the last reference to a socket removes it from epoll, so nothing is unregistered.
        """
        fd = sock.fileno()
        if fd < len(self.handlers):
            self.handlers[fd] = _nobody
        self._closing.append(sock)

    def close_later(self, thing: Closable) -> None:
        """Close something at the end of the batch, when no handler runs."""
        self._closing.append(thing)

    @property
    def closing(self) -> int:
        """What is to be closed at the end of this batch; until then its fds are taken."""
        return len(self._closing)

    def arm(self, timer: Timer, deadline: float) -> None:
        """Call `timer.on_deadline` at `deadline`, unless it is armed for an earlier time."""
        self.wheel.arm(timer, self.now, deadline)

    def run_again(self, call: Callable[[], None]) -> None:
        """Call once, after this batch's events and before the next wait."""
        self._again.append(call)

    def on_signal(self, number: int, call: Callable[[], None]) -> None:
        """Have `call` called by the loop after a signal. Main thread only."""
        if self._wakeup is None:
            reader, writer = socket.socketpair()
            for end in (reader, writer):
                end.setblocking(False)
            signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
            self._wakeup = reader, writer
            self.add(reader.fileno(), 1, self._on_wakeup)
        self._signal_calls[number] = call
        signal.signal(number, _do_nothing)

    def _on_wakeup(self, _events: int) -> None:
        assert self._wakeup is not None
        for number in self._wakeup[0].recv(256):
            call = self._signal_calls.get(number)
            if call is not None:
                self.guarded(call)

    def run(self) -> None:
        """Handle events until `stop`."""
        poll = self._epoll.poll
        handlers = self.handlers
        wheel = self.wheel
        monotonic = self.clock
        told, busy, longest, now = self.events, self.busy, 0.0, monotonic()
        self.now = now
        self._running = True
        while self._running:
            begins = monotonic()
            took = begins - now
            busy += took
            if took > longest:
                longest = took
            wait = wheel.next - begins
            if self._again or wait < 0.0:
                wait = 0.0
            elif wait > LONGEST_WAIT:
                wait = LONGEST_WAIT
            events = poll(wait, BATCH)
            self.now = now = monotonic()
            self.batches += 1
            told += len(events)
            batch = iter(events)
            while True:
                try:
                    for fd, mask in batch:
                        handler = handlers[fd]
                        handler(mask)
                    break
                except Exception as error:
                    self._on_failure(_owner(handler), error)
            if now >= wheel.next:
                # Only timers look at these: nothing is stored for each event.
                self.events, self.busy = told, busy
                if longest > self.longest:
                    self.longest = longest
                longest = 0.0
                wheel.expire(now, self._on_failure)
            if self._again:
                self._run_once_more()
            if self._closing:
                self._close_all()

    def stop(self) -> None:
        """Leave `run` after this batch."""
        self._running = False

    def close(self) -> None:
        """Close what the loop itself owns. Sockets that were added belong to others."""
        self._close_all()
        if self._wakeup is not None:
            signal.set_wakeup_fd(-1)
            for end in self._wakeup:
                end.close()
        self._epoll.close()

    def _run_once_more(self) -> None:
        calls = self._again
        self._again = []
        for call in calls:
            self.guarded(call)

    def guarded(self, call: Callable[[], None]) -> None:
        """Call now; a failure is the one of the object whose method `call` is."""
        try:
            call()
        except Exception as error:
            self._on_failure(_owner(call), error)

    def _close_all(self) -> None:
        closing = self._closing
        self._closing = []
        for thing in closing:
            thing.close()


def _owner(call: Callable[..., None]) -> object:
    """The object whose method `call` is."""
    return getattr(call, "__self__", None)


def _nobody(_events: int) -> None:
    """The handler of an fd that nobody has, or that is about to be closed."""


def _do_nothing(_number: int, _frame: object) -> None:
    """Python's handler of a signal; the wakeup fd has told the loop already."""
