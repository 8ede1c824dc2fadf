"""A file that lists upstreams: the last list that was good stays."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from spliceproxy.control.discovery.found import Found, found_at_once, is_place, within
from spliceproxy.errors import SpliceproxyError

if TYPE_CHECKING:
    from spliceproxy.config import Upstream

_log = structlog.get_logger()


Known = Sequence[Mapping[str, str]]
"""The entries of a list, each key as it could stand in the file."""

_Read = tuple[Sequence["Upstream"], list[Found], list["Upstream"]]
"""All entries; those that are places, and the others."""


class ListFile:
    """What one file lists."""

    def __init__(self, path: Path, known: Known = ()) -> None:
        """`known` is what another process knew of it, which holds until it can be read."""
        self.path = path
        self.places: list[Found] = []
        """The upstreams whose addresses are places."""
        self.others: list[Upstream] = []
        """The entries whose upstreams have to be found."""
        self._entries: Sequence[Upstream] = ()
        """All entries, as they were read."""
        self._problems: list[str] = []
        if known:
            with suppress(ValueError, SpliceproxyError):  # a word that this program does not know
                self._entries, self.places, self.others = _sort(_from_json(known))

    def known(self) -> Known:
        """The last list that was good, as JSON."""
        return [
            {
                "address": str(one.address),
                "weight": str(one.weight),
                "tier": str(one.tier),
                "max_sessions": str(one.max_sessions or "off"),
            }
            for one in self._entries
        ]

    async def load(self) -> None:
        """Read the file, in a thread of its own, as a long list takes its time.

        A file that is missing or that is no list changes nothing, which is told once.
        """
        try:
            entries, places, others = await asyncio.to_thread(self._read)
        except SpliceproxyError as error:
            self._tell(str(error).splitlines())
        else:
            self._tell([])
            self._entries, self.places, self.others = entries, places, others

    def _read(self) -> _Read:
        from spliceproxy.config import load_list

        return _sort(load_list(self.path))

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


def _sort(entries: Sequence[Upstream]) -> _Read:
    """Raises ResolveError."""
    places = [
        found
        for one in entries
        if is_place(one.address)
        for found in within(one, found_at_once(one.address))
    ]
    return entries, places, [one for one in entries if not is_place(one.address)]


def _from_json(known: Known) -> list[Upstream]:
    """Raises ValueError."""
    from spliceproxy.config import Upstream

    return [Upstream.model_validate(dict(one)) for one in known]
