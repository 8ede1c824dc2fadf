"""Lines of the log as plain values, for whoever follows what happens: names, numbers, texts."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from spliceproxy.telemetry.record import iso_ms

Line = dict[str, Any]
"""`time`, `level` and `event`, then the fields of the line, all of them as JSON knows them."""

_LARGEST = 1 << 63
"""Integers from here on are told as text: orjson does not take them, nor do most readers."""


def plain_line(event: Mapping[str, Any]) -> Line:
    """What a logger was given, `level` among it. Never fails.

    Of an exception only its kind is told: its words and its traceback may show what only a reader
    of the log is to see.
    """
    line: Line = {
        "time": iso_ms(time.time()),
        "level": event.get("level"),
        "event": _plain(event.get("event")),
    }
    for key, value in event.items():
        if key == "exc_info":
            if kind := _kind(value):
                line["exception"] = kind
        elif key not in line:
            line[key] = _plain(value)
    return line


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and -_LARGEST <= value < _LARGEST:
        return value
    if isinstance(value, Mapping):
        return {_text(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    return _text(value)


def _text(value: Any) -> str:
    try:
        text = str(value)
    except Exception:  # a value that cannot even be shown must not keep the line away
        text = object.__repr__(value)
    return text.encode("utf-8", "backslashreplace").decode()


def _kind(exc_info: Any) -> str:
    """The name of the exception that a line is logged with: one, a tuple as of sys.exc_info(), or
    True for the one that is being handled. Empty: there is none."""
    if exc_info is True:
        exc_info = sys.exc_info()
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    return type(exc_info).__name__ if isinstance(exc_info, BaseException) else ""
