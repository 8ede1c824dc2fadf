"""What a YAML parser made of a text: all nodes with their places, to be compared.

Not the place of a value that is not there: to libyaml it is where the next thing begins, to PyYAML
where the last one ended.
"""

from __future__ import annotations

from collections.abc import Mapping

from spliceproxy.config import nodes, syntax
from spliceproxy.config.problems import Problem, Source

Tree = tuple[list[object], list[str]]
"""The nodes in order, and the problems that were found on the way."""


def tree(text: str, loader: syntax._Loader, env: Mapping[str, str]) -> Tree:
    """Raises what the parser raises."""
    problems: list[Problem] = []
    composed = syntax._Composer(Source("app.yaml", text), env, problems, loader).compose()
    found: list[object] = []

    def walk(node: nodes.Node) -> None:
        found.append((type(node), node.size, node.depth))
        if isinstance(node, nodes.Scalar):
            if node.text:
                found.append((node.text, node.place.line, node.place.column))
            return
        found.append((node.place.line, node.place.column))
        if isinstance(node, nodes.Mapping):
            for key, entry in node.entries.items():
                found.append((key, entry.place.line, entry.place.column))
                walk(entry.value)
        else:
            for item in node.items:
                walk(item)

    if composed is not None:
        walk(composed)
    return found, [str(problem) for problem in problems]
