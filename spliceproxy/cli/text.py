"""How the commands write numbers, and words that go with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spliceproxy.telemetry.amounts import duration_text, size_text

UNKNOWN = "-"
"""In place of what is not known, or does not apply."""


def duration(seconds: float) -> str:
    """`4s`, `3m 4s`, `2h 3m`, `1d 2h`: the two largest units."""
    left = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        number, left = divmod(left, size)
        if number or parts or unit == "s":
            parts.append(f"{number}{unit}")
    return " ".join(parts[:2])


def age(seconds: float) -> str:
    """`0.4s`, `3.2s`, `5m07s`, `2h15m`: as narrow as a table wants it."""
    return f"{seconds:.1f}s" if seconds < 1 else duration_text(seconds * 1000)


def milliseconds(value: float | None) -> str:
    """A time of so many milliseconds, three figures of it."""
    return UNKNOWN if value is None else duration_text(value)


def microseconds(value: float | None) -> str:
    """A time of so many microseconds."""
    return (
        UNKNOWN
        if value is None
        else f"{value:.0f}µs"
        if value < 1000
        else milliseconds(value / 1000)
    )


def size(value: float) -> str:
    """Bytes in the largest unit that leaves a whole part; nothing at all is `0`."""
    return size_text(value) if value >= 1 else "0"


def rate(value: float) -> str:
    """How often a second, three figures of it: `0`, `0.04`, `4.5`, `120`, `45k`."""
    if value >= 10_000:
        return f"{value / 1000:.0f}k"
    if value >= 99.5:
        return f"{value:.0f}"
    digits = 1 if value >= 1 or not value else 2
    return f"{value:.{digits}f}".removesuffix(".0")


def share(value: float) -> str:
    """A part of 1 in percent: `4.5%`, `31%`."""
    percent = value * 100
    return f"{percent:.{0 if percent >= 9.95 else 1}f}".removesuffix(".0") + "%"


def plural(number: int, noun: str) -> str:
    """`1 session`, `2 sessions`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def of(number: int, most: int | None) -> str:
    """A number, and its limit where it has one."""
    return str(number) if most is None else f"{number} of {most}"


def silent(answer: Mapping[str, Any]) -> list[str]:
    """Who did not answer what was asked about sessions, or hear what was ordered."""
    workers = [f"worker {worker}" for worker in answer.get("silent_workers", ())]
    processes = answer.get("silent_processes", ())
    return [*workers, *(f"process {pid} of before an upgrade" for pid in processes)]
