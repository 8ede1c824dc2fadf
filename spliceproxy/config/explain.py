"""What pydantic found becomes problems with a place, in this language's words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from spliceproxy.config import schema
from spliceproxy.config.nodes import Found, Mapping, Node, Scalar, Sequence, find
from spliceproxy.config.problems import Path, Problem, show
from spliceproxy.config.suggest import nearest

_MANY = 1000
"""Problems that are worth the search for the nearest known word."""


def explain(root: Node, error: ValidationError) -> Iterator[Problem]:
    """The problems behind `error`, each at the key or value of `root` that is wrong."""
    details = error.errors(include_url=False, include_input=False)
    for detail in details[:_MANY]:
        path = tuple(step for step in detail["loc"] if step != "[key]")
        found = find(root, path)
        if isinstance(found.node, Scalar) and found.node.unknown:
            continue  # the variable in it is the problem, and that is told already
        yield _problem(detail, path, found)


def _problem(detail: Any, path: Path, found: Found) -> Problem:
    kind = detail["type"]
    if kind == "extra_forbidden":
        return Problem(found.key, found.path, _unknown_key(path, found.node))
    if kind == "missing":
        return Problem(found.key, (*found.path, path[-1]), _missing(path))
    if kind in ("model_type", "dict_type", "mapping_type"):
        return Problem(found.node.place, found.path, _no_mapping(path, found.node))
    text = str(detail["ctx"]["error"]) if kind == "value_error" else detail["msg"]
    at_key = detail["loc"][-1] == "[key]"
    return Problem(found.key if at_key else found.node.place, found.path, text)


def _unknown_key(path: Path, value: Node) -> str:
    *above, key = path
    known = schema.keys_at(tuple(above))
    word = str(key)
    name, colon, rest = word.partition(":")
    if colon and name in known and isinstance(value, Scalar) and not value.text:
        return f"a space is missing after the colon; write {name}: {rest}"
    if near := nearest(word, known):
        return f"unknown key; did you mean {near}?"
    if places := schema.homes(word):
        return f"unknown key here; it belongs to {_or(places)}"
    return f"unknown key; known here: {', '.join(known)}"


def _missing(path: Path) -> str:
    wanted = schema.section_at(path[:-1])["properties"][path[-1]]
    return f"missing; write for example {path[-1]}: {wanted['examples'][0]}"


def _no_mapping(path: Path, node: Node) -> str:
    known = schema.keys_at(path)
    right = f"write keys below it: {', '.join(known)}" if known else "write names below it"
    if not known and len(path) == 1:
        example = schema.section_at(())["properties"][path[0]]["examples"][0]
        right = f"write for example {path[0]}: {example}"
    if isinstance(path[-1], int) and "address" in known:
        right = f"write one address, or a mapping: {', '.join(known)}"
    if isinstance(node, Sequence):
        return f"is a list where a mapping belongs; {right}"
    if isinstance(node, Mapping):
        return f"is not what belongs here; {right}"
    if node.text:
        return f"{show(node.text)} is one value where a mapping belongs; {right}"
    return f"has nothing below it; {'remove it, or ' if known else ''}{right}"


def _or(words: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
