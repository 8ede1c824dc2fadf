"""Times, sizes, shares and numbers as people write them.

Each function takes the text of one value and raises ValueError("what is wrong; what would be
right") where it is none.
"""

from __future__ import annotations

import re
import warnings

from spliceproxy.config.problems import show

TIME = "write a number and a unit: 500ms, 5s, 10m, 1h, 2d"
SIZE = "write a number and a unit: 512B, 64KiB, 1MiB, 1GiB"
RATE = "write bytes per second: 64KiB/s, 10MiB/s"
RATE_RANGE = "write a rate from 1KiB/s to 1024GiB/s"
SHARE = "write a percentage such as 50%, or a number from 0 to 1"
FLAG = "write true or false"
ON_OFF = "write on or off"

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_DECIMAL = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)([A-Za-z]*)", re.ASCII)
_INTEGER = re.compile(r"0|[1-9]\d{0,17}", re.ASCII)
_ESCAPES = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}
_LONGEST = 3650 * 86400.0


def time(text: str) -> float:
    """Seconds: `500ms`, `1.5s`, `10m`, `1h`, `2d`; 0 or from 1 ms to ten years."""
    match = _DECIMAL.fullmatch(text)
    if match is None or match[2] not in ("", *_SECONDS):
        raise ValueError(f"{show(text)} is not a time; {TIME}")
    number, unit = match.groups()
    if not unit:
        raise ValueError(
            f"{show(text)} has no unit; write {number}s for seconds; units are ms, s, m, h, d"
        )
    seconds = float(number) * _SECONDS[unit]
    if seconds > _LONGEST:
        raise ValueError(f"{show(text)} is longer than ten years; write at most 3650d")
    if 0 < seconds < 0.001:
        raise ValueError(f"{show(text)} is too short; write at least 1ms")
    return seconds


def positive_time(text: str) -> float:
    """Seconds, more than none."""
    seconds = time(text)
    if not seconds:
        raise ValueError(f"{show(text)} leaves no time at all; write off for no limit")
    return seconds


def some_time(text: str) -> float:
    """Seconds, more than none, where `off` has no meaning."""
    seconds = time(text)
    if not seconds:
        raise ValueError(f"{show(text)} is no time at all; write at least 1ms")
    return seconds


def whole_seconds(text: str) -> float:
    """Seconds as the kernel's keepalive counts them: a whole number from 1 to 32767, tcp(7)."""
    seconds = time(text)
    if not (seconds.is_integer() and 1 <= seconds <= 32767):
        raise ValueError(
            f"{show(text)} is not a whole number of seconds from 1s to 32767s; "
            "the kernel counts nothing else here"
        )
    return seconds


def size(text: str, least: int, most: int) -> int:
    """Bytes: `512B`, `64KiB`, `1MiB`, `1GiB`, from `least` to `most`."""
    match = _DECIMAL.fullmatch(text)
    number, unit = match.groups() if match else ("", "")
    if unit not in ("", *_BYTES):
        prefix = unit[0].upper()
        if prefix in "KMG" and unit[1:].lower() in ("", "b", "ib"):
            raise ValueError(
                f"{show(text)} is not a size; sizes count in steps of 1024: "
                f"write {number}{prefix}iB"
            )
    if not number or unit not in ("", *_BYTES):
        raise ValueError(f"{show(text)} is not a size; {SIZE}")
    if not unit:
        raise ValueError(f"{show(text)} has no unit; write {number}B for bytes, or KiB, MiB, GiB")
    value = float(number) * _BYTES[unit]
    if not value.is_integer():
        raise ValueError(f"{show(text)} is not a whole number of bytes; {SIZE}")
    if not least <= value <= most:
        right = f"write a size from {size_text(least)} to {size_text(most)}"
        raise ValueError(f"{show(text)} is out of range; {right}")
    return int(value)


def rate(text: str) -> int:
    """Bytes per second: `64KiB/s`, `10MiB/s`, from 1 KiB/s to 1 TiB/s."""
    number = text.removesuffix("/s")
    try:
        value = size(number, 1024, 1024**4)
    except ValueError as error:
        if "out of range" in str(error):
            raise ValueError(f"{show(text)} is out of range; {RATE_RANGE}") from None
        raise ValueError(f"{show(text)} is not a rate; {RATE}") from None
    if number == text:
        raise ValueError(f"{show(text)} is a size and not a rate; write {text}/s")
    return value


def size_text(value: int) -> str:
    """Bytes in the largest unit that holds them in a whole number: 65536 is `64KiB`."""
    for unit, factor in reversed(_BYTES.items()):
        if value and value % factor == 0:
            return f"{value // factor}{unit}"
    return f"{value}B"


def time_text(seconds: float) -> str:
    """A time in the largest unit that holds it in a whole number: 300.0 is `5m`."""
    milliseconds = round(seconds * 1000)
    for unit, factor in reversed(_SECONDS.items()):
        step = round(factor * 1000)
        if milliseconds and milliseconds % step == 0:
            return f"{milliseconds // step}{unit}"
    return "0s"


def share(text: str) -> float:
    """A share from 0 to 1: `50%` or `0.5`."""
    match = _DECIMAL.fullmatch(text.removesuffix("%"))
    if match is None or match[2]:
        raise ValueError(f"{show(text)} is not a share; {SHARE}")
    value = float(match[1]) / (100 if text.endswith("%") else 1)
    if value > 1:
        raise ValueError(f"{show(text)} is more than the whole; {SHARE}")
    return value


def positive_share(text: str) -> float:
    """A share, more than nothing."""
    value = share(text)
    if not value:
        raise ValueError(f"{show(text)} is no share at all; write off")
    return value


def flag(text: str) -> bool:
    """`true` or `false`."""
    if text in ("true", "false"):
        return text == "true"
    meant = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(text.lower())
    if meant is None and text.lower() in ("true", "false"):
        meant = text.lower()
    raise ValueError(
        f"{show(text)} is neither true nor false; " + (f"write {meant}" if meant else FLAG)
    )


def on_off(text: str) -> bool:
    """`on` or `off`."""
    if text in ("on", "off"):
        return text == "on"
    meant = {"true": "on", "yes": "on", "false": "off", "no": "off"}.get(text.lower())
    raise ValueError(
        f"{show(text)} is neither on nor off; " + (f"write {meant}" if meant else ON_OFF)
    )


def integer(text: str, least: int, most: int) -> int:
    """A whole number from `least` to `most`, in decimal digits."""
    right = f"write a whole number from {least} to {most}"
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"{show(text)} is not a number here; {right}")
    if not least <= int(text) <= most:
        raise ValueError(f"{show(text)} is out of range; {right}")
    return int(text)


def mark(text: str) -> int:
    """A firewall mark: 32 bits, `7` or `0x1f`."""
    if re.fullmatch(r"0x[0-9A-Fa-f]{1,8}", text):
        return int(text, 16)
    if _INTEGER.fullmatch(text) and int(text) < 2**32:
        return int(text)
    raise ValueError(f"{show(text)} is not a mark; write a 32-bit number such as 7 or 0x1f")


def binary(text: str) -> bytes:
    """Bytes: text (UTF-8) in which \\r, \\n, \\t, \\0, \\xNN and \\\\ are what they are in C, or
    `hex:` and hexadecimal digits."""
    if text.startswith("hex:"):
        try:
            return bytes.fromhex(text.removeprefix("hex:"))
        except ValueError:
            right = "write two digits for each byte: hex:50494e47"
            raise ValueError(f"{show(text)} is not hexadecimal; {right}") from None
    parts = re.split(rb"\\(x[0-9A-Fa-f]{2}|.|$)", text.encode(errors="surrogateescape"), flags=re.S)
    for n in range(1, len(parts), 2):
        code = parts[n]
        if code[:1] == b"x" and len(code) == 3:
            parts[n] = bytes.fromhex(code[1:].decode())
        elif code in _ESCAPES:
            parts[n] = _ESCAPES[code]
        else:
            wrong = show("\\" + code.decode(errors="replace"))
            right = "write \\\\ for a backslash; known are \\r \\n \\t \\0 \\xNN"
            raise ValueError(f"{wrong} is no escape; {right}")
    return b"".join(parts)


def regular_expression(text: str) -> re.Pattern[bytes]:
    """What `expect` looks for in a body.

    Compiling also warns (of `[[`, which may mean more one day), runs out of stack where groups nest
    thousands deep, and out of numbers where a repetition is too large.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            return re.compile(text.encode(errors="surrogateescape"))
    except (re.error, RecursionError, OverflowError) as error:
        wrong = "too deep" if isinstance(error, RecursionError) else error
        right = "a backslash makes . * ? ( [ plain"
        raise ValueError(f"{show(text)} is no regular expression: {wrong}; {right}") from None
