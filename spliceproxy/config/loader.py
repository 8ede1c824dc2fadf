"""From a file, and the files that it includes, to the one frozen model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from spliceproxy.config import checks, files, inherit, nodes, patterns, syntax
from spliceproxy.config.explain import explain
from spliceproxy.config.model import Config
from spliceproxy.config.problems import ConfigError, Place, Problem, Source, describe

MAX_INCLUDED = 1000
"""Included files, at most."""

_SHARED = ("listeners", "pools")
"""Top-level keys that several files may have; the names below them are defined once."""


def load(path: Path, env: Mapping[str, str] = os.environ) -> Config:
    """Read, check and type the configuration at `path`, without network and without privilege.

    `env` gives the values of ${variables}. Raises ConfigError with all that is wrong.
    """
    return _Loader(path.parent, path, env).load(files.read(path))


def loads(text: str | bytes, name: str, env: Mapping[str, str] = os.environ) -> Config:
    """The same for a text in memory, which errors call `name`; it includes relative to the
    current directory."""
    data = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    return _Loader(Path(), None, env).load(files.decode(data, name))


def sources(path: Path, config: Config) -> list[Path]:
    """The files that `config`, which is that at `path`, is read from: this one, and those that
    match its `include` now. Each pattern is among them, for the files that may come."""
    loader = _Loader(path.parent, path, {})
    found = [path]
    for pattern in config.include:
        found.append(path.parent / pattern)
        with suppress(ValueError, OSError):
            found += loader.matches(pattern)
    return found


class _Loader:
    """Reads one configuration and gathers its problems."""

    def __init__(self, base: Path, main: Path | None, env: Mapping[str, str]) -> None:
        self._base = base
        self._main = main
        self._env = env
        self._problems: list[Problem] = []
        self._complete = True
        self._sources = 0

    def load(self, source: Source) -> Config:
        """The configuration in `source`. Raises ConfigError."""
        root = self._parse(source)
        if root is None:
            raise ConfigError(self._problems)
        for problem, path in self._included(root):
            self._include(root, problem, path)
        config = None
        try:
            config = Config.model_validate(nodes.plain(root))
        except ValidationError as error:
            self._problems += explain(root, error)
        self._problems += checks.check(root, complete=self._complete)
        if self._problems or config is None:
            raise ConfigError(_once(self._problems))
        return inherit.resolve(config, self._base.absolute())

    def _parse(self, source: Source, *, may_be_empty: bool = False) -> nodes.Mapping | None:
        """The mapping in a source; None, and a problem, where it has none."""
        before = len(self._problems)
        node = syntax.parse(source, self._env, self._problems)
        if isinstance(node, nodes.Mapping):
            return node
        if isinstance(node, nodes.Scalar) and not node.text:  # `---` and nothing else
            node = None
        if node is not None:
            text = f"is {describe(nodes.plain(node))}; write keys: listeners, pools and others"
            if not (isinstance(node, nodes.Scalar) and len(self._problems) > before):
                self._problems.append(Problem(node.place, (), f"the file {text}"))
        elif len(self._problems) == before:
            if may_be_empty:
                return nodes.Mapping(Place(source, 1, 1))
            text = "the file is empty; write listeners and pools"
            self._problems.append(Problem(source.name, (), text))
        return None

    def _included(self, root: nodes.Mapping) -> Iterator[tuple[Problem, Path]]:
        """The files that `include` names, each once, and the problem that each may become."""
        seen = {_identity(self._main)} if self._main else set()
        include = root.get("include")
        items = include.items if isinstance(include, nodes.Sequence) else [include]
        for number, node in enumerate(items):
            if not isinstance(node, nodes.Scalar) or node.unknown or not node.text:
                continue
            path = ("include", number) if isinstance(include, nodes.Sequence) else ("include",)
            try:
                matches = self.matches(node.text)
            except (ValueError, OSError) as error:
                text = f"{error}; write a pattern such as conf.d/*.yaml"
                self._problems.append(Problem(node.place, path, text))
                continue
            for match in matches:
                if _identity(match) in seen:
                    continue
                seen.add(_identity(match))
                yield Problem(node.place, path, f"{match} cannot be included: "), match
                if len(seen) > MAX_INCLUDED:
                    text = f"more than {MAX_INCLUDED} files; write a narrower pattern"
                    self._problems.append(Problem(node.place, path, text))
                    return

    def matches(self, pattern: str) -> list[Path]:
        """The file of that name, or those that match; relative to the main file."""
        if not patterns.has_wildcards(pattern):
            return [self._base / pattern]
        found = patterns.matching(self._base, pattern)
        return [match for match in found if not match.name.startswith(".")]

    def _include(self, root: nodes.Mapping, problem: Problem, path: Path) -> None:
        """Read one included file and add its keys to `root`."""
        self._sources += 1
        try:
            source = files.read(path, self._sources)
        except ConfigError as error:
            self._complete = False
            for wrong in error.problems:
                unread = isinstance(wrong.where, str)
                told = replace(problem, text=problem.text + wrong.text) if unread else wrong
                self._problems.append(told)
            return
        more = self._parse(source, may_be_empty=True)
        if more is None:
            self._complete = False
            return
        if nested := more.entries.pop("include", None):
            text = "only the main file includes others; write the pattern there"
            self._problems.append(Problem(nested.place, ("include",), text))
        for key, entry in more.entries.items():
            first = root.entries.get(key)
            if first is None:
                root.entries[key] = entry
            elif key in _SHARED and isinstance(first.value, nodes.Mapping):
                self._merge((key,), first.value, entry.value)
            else:
                self._twice((key,), first, entry)

    def _merge(self, path: tuple[str], names: nodes.Mapping, more: nodes.Node) -> None:
        """Add an included file's listeners or pools to those that are known."""
        if not isinstance(more, nodes.Mapping):
            text = "is not a mapping of names; write each one below its name"
            self._problems.append(Problem(more.place, path, text))
            return
        for name, entry in more.entries.items():
            if first := names.entries.get(name):
                self._twice((*path, name), first, entry)
            else:
                names.entries[name] = entry

    def _twice(self, path: tuple[str, ...], first: nodes.Entry, second: nodes.Entry) -> None:
        where = f"{first.place.source.name}:{first.place.line}"
        text = f"defined twice, first in {where}; remove one of them"
        self._problems.append(Problem(second.place, path, text))


def _identity(path: Path) -> Path:
    """The same for all names of one file."""
    try:
        return path.resolve()
    except (RuntimeError, ValueError, OSError):  # a loop of links, or no name at all: read() tells
        return path


def _once(problems: list[Problem]) -> list[Problem]:
    """One problem for each place: an alias is wrong wherever it is used, but written once."""
    found = {(problem.order, str(problem.where)): problem for problem in reversed(problems)}
    return list(found.values())
