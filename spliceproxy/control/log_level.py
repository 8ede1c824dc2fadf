"""The level of the log, which somebody may change at run time: here, and in all workers.

Workers are told by the snapshot, as of everything; so those that start later know it too. What was
set holds until a reload brings another `log.level` than the configuration had, or until the process
ends.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from spliceproxy.control.parts import InForce
from spliceproxy.errors import SpliceproxyError
from spliceproxy.telemetry import log

if TYPE_CHECKING:
    from spliceproxy.config import Config

_log = structlog.get_logger()


class LogLevelError(SpliceproxyError):
    """There is no such level."""


class LogLevel:
    """The level that is in force. A Part."""

    def __init__(self, configured: str) -> None:
        """`configured` is `log.level`, which this process obeys already."""
        self.changed = asyncio.Event()
        """Set when a new snapshot would tell the workers another level."""
        self.level = self._configured = configured

    def set(self, level: str) -> str:
        """Write what is of this level or above from now on; the level before.

        The supervisor obeys at once, the workers as soon as they are told. Raises LogLevelError.
        """
        if level not in log.LEVELS:
            raise LogLevelError(f"{level}: there is no such level; write {', '.join(log.LEVELS)}")
        before, self.level = self.level, level
        if level != before:
            # Said while the more talkative of both holds, so that it is seen.
            log.set_level(min(level, before, key=log.LEVELS.__getitem__))
            _log.info("log level set", before=before, now=level)
            log.set_level(level)
            self.changed.set()
        return before

    def after(self, config: Config) -> str:
        """The level that a reload to `config` brings."""
        return self.level if config.log.level == self._configured else config.log.level

    def apply(self, in_force: InForce) -> None:
        """Obey `log.level`, where it is another one now."""
        self.level = self.after(in_force.config)
        self._configured = in_force.config.log.level
        log.set_level(self.level)

    async def close(self) -> None:
        """There is nothing to end."""
