"""Who may come in: the rules of all listeners as tables, made again when a file changes.

Tables of many networks take their time (100,000: about a second), so that they are made in a
thread, and only where a rule or a file's text is another one. A file that cannot be read or used
keeps the list that was good last, but for one that never was: to let everybody in would be wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import structlog

from spliceproxy.control.discovery.hosts import Signature, signature
from spliceproxy.control.discovery.watch import Watcher
from spliceproxy.control.parts import InForce
from spliceproxy.ipc import ALLOW, DENY
from spliceproxy.wire.networks import NetworkTable, make_table

if TYPE_CHECKING:
    from spliceproxy.config import AccessRule, Config, IpNetwork

_log = structlog.get_logger()

_GATHER = 0.05
"""Seconds without news before files are read again."""

Tables = Mapping[str, NetworkTable]
"""Name of a listener → its rules. One that keeps nobody out has none."""
NO_TABLES: Tables = MappingProxyType({})
"""Everybody may come in, everywhere."""
_Key = tuple[tuple["AccessRule", ...], tuple[str, ...]]
"""What a table is made of: the rules, and the texts of the files that they name."""


@dataclass(frozen=True, slots=True)
class _File:
    """A file of networks, as it was when it was good last."""

    seen: Signature
    """Its state when it was looked at last."""
    text: str
    """What it said when it was good last."""
    problems: tuple[str, ...] = ()
    """What is wrong with it since."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look at the files brought: those that are other ones, and the tables missing."""

    files: dict[str, _File]
    tables: dict[_Key, NetworkTable]


class AccessTables:
    """Has the tables of access rules. A `Part`; needs a running loop from `prepare` on."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}
        self._tables: dict[_Key, NetworkTable] = {}
        self._config: Config | None = None
        self._watched: tuple[Path, ...] = ()
        self._watcher: Watcher | None = None
        self._looking = asyncio.Lock()
        self.changed = asyncio.Event()
        """Set when a file has other networks; whoever follows clears it."""

    def load(self, config: Config) -> None:
        """Read the files that `config` names, and make its tables. Blocks.

        Raises ConfigError where a file is missing or wrong.
        """
        self._take(_look(config, self._files, self._tables))

    async def prepare(self, config: Config) -> None:
        """The same for a reload, in a thread; files that were good once raise nothing. To be
        followed by `apply`, of this configuration or of the one before."""
        async with self._looking:
            self._take(await asyncio.to_thread(_look, config, self._files, self._tables))

    def tables(self, config: Config) -> Tables:
        """The tables of a configuration that was prepared."""
        found = {}
        for listener in config.listeners.values():
            if any(rule.denies for rule in listener.access):
                key = _key(listener.access, self._files)
                if key not in self._tables:  # a file changed this very moment
                    self._tables[key] = _make(listener.access, self._files, {})
                found[listener.name] = self._tables[key]
        return found

    def apply(self, in_force: InForce) -> None:
        """Watch the files of this configuration, and forget all others."""
        from spliceproxy.config import network_files

        config = self._config = in_force.config
        paths = {path for path, _ in network_files(config)}
        self._files = {path: one for path, one in self._files.items() if path in paths}
        keys = {_key(listener.access, self._files) for listener in config.listeners.values()}
        self._tables = {key: table for key, table in self._tables.items() if key in keys}
        if paths and self._watcher is None:
            self._watcher = Watcher(lambda: self._watched, self._on_files, gather=_GATHER)
        # A path that the watcher did not know is news to it: so nothing is missed that changed
        # since the file was read.
        self._watched = tuple(map(Path, paths))
        if self._watcher is not None:
            self._watcher.stir()

    async def close(self) -> None:
        """Watch nothing any more."""
        if self._watcher is not None:
            await self._watcher.close()

    async def _on_files(self, _changed: Set[Path]) -> None:
        if self._config is not None:
            await self.prepare(self._config)

    def _take(self, look: _Look) -> None:
        for path, now in look.files.items():
            before = self._files.get(path)
            if before is None:
                continue
            if now.text != before.text:
                self.changed.set()
            if now.problems and now.problems != before.problems:
                _log.warning(
                    "a file of networks cannot be used: the last good list stays",
                    file=path,
                    problems=list(now.problems),
                )
            elif before.problems and not now.problems:
                _log.info("a file of networks can be used again", file=path)
        self._files |= look.files
        self._tables |= look.tables


def _look(config: Config, files: Mapping[str, _File], tables: Mapping[_Key, NetworkTable]) -> _Look:
    """Read what is not as it was in `files`, and make the tables that are not among `tables`.

    Raises ConfigError where a file that is not among `files` is missing or wrong.
    """
    fresh, networks = _read_files(config, files)
    after = {**files, **fresh}
    made: dict[_Key, NetworkTable] = {}
    for listener in config.listeners.values():
        if any(rule.denies for rule in listener.access):
            key = _key(listener.access, after)
            if key not in tables and key not in made:
                made[key] = _make(listener.access, after, networks)
    return _Look(fresh, made)


def _read_files(
    config: Config, files: Mapping[str, _File]
) -> tuple[dict[str, _File], dict[str, list[IpNetwork]]]:
    from spliceproxy.config import ConfigError, network_files, read_networks

    fresh: dict[str, _File] = {}
    networks: dict[str, list[IpNetwork]] = {}
    problems = []
    for path, where in dict(network_files(config)).items():
        known, now = files.get(path), signature(Path(path))
        if known is not None and known.seen == now:
            continue
        try:
            source, networks[path] = read_networks(Path(path))
        except ConfigError as error:
            if known is None:
                problems += [replace(one, path=where) for one in error.problems]
            else:
                fresh[path] = replace(known, seen=now, problems=tuple(str(error).splitlines()))
        else:
            fresh[path] = _File(now, source.text)
    if problems:
        raise ConfigError(problems)
    return fresh, networks


def _key(rules: tuple[AccessRule, ...], files: Mapping[str, _File]) -> _Key:
    return rules, tuple(files[path].text for path in _paths(rules))


def _paths(rules: tuple[AccessRule, ...]) -> Iterator[str]:
    from spliceproxy.config import NetworkFile

    for rule in rules:
        for source in rule.sources:
            if isinstance(source, NetworkFile):
                yield source.path


def _make(
    rules: tuple[AccessRule, ...],
    files: Mapping[str, _File],
    networks: Mapping[str, list[IpNetwork]],
) -> NetworkTable:
    """The table of `rules`; `networks` are those of the files that were read just now."""
    return make_table(_ordered(rules, files, networks))


def _ordered(
    rules: tuple[AccessRule, ...],
    files: Mapping[str, _File],
    networks: Mapping[str, list[IpNetwork]],
) -> Iterator[tuple[IpNetwork, int]]:
    """Every network of `rules` with its answer, in their order."""
    from spliceproxy.config import NetworkFile, Source, networks_in

    for rule in rules:
        answer = DENY if rule.denies else ALLOW
        for source in rule.sources:
            if not isinstance(source, NetworkFile):
                yield source, answer
                continue
            listed = networks.get(source.path)
            if listed is None:
                listed = networks_in(Source(source.path, files[source.path].text))
            for network in listed:
                yield network, answer
