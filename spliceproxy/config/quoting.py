"""YAML's syntax errors in plain words, with the line as it should be written.

Most of them are values that YAML takes for something else: `*:8080` for an alias, `[::]:8080`
for a list. A proposal is shown only after the parser took it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import yaml
from yaml.error import Mark

from spliceproxy.config.problems import Place, Source

_MEANING = {
    "*": "begins an alias",
    "&": "begins an anchor",
    "!": "begins a tag",
    "[": "begins a list",
    "{": "begins a mapping",
    ":": "separates a key from its value",
    "%": "begins a directive",
    "@": "is reserved",
    "`": "is reserved",
    "|": "begins a block of text",
    ">": "begins a block of text",
}

# One part of a line: what is quoted already, a comment, or what needs quotes: an item with a
# ${variable}, [v6]:port, :port, or a word that begins with an indicator.
_PARTS = re.compile(
    r"""
    (?P<keep> "(?:\\.|[^"\\])*" | '(?:''|[^'])*' | (?:(?<=\s)|^)\#.* )
    | (?:(?<=[\s\[{,])|^)
      (?P<item>
        [^\s,\[\]{}'"\#]* \$\{[^{}]*\} (?:\$\{[^{}]*\}|[^\s,\[\]{}])*
        | \[(?=[^\]]*:[^\]]*:)[^\s,\[\]{}]*\](?::[\w$]+)?
        | :\d+
        | [*@%`] [^\s,\[\]{}]+ `?
      )
    """,
    re.VERBOSE,
)
_KEY_AND_VALUE = re.compile(
    r"(?P<head>\s*(?:-\s+)*[\w.-]+\s*:\s+|\s*(?:-\s+)+(?![\w.-]+\s*:\s))"
    r"(?P<value>[^\s'\"\[{#].*?)(?P<tail>\s+\#.*|\s*)$"
)
_NO_SPACE = re.compile(r"(?P<head>\s*(?:-\s+)*[\w.-]+):(?P<value>[^\s:]\S*)\s*$")
_NO_COLON = re.compile(r"\s*(?P<key>[A-Za-z_][\w.-]*)(?:\s+(?P<value>[^\s:]+))?\s*$")


class NotAKey(yaml.MarkedYAMLError):
    """YAML allows it as a key, this language does not; `problem` is what to tell."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """A syntax error: its place, what to tell, and the line that would parse, if one is known."""

    place: Place
    text: str
    fixed: str | None = None


_LONG = 500
"""Characters beyond which nobody wants to read a line again, nor to wait for its proposal."""


def explain(source: Source, error: yaml.MarkedYAMLError) -> Mistake:
    """What `error` means to someone who does not know YAML by heart."""
    mark = error.problem_mark or error.context_mark
    line = min(mark.line, len(source.lines) - 1) if mark else 0
    for fixed, at, reason in _proposals(source.lines[line]):
        if _helps(source, line, fixed):
            place = Place(source, line + 1, at + 1)
            return Mistake(place, f"{reason}; write: {fixed.strip()}", fixed)
    return _plain(source, error)


def explain_alias(place: Place, name: str) -> str:
    """What to tell of an alias `*name` that has no anchor."""
    line = place.source.lines[place.line - 1]
    fixed = _quote_items(line)[0].strip() if len(line) <= _LONG else _quote(f"*{name}")
    return f"in YAML * begins an alias, and nothing is called &{name}; write: {fixed}"


def with_line(source: Source, line: int, text: str) -> Source:
    """The same source with another text in line number `line` (from 1)."""
    lines = [*source.lines]
    lines[line - 1] = text
    return Source(source.name, "\n".join(lines), source.number)


def _proposals(line: str) -> list[tuple[str, int, str]]:
    """Lines that may parse, each with the index of what changed, and why."""
    if len(line) > _LONG:
        return []
    found = []
    fixed, first = _quote_items(line)
    if first is not None:
        char = "{" if "${" in first[0] else first[0][0]
        found.append((fixed, first.start("item"), f"in YAML {char} {_MEANING[char]}"))
    match = _KEY_AND_VALUE.match(line)
    if match:
        value = match["value"]
        quoted = match["head"] + _quote(value) + match["tail"]
        if value[0] in _MEANING and value[0] != ":":
            reason = f"in YAML {value[0]} {_MEANING[value[0]]}"
            found.append((quoted, match.start("value"), reason))
        elif ": " in value:
            at = match.start("value") + value.index(": ")
            found.append((quoted, at, "in YAML a colon and a space separate a key from its value"))
    return found


def _quote_items(line: str) -> tuple[str, re.Match[str] | None]:
    """The line with quotes around all that needs them, and the first such item."""
    first: re.Match[str] | None = None

    def part(match: re.Match[str]) -> str:
        nonlocal first
        if match["item"] is None:
            return match[0]
        first = first or match
        return _quote(match["item"])

    return _PARTS.sub(part, line), first


def _quote(value: str) -> str:
    if '"' in value or "\\" in value:
        return "'" + value.replace("'", "''") + "'"
    return f'"{value}"'


def _helps(source: Source, line: int, fixed: str) -> bool:
    """Whether the text up to and with the `fixed` line has no error before its end."""
    text = "\n".join([*source.lines[:line], fixed, ""])
    try:
        for _ in yaml.parse(text, yaml.SafeLoader):
            pass
    except yaml.MarkedYAMLError as error:
        return error.problem_mark is not None and error.problem_mark.line > line
    return True


def _plain(source: Source, error: yaml.MarkedYAMLError) -> Mistake:
    """A syntax error that quotes do not heal."""
    problem, context = error.problem or "", error.context or ""
    mark, begin = error.problem_mark or error.context_mark, error.context_mark
    if isinstance(error, NotAKey):
        return _at(source, mark, problem)
    if "'\\t'" in problem:
        return _at(source, mark, "a tab cannot stand here; YAML is indented with spaces only")
    if "end of stream" in problem and "quoted" in context:
        return _at(source, begin, "this quote is never closed; write another one at the end")
    if "parsing a flow" in context and begin is not None:
        return _unclosed(source, begin, mark, problem)
    if "could not find expected ':'" in problem and begin is not None:
        match = _NO_SPACE.match(source.lines[begin.line])
        right = f"write: {match['head'].strip()}: {match['value']}" if match else "write key: value"
        return _at(source, begin, f"this line is no key with a value; {right}")
    if "sequence entries are not allowed" in problem:
        text = "a list cannot begin here; put each - item on a line of its own, or write [a, b]"
        return _at(source, mark, text)
    if "mapping values are not allowed" in problem:
        if mark and mark.line and (line := _no_key(source, mark.line)):
            return line
        text = (
            "a key cannot stand here; line it up with its neighbours, and see that the key "
            "above it ends with a colon"
        )
        return _at(source, mark, text)
    if "start any token" in problem or context == "while scanning an alias":
        where = begin if "alias" in context else mark
        char = source.text[where.index] if where else ""
        return _at(source, where, f"in YAML {char} {_MEANING[char]}; put quotes around the word")
    if "unknown escape" in problem:
        return _at(source, mark, f"{problem}; write \\\\ for a backslash, or use single quotes")
    if "but found" in problem:
        found = problem.rpartition("found ")[2].strip("'")
        if found in ("<scalar>", ",", "}", "]", "{", "["):
            text = "this is too much here; check the quotes and brackets before it"
        else:
            text = "this does not line up with the lines above it; check the indentation"
        return _at(source, mark, text)
    return _at(source, mark, f"{problem or 'not YAML'}; check the quotes and the indentation")


def _no_key(source: Source, line: int) -> Mistake | None:
    """The line above, where that is what keeps line number `line` (from 1) from having a key."""
    above = source.lines[line - 1]
    column = len(above) - len(above.lstrip()) + 1
    if match := _NO_SPACE.match(above):
        right = f"write: {match['head'].strip()}: {match['value']}"
        text = f"a space is missing after the colon; {right}"
    elif match := _NO_COLON.match(above):
        right = f"{match['key']}: {match['value'] or ''}".strip()
        text = f"a colon is missing after the key; write: {right}"
    else:
        return None
    return Mistake(Place(source, line, column), text)


def _unclosed(source: Source, begin: Mark, mark: Mark | None, problem: str) -> Mistake:
    opened = source.text[begin.index : begin.index + 1]
    if opened not in ("{", "["):
        return _at(source, mark, "a value is missing here; write one, or quotes around it")
    closing = {"{": "}", "[": "]"}[opened]
    if "stream end" in problem or (mark is not None and mark.line > begin.line):
        return _at(source, begin, f"this {opened} is never closed; write {closing} at its end")
    return _at(source, mark, f"this cannot stand here; write , or {closing} before it, or quotes")


def _at(source: Source, mark: Mark | None, text: str) -> Mistake:
    """The mistake at `mark`; at the end of the text, after the last line that has something."""
    line, column = (mark.line, mark.column) if mark else (0, 0)
    while line >= len(source.lines) or (line and not source.lines[line].strip()):
        line -= 1
        column = len(source.lines[line].rstrip())
    return Mistake(Place(source, line + 1, column + 1), text)
