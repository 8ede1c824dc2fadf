"""The paths that tell and change nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spliceproxy.admin.asking import Answer, Asked, AskError, Stream, tell, unknown
from spliceproxy.admin.ready import not_ready, not_well
from spliceproxy.admin.status import Report, Statuses
from spliceproxy.admin.stream import open_stream
from spliceproxy.config import in_words
from spliceproxy.control.house import House
from spliceproxy.ipc.queries import MOST, SessionQuery, filter_of

TellToken = Callable[[], dict[str, Any]]

_EQUAL = ("listener", "pool", "upstream", "route", "sni", "phase")
_FILTERS = (*_EQUAL, "client", "min_age", "min_idle")
FILTERS = frozenset({"id", "sort", "offset", "limit", *_FILTERS})
"""Parameters of /sessions."""


class Reading:
    """Raises AskError for a question that makes no sense, QueryError for a filter that is wrong."""

    def __init__(self, house: House, token: TellToken) -> None:
        self._house = house
        self._token = token
        self._statuses = Statuses(house)

    async def healthz(self, _asked: Asked) -> Answer:
        reason = not_well(self._house)
        return tell({"status": "failing", "reason": reason}, 503) if reason else _WELL

    async def readyz(self, _asked: Asked) -> Answer:
        reasons = not_ready(self._house)
        return tell({"status": "not ready", "reasons": reasons}, 503) if reasons else _READY

    async def status(self, asked: Asked) -> Answer:
        return tell(self._statuses.status(writable=asked.may_write))

    async def config(self, _asked: Asked) -> Answer:
        files = [str(path) for path in self._house.files()]
        return tell({"files": files, "config": in_words(self._house.in_force().config)})

    async def listeners(self, _asked: Asked) -> Answer:
        return tell({"listeners": self._statuses.listeners()})

    async def listener(self, asked: Asked) -> Answer:
        return _one(asked.name, self._statuses.listeners(), "listener")

    async def pools(self, _asked: Asked) -> Answer:
        return tell({"pools": self._statuses.pools()})

    async def pool(self, asked: Asked) -> Answer:
        return _one(asked.name, self._statuses.pools(), "pool")

    async def upstreams(self, asked: Asked) -> Answer:
        pools = {pool["name"]: pool for pool in self._statuses.pools()}
        wanted = asked.word("pool")
        if wanted and wanted not in pools:
            raise AskError(f"pool: {unknown(wanted, pools)}", 404)
        return tell(
            {
                "upstreams": [
                    {"pool": name, **upstream}
                    for name, pool in pools.items()
                    if wanted in ("", name)
                    for upstream in pool["upstreams"]
                ]
            }
        )

    async def sessions(self, asked: Asked) -> Answer:
        limit = asked.number("limit", 100)
        if limit > MOST:
            raise AskError(f"limit is from 1 to {MOST}")
        query = SessionQuery(
            where=filter_of({name: asked.word(name) for name in _FILTERS if name in asked.words}),
            ids=tuple(asked.words.get("id", ())),
            sort=asked.word("sort", "age"),
            offset=asked.number("offset", 0),
            limit=limit,
        )
        found = await self._house.sessions.find(query)
        return tell(
            {
                "matching": found.matching,
                "offset": query.offset,
                "silent_workers": found.silent,
                "sessions": found.sessions,
            }
        )

    async def stream(self, asked: Asked) -> Stream:
        return open_stream(self._house, asked)

    async def token(self, _asked: Asked) -> Answer:
        return tell(self._token())


def _one(name: str, found: list[Report], kind: str) -> Answer:
    """The one of that name. Raises AskError."""
    for one in found:
        if one["name"] == name:
            return tell(one)
    raise AskError(f"{kind}: {unknown(name, [one['name'] for one in found])}", 404)


_WELL = tell({"status": "ok"})
_READY = tell({"status": "ready"})
