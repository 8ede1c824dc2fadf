"""The program's log: what it does, in short sentences with fields, on standard error.

On a terminal a coloured line for a person; in systemd's journal the same line without colour, and
without time and level, which the journal keeps itself and is told by a priority; otherwise one JSON
object per line with the keys `time` (ISO 8601, UTC, milliseconds), `level`, `event`, then the
event's fields. Supervisor and workers write to the same standard error, each line by one write.

Logging never blocks the program and never ends it. What standard error does not take at once is
lost, and counted: the next line that gets through is preceded by `log lines lost`.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import stat
import time
from collections.abc import Callable
from typing import Any

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger

from spliceproxy.telemetry.journal import leads_to_journal, with_priority
from spliceproxy.telemetry.record import iso_ms
from spliceproxy.telemetry.tap import Line, plain_line

LEVELS: dict[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_STDERR = 2
_Render = Callable[[WrappedLogger, str, EventDict], bytes]
_LostLine = Callable[[int], bytes]


_level = logging.INFO
_tap: Callable[[Line], None] | None = None


def set_up(level: str, format: str) -> None:
    """Send what this process logs, through structlog or the standard library, to standard error.

    `level` is debug, info, warning or error; `format` is auto, console or json. May be called
    again with other values.
    """
    console, journal = resolve_format(format) == "console", leads_to_journal(_STDERR)
    # The journal has time and priority of its own for each line.
    clock = [] if journal else [_add_clock]
    render: _Render = _console_renderer(with_level=not journal) if console else _render_json
    lost_line: _LostLine = _lost_in_words if console else _lost_as_json
    if journal:
        render, lost_line = _for_journal(render), _lost_in_journal(lost_line)
    _sink.open(_STDERR, lost_line)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _pass_on,
            *(clock if console else [_add_time, structlog.processors.format_exc_info]),
            render,
        ],
        logger_factory=lambda *_args: _sink,
        cache_logger_on_first_use=False,
    )
    library = logging.getLogger()
    library.handlers[:] = [_ToStructlog()]
    set_level(level)


def set_level(level: str) -> None:
    """Write nothing below `level` from now on: debug, info, warning or error."""
    global _level
    _level = LEVELS[level]
    least = _level if _tap is None else min(_level, logging.INFO)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(least))
    logging.getLogger().setLevel(max(least, logging.WARNING))


def tap(take: Callable[[Line], None] | None) -> None:
    """Have `take` called with each line from level info on, whatever the level of the log; None:
    nobody any more. It is called by the thread that logs, and must not fail, wait or log."""
    global _tap
    _tap = take
    set_level(next(name for name, number in LEVELS.items() if number == _level))


def resolve_format(format: str) -> str:
    """`auto` as console where standard error is a terminal or systemd's journal, and json
    elsewhere; others unchanged.

    The journal is read by people, with journalctl, which shows time and priority beside each line
    and finds lines by them; as JSON every line would say both a second time.
    """
    if format != "auto":
        return format
    return "console" if os.isatty(_STDERR) or leads_to_journal(_STDERR) else "json"


def colour_wanted(fd: int) -> bool:
    """Whether `fd` is a terminal and the environment does not forbid colours (no-color.org)."""
    return os.isatty(fd) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def hold_standard_fds() -> None:
    """Open /dev/null in place of each standard fd that is closed, before anything else is opened.

    Otherwise a client's socket could become number 2, and receive the log.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number: fd


def _pass_on(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """To whoever taps the log; and no further than that where the level is below the log's."""
    number = LEVELS.get(event["level"], logging.ERROR)
    if _tap is not None and number >= logging.INFO:
        _tap(plain_line(event))
    if number < _level:
        raise structlog.DropEvent
    return event


def _add_time(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    ordered: dict[str, Any] = {"time": iso_ms(time.time())}
    ordered["level"] = event.pop("level")
    ordered["event"] = event.pop("event")
    ordered.update(event)
    return ordered


def _add_clock(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    now = time.time()
    event["time"] = time.strftime("%H:%M:%S", time.localtime(now)) + f".{int(now % 1 * 1000):03d}"
    return event


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
    try:
        return orjson.dumps(
            event, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE
        )
    except TypeError:  # a file name that is not UTF-8, a number of more than 64 bits
        return json.dumps(event, default=str, skipkeys=True).encode() + b"\n"


def _console_renderer(*, with_level: bool) -> _Render:
    render = structlog.dev.ConsoleRenderer(
        colors=colour_wanted(_STDERR),
        pad_event_to=0,
        pad_level=False,
        timestamp_key="time",
        sort_keys=False,
        exception_formatter=structlog.dev.plain_traceback,
    )

    def render_bytes(logger: WrappedLogger, method: str, event: EventDict) -> bytes:
        if not with_level:
            del event["level"]
        text = str(render(logger, method, event))
        return text.encode("utf-8", "backslashreplace") + b"\n"

    return render_bytes


def _for_journal(render: _Render) -> _Render:
    def render_with_priority(logger: WrappedLogger, method: str, event: EventDict) -> bytes:
        level = event["level"]
        return with_priority(level, render(logger, method, event))

    return render_with_priority


def _lost_in_journal(lost_line: _LostLine) -> _LostLine:
    return lambda lines: with_priority("warning", lost_line(lines))


def _lost_as_json(lines: int) -> bytes:
    event = {"time": iso_ms(time.time()), "level": "warning", "event": "log lines lost"}
    return orjson.dumps({**event, "lines": lines}, option=orjson.OPT_APPEND_NEWLINE)


def _lost_in_words(lines: int) -> bytes:
    return b"log lines lost: %d\n" % lines


class _ToStructlog(logging.Handler):
    """What libraries log by the standard library, in the form of everything else."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger()
        write = logger.error if record.levelno >= logging.ERROR else logger.warning
        try:
            text = record.getMessage()
        except Exception:  # a library's broken format string must not end the proxy
            text = str(record.msg)
        write(text, logger=record.name, exc_info=record.exc_info)


class _Sink:
    """Writes lines to standard error, and rather loses one than waits for room.

    O_NONBLOCK belongs to the open file description, which the shell and other processes share; so
    a pipe or a terminal is opened once more through /proc, and a socket is told with each send.
    Where that is not allowed (the pipe of another user), poll(2) comes first: a pipe that is
    writable takes PIPE_BUF bytes at once.
    """

    def __init__(self) -> None:
        self._put: Callable[[bytes], int] = self._put_nowhere
        self._fd = -1
        self._socket: socket.socket | None = None
        self._lost = 0
        self._broken_line = False
        self._lost_line: _LostLine = _lost_as_json

    def open(self, fd: int, lost_line: _LostLine) -> None:
        """From now on lines go to what `fd` is, which stays the caller's.

        `lost_line` renders the line that tells how many were lost.
        """
        self._close()
        self._lost_line = lost_line
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISSOCK(mode):
                self._socket = socket.socket(fileno=os.dup(fd))
                self._put = self._put_socket
            elif stat.S_ISREG(mode):
                self._fd = os.dup(fd)
                self._put = self._put_file
            else:
                self._open_stream(fd)
        except OSError:
            self._put = self._put_nowhere

    def _open_stream(self, fd: int) -> None:
        try:
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
            self._fd = os.open(f"/proc/self/fd/{fd}", flags)
            self._put = self._put_file
        except OSError:
            self._fd = os.dup(fd)
            self._put = self._put_polled

    def _close(self) -> None:
        self._put = self._put_nowhere
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def write(self, line: bytes) -> None:
        """Write one line, if there is room for it now, and what was lost before in the same go."""
        notice = self._lost_line(self._lost) if self._lost else b""
        written = self._write_now(notice + line)
        if notice and written >= len(notice):
            self._lost = 0
        if written < len(notice) + len(line):
            self._lost += 1

    debug = info = warning = error = critical = exception = write

    def _write_now(self, data: bytes) -> int:
        """How many bytes of whole lines were taken."""
        written = 0
        try:
            if self._broken_line:
                self._put(b"\n")
                self._broken_line = False
            while written < len(data):
                written += self._put(data[written:])
        except OSError:
            if written:
                self._broken_line = data[written - 1] != ord("\n")
        return written

    def _put_nowhere(self, data: bytes) -> int:
        return len(data)

    def _put_file(self, data: bytes) -> int:
        return os.write(self._fd, data)

    def _put_polled(self, data: bytes) -> int:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        if not poll.poll(0):
            raise BlockingIOError
        return os.write(self._fd, data[: select.PIPE_BUF])

    def _put_socket(self, data: bytes) -> int:
        assert self._socket is not None
        return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


_sink = _Sink()
