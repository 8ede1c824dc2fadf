"""What is wrong with a configuration, and where: told so that it can be put right at once."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from spliceproxy.errors import EXIT_CONFIG, SpliceproxyError

LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""What YAML 1.1 takes for the end of a line, and the parser counts."""

MAX_SHOWN = 100
"""Problems printed at most; the rest is counted."""

_SECRET = "PRIVATE KEY-----"
"""Behind this stands what no message may show."""

_TOKENS = ("admin", "tokens")
"""Where somebody may have written a token in the place of its path."""

_MAX_LINE = 120
_MAX_VALUE = 60
_MAX_HEAD = 1000
"""Characters of a problem without its line: some tell what a file holds, which may be anything."""


@dataclass(frozen=True, eq=False)
class Source:
    """The text of one file. `number` is its turn in the order of reading."""

    name: str
    text: str
    number: int = 0
    lines: list[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lines", LINE_BREAK.split(self.text))


@dataclass(frozen=True, slots=True)
class Place:
    """A character of a source. Line and column count characters, from 1."""

    source: Source
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line}:{self.column}"


Path = tuple[str | int, ...]
"""The keys and list positions that lead to a value, from the top."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `text` reads "what is wrong; what would be right"."""

    where: Place | str
    """A place, or the name of a file that could not be read at all."""
    path: Path
    text: str

    @property
    def order(self) -> tuple[int, int, int]:
        """Sorts problems as their files were read, from top to bottom."""
        if isinstance(self.where, str):
            return (1 << 30, 0, 0)
        return (self.where.source.number, self.where.line, self.where.column)

    def __str__(self) -> str:
        key = dotted(self.path)
        head = f"{self.where}: {key}: {self.text}" if key else f"{self.where}: {self.text}"
        if len(head) > _MAX_HEAD:  # what is wrong comes first, what would be right last
            head = f"{head[: _MAX_HEAD // 2]}…{head[-_MAX_HEAD // 2 :]}"
        head = _printable(head.replace("\t", " "))
        if isinstance(self.where, str):
            return head
        if self.path[:2] == _TOKENS:
            return f"{head}\n(no line is shown: a token may stand in it)"
        return f"{head}\n{_excerpt(self.where)}"


class ConfigError(SpliceproxyError):
    """A configuration that cannot be used; `str()` shows all its problems in file order."""

    exit_code = EXIT_CONFIG

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(problems, key=lambda problem: problem.order)
        shown = [str(problem) for problem in self.problems[:MAX_SHOWN]]
        if len(self.problems) > MAX_SHOWN:
            shown.append(f"and {len(self.problems) - MAX_SHOWN} more problems")
        super().__init__("\n".join(shown))


def without_values(lines: Sequence[str]) -> list[str]:
    """The lines of an error that is told where the configuration is told with its secrets masked:
    without those of the files, and without what messages show of a value that may be secret.
    """
    kept, skip = [], 0
    for number, line in enumerate(lines):
        if skip:
            skip -= 1
            continue
        if head := _HEAD.match(line):
            line = head["place"] + _masked(head["key"], head["text"])
            hidden = number + 1 < len(lines) and lines[number + 1].startswith(_NO_LINE)
            skip = 1 if hidden else 2  # the file's line, and the caret below it
        kept.append(line)
    return kept


def _masked(key: str | None, text: str) -> str:
    if key is None or "health" in key.split("."):
        # Without a key it is a matter of YAML's syntax, told by parts of the line.
        told = "cannot be used; spliceproxy check says why"
    elif text.startswith("missing"):
        told = text  # there is no value
    else:
        told = _QUOTED.sub('"***"', text)
    return f"{key}: {told}" if key else told


_HEAD = re.compile(r"(?P<place>.+?:\d+:\d+: )(?:(?P<key>[\w.\[\]-]+): )?(?P<text>.*)")
"""The first line of a problem that has a place."""
_QUOTED = re.compile('".*"')
_NO_LINE = "(no line is shown"


def dotted(path: Path) -> str:
    """The path as messages show it: `pools.app.upstreams[0].weight`; list positions from 0."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += ("." if text else "") + _printable(_shorten(step))
    return text


def show(text: str) -> str:
    """A value as messages show it: in quotes, printable and never long."""
    return f'"{_printable(_shorten(text))}"'


def describe(raw: object) -> str:
    """What a value is, for the sentence "is …"."""
    if isinstance(raw, dict):
        return "a mapping"
    if isinstance(raw, list):
        return "a list"
    return show(str(raw)) if raw else "empty"


def _shorten(text: str) -> str:
    before, secret, _ = text.partition(_SECRET)
    if secret:
        return f"{before[:_MAX_VALUE]}{secret}…"
    return text if len(text) <= _MAX_VALUE else text[: _MAX_VALUE - 1] + "…"


def _printable(text: str) -> str:
    """A terminal obeys control characters, so none of a file's reaches it."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _excerpt(place: Place) -> str:
    """The line of `place`, and under it a caret at the place."""
    if _SECRET in place.source.text:  # any line may be one of the key's
        return "(no line is shown: this file holds a private key, which belongs in one of its own)"
    line = place.source.lines[place.line - 1]
    at = min(place.column - 1, len(line))
    cut_left = max(0, min(at - _MAX_LINE // 2, len(line) - _MAX_LINE))
    before = line[cut_left:at]
    after = line[at : cut_left + _MAX_LINE]
    if cut_left:
        before = "…" + before
    if cut_left + _MAX_LINE < len(line):
        after += "…"
    tab = "    "
    before = _printable(before.replace("\t", tab))
    after = _printable(after.replace("\t", tab))
    return f"{before}{after}\n{' ' * _columns(before)}^"


def _columns(text: str) -> int:
    """Cells that a terminal gives to `text`."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )
