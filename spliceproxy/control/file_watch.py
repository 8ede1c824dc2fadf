"""`run --watch`: a reload whenever a file of the configuration is another one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Set
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from spliceproxy.control.discovery.watch import Watcher
from spliceproxy.control.parts import InForce

if TYPE_CHECKING:
    from spliceproxy.config import Config

_log = structlog.get_logger()

_GATHER = 0.1
"""Seconds without news before a reload: an editor writes more than one file, and more than once."""

Sources = Callable[["Config"], Collection[Path]]
"""The files that a configuration was read from, and the patterns of those that it would include."""


class FileWatch:
    """Watches the files of the configuration in force. A `Part`; needs a running loop."""

    def __init__(self, sources: Sources, config: Config, on_change: Callable[[], None]) -> None:
        """`config` was read just now: what changes from here on is news."""
        self._sources = sources
        self._config = config
        self._on_change = on_change
        self._watcher = Watcher(self._paths, self._on_files, gather=_GATHER)

    def apply(self, in_force: InForce) -> None:
        """Watch what this configuration was read from."""
        self._config = in_force.config
        self._watcher.stir()

    async def close(self) -> None:
        await self._watcher.close()

    def _paths(self) -> Collection[Path]:
        return self._sources(self._config)

    async def _on_files(self, changed: Set[Path]) -> None:
        _log.info("the configuration changed", files=sorted(str(path) for path in changed))
        self._on_change()
