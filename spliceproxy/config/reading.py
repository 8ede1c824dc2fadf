"""How the text of one value is read, and how editors and the reference show what belongs there.

`x-unit` in the JSON schema is what the reference prints in its column "unit".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from pydantic import PlainValidator, WithJsonSchema

from spliceproxy.config import units
from spliceproxy.config.problems import describe, show
from spliceproxy.config.suggest import nearest

T = TypeVar("T")


def read(parse: Callable[[str], T], right: str) -> PlainValidator:
    """One value, read by `parse`, which tells what is wrong by ValueError."""

    def read_one(raw: object) -> T:
        if not isinstance(raw, str):
            raise ValueError(f"is {describe(raw)} where one value belongs; {right}")
        if not raw:
            raise ValueError(f"has no value; {right}")
        return parse(raw)

    return PlainValidator(read_one)


def or_word(word: str, parse: Callable[[str], T]) -> Callable[[str], T | None]:
    """`word` is None; where what stands there is no number either, `word` is told too."""

    def read_one(text: str) -> T | None:
        if text == word:
            return None
        try:
            return parse(text)
        except ValueError as error:
            known = "" if text[:1].isdigit() else f", or {word}"
            raise ValueError(f"{error}{known}") from None

    return read_one


def choice(*words: str) -> PlainValidator:
    """One of `words`; what is near to one of them is told so."""
    right = "write " + (" or ".join(words) if len(words) < 3 else f"one of {', '.join(words)}")

    def parse(text: str) -> str:
        if text in words:
            return text
        near = nearest(text, words)
        what = f"did you mean {near}?" if near else right
        raise ValueError(f"{show(text)} is not known here; {what}")

    return read(parse, right)


def or_absent(value: PlainValidator) -> PlainValidator:
    """The same for a key that has no default: None stands for that alone, as what is written is
    text."""
    read_one: Callable[[object], Any] = value.func  # type: ignore[assignment]
    return PlainValidator(lambda raw: None if raw is None else read_one(raw))


def schema(unit: str, *words: str) -> WithJsonSchema:
    """Any scalar: YAML types an unquoted 4 or true, and an editor must accept both.

    `words` are proposed. An editor that reads YAML 1.1 takes `off` for false.
    """
    scalar: dict[str, Any] = {"type": ["string", "number", "boolean"], "x-unit": unit}
    if words:
        scalar["anyOf"] = [{"enum": list(words)}, {}]
    return WithJsonSchema(scalar)


def closed(*words: str) -> WithJsonSchema:
    """One of `words`, or what a variable holds."""
    values: list[object] = [*words, False] if "off" in words else [*words]
    variable = {"type": "string", "pattern": r"\$\{"}
    return WithJsonSchema({"anyOf": [{"enum": values}, variable], "x-unit": " / ".join(words)})


def off_is_none(word: str) -> str | None:
    """A word of a `choice`, after it was read."""
    return None if word == "off" else word


def number(least: int, most: int) -> Callable[[str], int]:
    """For `read`: a whole number within these bounds."""
    return partial(units.integer, least=least, most=most)


def number_right(least: int, most: int) -> str:
    """What would be right where `number` finds none."""
    return f"write a whole number from {least} to {most}"
