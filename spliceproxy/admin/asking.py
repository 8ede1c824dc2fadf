"""What is asked and what is answered, apart from HTTP."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from spliceproxy.config.suggest import nearest
from spliceproxy.errors import SpliceproxyError

JSON = "application/json"
EVENTS = "text/event-stream"
_SHOWN = 64
"""Characters of a word that an error shows."""
_MANY = 20
"""More names than so many are not listed."""


class AskError(SpliceproxyError):
    """A request that makes no sense, with the HTTP status that says so."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, of somebody who may ask it."""

    name: str = ""
    """What stands in the path where it has a place for a name."""
    words: Mapping[str, list[str]] = field(default_factory=dict)
    """The parameters behind the path."""
    body: bytes = b""
    accept: str = ""
    """Which kinds of answer are liked."""
    may_write: bool = False

    def word(self, name: str, default: str = "") -> str:
        """The one value of a parameter. Raises AskError: there are several."""
        values = self.words.get(name, [default])
        if len(values) > 1:
            raise AskError(f"{name} stands there {len(values)} times; once is enough")
        return values[0]

    def number(self, name: str, default: int) -> int:
        """The same of a whole number. Raises AskError."""
        text = self.word(name, str(default))
        if not (text.isascii() and text.isdecimal() and len(text) < 10):
            raise AskError(f"{name} is a whole number")
        return int(text)

    def choice(self, name: str, *allowed: str) -> str:
        """The same of one of these words, of which the first is the default. Raises AskError."""
        word = self.word(name, allowed[0])
        if word not in allowed:
            raise AskError(f"{name} is one of {', '.join(allowed)}")
        return word

    def order(self, *keys: str, example: str) -> dict[str, Any]:
        """The JSON object of an order, with none but these keys. Raises AskError."""
        try:
            order = orjson.loads(self.body) if self.body else {}
        except orjson.JSONDecodeError:
            order = None
        if not isinstance(order, dict):
            raise AskError(f"the body is no order; send for example {example}")
        for key in order:
            if key not in keys:
                raise AskError(f"the body is no order: {unknown(key, keys)}")
        return order


@dataclass(frozen=True, slots=True)
class Answer:
    """What comes of a request."""

    body: bytes
    status: int = 200
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer without end: lines, until the iterator or the connection ends."""

    lines: AsyncGenerator[bytes, None]
    close: Callable[[], None]
    content_type: str = EVENTS


Handler = Callable[[Asked], Awaitable[Answer | Stream]]


def tell(value: object, status: int = 200) -> Answer:
    """A JSON value."""
    return Answer(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE), status)


def wrong(status: int, text: str) -> Answer:
    """What is wrong, in one sentence."""
    return tell({"error": text}, status)


def unknown(word: str, known: Collection[str]) -> str:
    """That there is no such word, and which one may be meant."""
    shown = word[:_SHOWN]
    if near := nearest(shown, known):
        return f"there is no {shown}; did you mean {near}?"
    if len(known) > _MANY:
        return f"there is no {shown}"
    return f"there is no {shown}" + (f"; there are {', '.join(known)}" if known else "")


def seconds(value: object, name: str, most: int) -> float:
    """A number of seconds in an order. Raises AskError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise AskError(f'{name} is no number of seconds; send for example {{"{name}": 60}}')
    if not 0 <= value <= most:
        raise AskError(f"{name} is from 0 to {most} seconds")
    return float(value)
