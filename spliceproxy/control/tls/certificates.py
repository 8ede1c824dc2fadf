"""The certificates of listeners and pools: read at the start, at each reload, and when their files
change.

A file that cannot be used is an error where it is new; where it was good once, what was good stays,
and the log says so. A chain and its key are often replaced one after the other, and what does not
fit together for a moment is no news: it is looked at again before anything is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Set
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from spliceproxy.control.discovery.watch import Watcher
from spliceproxy.control.parts import InForce
from spliceproxy.control.tls.expiry import Expiry, trouble
from spliceproxy.control.tls.files import Known, certificate_files, look
from spliceproxy.control.tls.pem import Certificate, shorten
from spliceproxy.control.tls.shown import (
    NO_TLS,
    Report,
    TlsPlans,
    certificates_of,
    choose,
    plan_tls,
    report,
)

if TYPE_CHECKING:
    from spliceproxy.config import Config, ListenerTls

_log = structlog.get_logger()

_GATHER = 0.05
"""Seconds without news before files are read again."""
_SETTLE = 1.0
"""Seconds after which what does not fit together is looked at again."""


class Certificates:
    """Has the certificates. A `Part`; needs a running loop from `prepare` on."""

    def __init__(self, *, gather: float = _GATHER, settle: float = _SETTLE) -> None:
        self._gather = gather
        self._settle = settle
        self._known = Known()
        self._config: Config | None = None
        self._watcher: Watcher | None = None
        self._looking = asyncio.Lock()
        self._expiry = Expiry(self._own)
        self._problems: set[tuple[str, str]] = set()
        """What is wrong, as the log knows it: file and text."""
        self._unused: set[tuple[str, str]] = set()
        """The certificates of listeners that nobody is shown, as the log knows them."""
        self.changed = asyncio.Event()
        """Set when there are other certificates; whoever follows clears it."""

    def load(self, config: Config) -> None:
        """Read the files that `config` names. Blocks.

        Raises ConfigError where one is missing or wrong.
        """
        if config.speaks_tls:
            self._known = look(config, self._known)
            self._tell(config)

    async def prepare(self, config: Config) -> None:
        """The same for a reload, in a thread; what was good once raises nothing. To be followed by
        `apply`, of this configuration or of the one before."""
        if config.speaks_tls:
            await self._look(config)
            self._tell(config)

    def plans(self, config: Config) -> TlsPlans:
        """What workers are told of a configuration that was prepared."""
        return plan_tls(config, self._known) if config.speaks_tls else NO_TLS

    def report(self, listener: str) -> list[Report]:
        """The certificates of a listener that is in force, for people."""
        tls = self._tls_of(listener)
        if tls is None:
            return []
        return report(certificates_of(tls, self._known), datetime.now(UTC))

    def broken(self, listener: str) -> list[Report]:
        """The files of a listener that is in force which cannot be used now, and why."""
        tls = self._tls_of(listener)
        if tls is None:
            return []
        watched = self._known.watched
        files = set().union(*(watched[key] for key in tls.files() if key in watched))
        return [
            {"file": file, "problem": text}
            for (file, text), problem in self._known.problems.items()
            # What several listeners name is told of the first one; pools come after them.
            if problem.path[0] == "listeners" and Path(file) in files
        ]

    def _tls_of(self, listener: str) -> ListenerTls | None:
        found = None if self._config is None else self._config.listeners.get(listener)
        return None if found is None else found.tls

    def apply(self, in_force: InForce) -> None:
        """Follow the files of this configuration, and forget all others."""
        config = self._config = in_force.config
        self._known.keep_only(config)
        if self._known.entries or self._known.authorities:
            if self._watcher is None:
                self._watcher = Watcher(self._watched, self._on_files, gather=self._gather)
            self._expiry.start()
        if self._watcher is not None:
            # A path that the watcher did not know is news to it: so nothing is missed that
            # changed since the file was read.
            self._watcher.stir()

    async def close(self) -> None:
        """Watch nothing any more."""
        self._expiry.close()
        if self._watcher is not None:
            await self._watcher.close()

    def _watched(self) -> set[Path]:
        return set().union(*self._known.watched.values())

    async def _on_files(self, _changed: Set[Path]) -> None:
        config = self._config
        if config is None:
            return
        await self._look(config)
        if not self._known.problems.keys() <= self._problems:
            await asyncio.sleep(self._settle)
            await self._look(config)
        self._tell(config)

    async def _look(self, config: Config) -> None:
        async with self._looking:
            before = self._known
            self._known = now = await asyncio.to_thread(look, config, before)
        if any(now.entries[files] != shown for files, shown in before.entries.items()) or any(
            now.authorities[path] != pem for path, pem in before.authorities.items()
        ):
            self.changed.set()

    def _tell(self, config: Config) -> None:
        """Say what is wrong and what is right again, each once."""
        before, now = self._problems, self._known.problems
        for key in now.keys() - before:
            _log.warning(
                "a file of certificates cannot be used: what was good last stays",
                file=key[0],
                problem=str(now[key]),
            )
        watched = self._watched()
        for file in {file for file, _ in before} - {file for file, _ in now}:
            if Path(file) in watched:  # else it is gone, and so is what it did
                _log.info("a file of certificates can be used again", file=file)
        self._problems = set(now)
        unused = dict(_unused(config, self._known))
        for key in unused.keys() - self._unused:
            _log.warning(unused[key], listener=key[0], file=key[1])
        self._unused = set(unused)
        self._expiry.tell()

    def _own(self) -> Iterator[tuple[str, Certificate]]:
        """The certificates that are shown to anybody, and their files."""
        for named in self._known.entries.values():
            yield from named.items()


def check_certificates(config: Config) -> list[str]:
    """Read the files that `config` names; returns what a person should know, in lines.

    Raises ConfigError with all that is wrong.
    """
    known, now = look(config, Known()), datetime.now(UTC)
    lines = [
        f"{file}: listeners.{name}.tls: {text}" for (name, file), text in _unused(config, known)
    ]
    for files, _ in certificate_files(config):
        for file, certificate in known.entries[files].items():
            if wrong := trouble(certificate.chain, now):
                lines.append(f"{file}: the certificate {wrong}")
    return list(dict.fromkeys(lines))


def _unused(config: Config, known: Known) -> Iterator[tuple[tuple[str, str], str]]:
    """Listener and file of each certificate that is not shown for one of its names, and why."""
    for name, listener in config.listeners.items():
        if listener.tls is None:
            continue
        for file, names in choose(certificates_of(listener.tls, known)).unused.items():
            if names:
                text = f"for {shorten(names)} another certificate is shown, which comes before it"
            else:
                text = "it is for no name, so that it could only be the first certificate"
            yield (name, file), text
