"""Lists of upstreams in files of their own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from spliceproxy.config import checks, files, nodes, syntax
from spliceproxy.config.explain import explain
from spliceproxy.config.model import Config
from spliceproxy.config.pool import Upstream
from spliceproxy.config.problems import ConfigError, Place, Problem, Source

_HOME = ("pools", "list", "upstreams")
"""Where the list stands in the configuration that it is read as."""


def load_list(path: Path, env: Mapping[str, str] = os.environ) -> tuple[Upstream, ...]:
    """The upstreams that the file at `path` lists, as `upstreams` of a pool would; [] is none.

    Raises ConfigError with all that is wrong. An empty file is wrong: it may be one that is being
    written.
    """
    return read_list(files.read(path), env)


def read_list(source: Source, env: Mapping[str, str]) -> tuple[Upstream, ...]:
    """The same for the text of such a file."""
    problems: list[Problem] = []
    node = syntax.parse(source, env, problems)
    if node is None or (isinstance(node, nodes.Scalar) and not node.text):
        if not problems:
            text = "the file is empty; write a list of upstreams, or [] for none"
            problems.append(Problem(source.name, (), text))
        raise ConfigError(problems)
    root = _as_configuration(source, node)
    config = None
    try:
        config = Config.model_validate(nodes.plain(root))
    except ValidationError as error:
        problems += explain(root, error)
    problems += checks.check_list(_HOME, node)
    if problems or config is None:
        raise ConfigError(replace(one, path=one.path[len(_HOME) :]) for one in problems)
    return config.pools["list"].upstreams


def _as_configuration(source: Source, node: nodes.Node) -> nodes.Mapping:
    """A configuration of one pool, which has these upstreams."""
    for key in reversed(_HOME):
        place = Place(source, 1, 1)
        node = nodes.Mapping(place, {key: nodes.Entry(place, node)})
    assert isinstance(node, nodes.Mapping)
    return node
