"""YAML text becomes a tree of nodes, in bounded time and memory.

PyYAML's parser gives the events; its composer and constructor are not used, because they would
type scalars (YAML 1.1: `off` is false, `22:22` is 1342), let a later key replace an earlier one
in silence, expand aliases without bound and recurse as deep as the text says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

import yaml
from yaml.error import Mark
from yaml.events import (
    AliasEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from spliceproxy.config import nodes, quoting, variables
from spliceproxy.config.nodes import Node
from spliceproxy.config.problems import Path, Place, Problem, Source, show

MAX_NODES = 100_000
"""Keys' values and list items of one file, an alias counted as all that it stands for."""
MAX_DEPTH = 32
"""Levels of mappings and lists. The language has 6."""

_CORE_TAG = "tag:yaml.org,2002:"
_SMALL = 100_000
"""Characters up to which a text is parsed again and again to find one more mistake; larger ones are
read by libyaml, where it is there, which is some ten times faster."""
_HALF = re.compile("[\ud800-\udfff]")
_READ_OTHERWISE = re.compile("[\t\x85\u2028\u2029\ufeff?!]")
"""Characters about which libyaml and PyYAML's own parser have different opinions."""


_Loader = type[yaml.SafeLoader] | type[yaml.CSafeLoader]
_FAST: _Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _FatalError(Exception):
    """The rest of the file cannot be read."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem


def parse(source: Source, env: Mapping[str, str], problems: list[Problem]) -> Node | None:
    """The tree behind `source`, its ${variables} expanded; None where there is none.

    What is wrong is added to `problems`. Where quotes were forgotten, the line is read as if
    they were there, so that the other mistakes of the file are found too.
    """
    if len(source.text) >= _SMALL and not _READ_OTHERWISE.search(source.text):
        found: list[Problem] = []
        try:
            node = _Composer(source, env, found, _FAST).compose()
        except (_FatalError, yaml.YAMLError):
            pass  # the messages below are for the other parser's errors
        else:
            problems += found
            return node
    text, quoted = source, set[int]()
    for _ in range(8 if len(source.text) < _SMALL else 1):
        found = []
        try:
            node = _Composer(text, env, found, yaml.SafeLoader).compose()
        except _FatalError as fatal:
            problems += [*found, fatal.problem]
            break
        except yaml.MarkedYAMLError as error:
            mistake = quoting.explain(text, error)
            line = mistake.place.line
            problems.append(Problem(_moved(mistake.place, source), (), mistake.text))
            if mistake.fixed is None or line in quoted:
                problems += found
                break
            quoted.add(line)
            text = quoting.with_line(text, line, mistake.fixed)
        else:
            problems += found
            return node
    return None


def _moved(place: Place, source: Source) -> Place:
    """The same place in the text as it was written."""
    return Place(source, place.line, min(place.column, len(source.lines[place.line - 1]) + 1))


class _Composer:
    """Builds the tree of one document."""

    def __init__(
        self, source: Source, env: Mapping[str, str], problems: list[Problem], loader: _Loader
    ) -> None:
        self._source = source
        self._env = env
        self._problems = problems
        self._events = iter(yaml.parse(source.text, loader))
        self._anchors: dict[str, Node | None] = {}
        self._path: Path = ()

    def compose(self) -> Node | None:
        """The one document. Raises _FatalError, or yaml.MarkedYAMLError from the parser."""
        next(self._events)  # the stream's start
        if isinstance(next(self._events), StreamEndEvent):
            return None
        node = self._node(next(self._events), 0)
        next(self._events)  # the document's end
        event = next(self._events)
        if isinstance(event, DocumentStartEvent):
            text = "a second document begins; one file holds one configuration: remove this line"
            raise self._fatal(event, text)
        return node

    def _place(self, event: Event) -> Place:
        mark = cast(Mark, event.start_mark)  # the parser gives one to every event
        return Place(self._source, mark.line + 1, mark.column + 1)

    def _fatal(self, event: Event, text: str) -> _FatalError:
        return _FatalError(Problem(self._place(event), self._path, text))

    def _problem(self, place: Place, text: str) -> None:
        self._problems.append(Problem(place, self._path, text))

    def _node(self, event: Event, depth: int) -> Node:
        if isinstance(event, AliasEvent):
            return self._alias(event)
        assert isinstance(event, (ScalarEvent, CollectionStartEvent)), event  # the parser's word
        if event.tag not in (None, "!"):
            text = f"{show(event.tag.replace(_CORE_TAG, '!!'))} is a tag, and there are none here"
            self._problem(self._place(event), f"{text}; remove it, or quote the value")
        if event.anchor:
            self._anchors[event.anchor] = None  # until complete: an alias inside is a circle
        node: Node
        if isinstance(event, ScalarEvent):
            node = self._scalar(event)
        elif depth >= MAX_DEPTH:
            raise self._fatal(
                event,
                f"nested more than {MAX_DEPTH} levels deep; no configuration needs that",
            )
        elif isinstance(event, SequenceStartEvent):
            node = self._sequence(event, depth)
        else:
            node = self._mapping(event, depth)
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, event: AliasEvent) -> Node:
        name = event.anchor or ""
        if name not in self._anchors:
            place = self._place(event)
            self._problem(place, quoting.explain_alias(place, name))
            return nodes.Scalar(place, f"*{name}")
        node = self._anchors[name]
        if node is None:
            raise self._fatal(event, f"*{name} contains itself; remove it")
        return node

    def _scalar(self, event: ScalarEvent) -> nodes.Scalar:
        place = self._place(event)
        if self._has_half(event, place):
            return nodes.Scalar(place, event.value, unknown=True)
        try:
            return nodes.Scalar(place, variables.expand(event.value, self._env))
        except variables.VariableError as error:
            line = self._source.lines[place.line - 1]
            at = line.find(error.fragment, place.column - 1)
            wrong = place if at < 0 else Place(self._source, place.line, at + 1)
            self._problem(wrong, str(error))
            return nodes.Scalar(place, event.value, unknown=True)

    def _has_half(self, event: ScalarEvent, place: Place) -> bool:
        """Whether an escape such as \\ud83d names half of a character, which no encoding has."""
        half = _HALF.search(event.value)
        if half is not None:
            wrong = f"\\u{ord(half[0]):04x} is half of a character"
            self._problem(place, f"{wrong}; write the character itself, or \\U and eight digits")
        return half is not None

    def _sequence(self, start: SequenceStartEvent, depth: int) -> nodes.Sequence:
        node = nodes.Sequence(self._place(start))
        path = self._path
        while not isinstance(event := next(self._events), SequenceEndEvent):
            self._path = (*path, len(node.items))
            item = self._node(event, depth + 1)
            node.items.append(item)
            self._grow(node, item, start)
        self._path = path
        return node

    def _mapping(self, start: CollectionStartEvent, depth: int) -> nodes.Mapping:
        node = nodes.Mapping(self._place(start))
        path = self._path
        while not isinstance(event := next(self._events), MappingEndEvent):
            place = self._place(event)
            key = self._key(event)
            self._path = (*path, key)
            value = self._node(next(self._events), depth + 1)
            self._grow(node, value, start)
            if isinstance(event, ScalarEvent) and self._has_half(event, place):
                continue
            if key == "<<":
                self._problem(place, "merge keys are not part of this language; write the keys out")
            elif first := node.entries.get(key):
                self._problem(
                    place, f"defined twice, first in line {first.place.line}; remove one of them"
                )
            else:
                node.entries[key] = nodes.Entry(place, value)
        self._path = path
        return node

    def _key(self, event: Event) -> str:
        if isinstance(event, ScalarEvent):
            return str(event.value)
        if isinstance(event, MappingStartEvent) and event.flow_style:
            text = "a mapping as a key; quote a value that begins with { or ${"
        else:
            text = "a key is one word; quote a value that begins with [, { or *"
        raise quoting.NotAKey(problem=text, problem_mark=cast(Mark, event.start_mark))

    def _grow(self, node: nodes.Sequence | nodes.Mapping, child: Node, start: Event) -> None:
        node.size += child.size
        node.depth = max(node.depth, child.depth + 1)
        if node.size > MAX_NODES:
            raise self._fatal(
                start,
                f"aliases and items add up to more than {MAX_NODES} values; write fewer",
            )
        if node.depth > MAX_DEPTH:
            raise self._fatal(start, f"aliases nest more than {MAX_DEPTH} levels deep")
