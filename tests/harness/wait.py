"""Waiting for something to become true. No test sleeps; this is the one place that polls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_SHORTEST = 0.001
_LONGEST = 0.05


def wait_until(predicate: Callable[[], T], timeout: float, what: str) -> T:
    """The first true value of `predicate()`, asked again and again for `timeout` seconds.

    Raises AssertionError that says `what` did not come, and the last value.
    """
    deadline = time.monotonic() + timeout
    pause = _SHORTEST
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout:g} s: {what} (last: {value!r})")
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST)
