"""One worker as the supervisor sees it: a child process, its channel, and its death."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence

import structlog

from spliceproxy.errors import IpcError, LostFdError
from spliceproxy.ipc import Channel, HasFileno, Message

_log = structlog.get_logger()

_GONE_ERRNOS = {errno.EPIPE, errno.ECONNRESET}
"""The worker is dying, as its pidfd will say."""
_RETRY = 0.02
"""Seconds until a channel that the kernel found short of fds is tried again."""


class WorkerProcess:
    """A running worker. Its death is noticed through a pidfd, whatever it died of.

    `on_message` hears what it says, with fds that are open while it is called, and `on_exit` that
    it ended; both are called from the event loop, and `on_exit` is the last.
    """

    def __init__(
        self,
        index: int,
        command: Sequence[str],
        board: int,
        on_message: Callable[[WorkerProcess, Message, list[int]], None],
        on_exit: Callable[[WorkerProcess, int], None],
    ) -> None:
        """Start `command CHANNEL_FD BOARD_FD INDEX`. Raises OSError."""
        self.index = index
        self.ready = False
        self.generation = -1
        """Of the snapshot that it obeys; -1: none yet."""
        self.serving: set[int] = set()
        """Numbers of the sockets that it was told to serve."""
        self.killed_for = ""
        """Why the supervisor killed it, if it did."""
        self.started_at = time.time()
        self.started = time.monotonic()
        """Monotonic seconds."""
        self._on_message = on_message
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._channel, there = Channel.pair()
        try:
            self._process = _spawn([*command], there, board, index)
            self._pidfd = os.pidfd_open(self._process.pid)
        except BaseException:
            self._channel.close()
            raise
        finally:
            there.close()
        self._reading = True
        self._retry: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._channel.fileno(), self._receive)
        self._loop.add_reader(self._pidfd, self.reap)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self.started

    def send(self, message: Message, *files: HasFileno | int) -> None:
        """Tell it something; see Channel.send. Where it is gone, `on_exit` tells so."""
        try:
            self._channel.send(message, *files)
        except OSError as error:
            self._on_send_error(error)
        else:
            self._await_flush()

    def kill(self, reason: str) -> None:
        """End it with SIGKILL; `reason` goes to the log."""
        self.killed_for = self.killed_for or reason
        self._process.kill()

    def _flush(self) -> None:
        self._retry = None
        try:
            self._channel.flush()
        except OSError as error:
            self._on_send_error(error)
        self._await_flush()

    def _await_flush(self) -> None:
        """Come back for what waits, if something does."""
        if self._channel.short:
            self._loop.remove_writer(self._channel.fileno())
            if self._retry is None:
                self._retry = self._loop.call_later(_RETRY, self._flush)
        elif self._channel.waiting:
            self._loop.add_writer(self._channel.fileno(), self._flush)
        else:
            self._loop.remove_writer(self._channel.fileno())

    def _on_send_error(self, error: OSError) -> None:
        """A worker that did not hear all it was told would leave clients in a dead queue."""
        if error.errno not in _GONE_ERRNOS:
            self.kill(f"it could not be told what to do: {error.strerror}")

    def _receive(self) -> None:
        """Take all messages that are there."""
        while self._reading:
            try:
                received = self._channel.receive()
            except BlockingIOError:
                return
            except LostFdError as error:
                # Of what workers say, only answers have fds: who asked hears that one is missing.
                _log.warning(
                    "a worker's answer was lost: too many open files",
                    worker=self.index,
                    error=str(error),
                )
                continue
            except (IpcError, OSError) as error:
                _log.error("a worker's message made no sense", worker=self.index, error=str(error))
                self.kill("its message made no sense")
                received = None
            if received is None:
                # Its end is closed; that it exited is the pidfd's to say.
                self._reading = False
                self._loop.remove_reader(self._channel.fileno())
                return
            message, fds = received
            try:
                self._on_message(self, message, fds)
            finally:
                for fd in fds:
                    os.close(fd)

    def reap(self) -> None:
        """Take the exit status, if it has ended; its last words come first."""
        if self._pidfd < 0 or self._process.poll() is None:
            return
        self._receive()
        self._close()
        self._on_exit(self, self._process.returncode)

    def _close(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._loop.remove_reader(self._pidfd)
        self._loop.remove_reader(self._channel.fileno())
        self._loop.remove_writer(self._channel.fileno())
        os.close(self._pidfd)
        self._pidfd = -1
        self._channel.close()

    def destroy(self) -> None:
        """Kill it, wait for its end, and close what belongs to it; `on_exit` is not called."""
        if self._pidfd >= 0:
            self._process.kill()
            self._process.wait()
            self._close()


def _spawn(
    command: list[str], channel: socket.socket, board: int, index: int
) -> subprocess.Popen[bytes]:
    """Start the program with its channel and the board.

    A session of its own keeps the worker out of the terminal's foreground group, so that Ctrl-C
    reaches the supervisor alone, which then says what is to happen; and out of any background
    group, which would be stopped when it writes to a terminal that has `tostop` set.
    """
    return subprocess.Popen(
        [*command, str(channel.fileno()), str(board), str(index)],
        pass_fds=(channel.fileno(), board),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def describe_exit(code: int) -> str:
    """The exit of a process in words: `exit code 3`, `SIGKILL`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
