"""A file that lists upstreams: the last list that was good stays."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from spliceproxy.control.discovery.found import Found, found_at_once, is_place, within
from spliceproxy.errors import SpliceproxyError

if TYPE_CHECKING:
    from spliceproxy.config import Upstream

_log = structlog.get_logger()


class ListFile:
    """What one file lists."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.places: list[Found] = []
        """The upstreams whose addresses are places."""
        self.others: list[Upstream] = []
        """The entries whose upstreams have to be found."""
        self._problems: list[str] = []

    async def load(self) -> None:
        """Read the file, in a thread of its own, as a long list takes its time.

        A file that is missing or that is no list changes nothing, which is told once.
        """
        try:
            places, others = await asyncio.to_thread(self._read)
        except SpliceproxyError as error:
            self._tell(str(error).splitlines())
        else:
            self._tell([])
            self.places, self.others = places, others

    def _read(self) -> tuple[list[Found], list[Upstream]]:
        from spliceproxy.config import load_list

        upstreams = load_list(self.path)
        places = [
            found
            for one in upstreams
            if is_place(one.address)
            for found in within(one, found_at_once(one.address))
        ]
        return places, [one for one in upstreams if not is_place(one.address)]

    def _tell(self, problems: list[str]) -> None:
        before, self._problems = self._problems, problems
        if problems and problems != before:
            _log.warning(
                "a list of upstreams cannot be used: the last good one stays",
                file=str(self.path),
                problems=problems,
                known=len(self.places) + len(self.others),
            )
        elif before and not problems:
            _log.info("a list of upstreams can be used again", file=str(self.path))
