"""The tree behind a YAML text: every scalar is text, and everything knows its place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from spliceproxy.config.problems import Path, Place


@dataclass(slots=True, eq=False)
class Scalar:
    """One value. A key without a value has the empty text."""

    place: Place
    text: str
    unknown: bool = False
    """A variable in it could not be expanded, which is a problem already told."""
    size: int = 1
    depth: int = 0


@dataclass(slots=True, eq=False)
class Sequence:
    """A list."""

    place: Place
    items: list[Node] = field(default_factory=list)
    size: int = 1
    """Nodes in it, itself included, where an alias counts as much as what it stands for."""
    depth: int = 0
    """Levels below it."""


@dataclass(slots=True, eq=False)
class Entry:
    """A key's place and its value."""

    place: Place
    value: Node


@dataclass(slots=True, eq=False)
class Mapping:
    """Keys and their values, in file order."""

    place: Place
    entries: dict[str, Entry] = field(default_factory=dict)
    size: int = 1
    depth: int = 0

    def get(self, key: str) -> Node | None:
        """The value of `key`, or None."""
        entry = self.entries.get(key)
        return entry.value if entry else None


Node = Scalar | Sequence | Mapping


def items(path: Path, node: Node) -> Iterator[tuple[Path, Node]]:
    """The items of a list with their paths, or the one value that stands for a list."""
    if isinstance(node, Sequence):
        yield from (((*path, number), item) for number, item in enumerate(node.items))
    else:
        yield path, node


Raw = str | list["Raw"] | dict[str, "Raw"]
"""The same tree without places."""


def plain(node: Node) -> Raw:
    """The tree as lists, dicts and texts."""
    if isinstance(node, Scalar):
        return node.text
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    return {key: plain(entry.value) for key, entry in node.entries.items()}


@dataclass(frozen=True, slots=True)
class Found:
    """What `find` met: the value, the place of its key, and the part of the path that exists."""

    node: Node
    key: Place
    path: Path


def find(root: Node, path: Path) -> Found:
    """Follow `path` as far as the tree goes. One value that stands for a list is its item 0."""
    node, key = root, root.place
    taken: Path = ()
    for step in path:
        if isinstance(node, Mapping) and step in node.entries:
            entry = node.entries[str(step)]
            node, key = entry.value, entry.place
        elif isinstance(node, Sequence) and isinstance(step, int):
            node = node.items[step]
            key = node.place
        elif step == 0:
            continue
        else:
            break
        taken = (*taken, step)
    return Found(node, key, taken)
