"""The paths that tell and change nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spliceproxy.admin.asking import Answer, Asked, AskError, Stream, tell, unknown
from spliceproxy.admin.ready import not_ready, not_well
from spliceproxy.admin.status import Report, Statuses
from spliceproxy.admin.stream import open_stream
from spliceproxy.admin.traffic import Traffic
from spliceproxy.config import Config, in_words
from spliceproxy.control.house import House
from spliceproxy.control.parts import InForce
from spliceproxy.ipc.queries import MOST, SessionQuery, filter_of

TellToken = Callable[[], dict[str, Any]]

_EQUAL = ("listener", "pool", "upstream", "route", "sni", "phase")
_FILTERS = (*_EQUAL, "client", "min_age", "min_idle")
FILTERS = frozenset({"id", "sort", "offset", "limit", *_FILTERS})
"""Parameters of /sessions."""
EXPLAIN = frozenset({"listener", "source", "peer", "protocol", "sni", "alpn", "host"})
"""Parameters of /explain."""


class Reading:
    """Raises AskError for a question that makes no sense, QueryError for a filter that is wrong."""

    def __init__(self, house: House, traffic: Traffic, token: TellToken) -> None:
        self._house = house
        self._traffic = traffic
        self._token = token
        self._statuses = Statuses(house, traffic.failed_handshakes)
        self._configuration: tuple[Sequence[Path], Config, Answer] | None = None
        """What was told last, and of which configuration."""
        self._configuration_turn = asyncio.Lock()

    async def healthz(self, _asked: Asked) -> Answer:
        reason = not_well(self._house)
        return tell({"status": "failing", "reason": reason}, 503) if reason else _WELL

    async def readyz(self, _asked: Asked) -> Answer:
        reasons = not_ready(self._house)
        return tell({"status": "not ready", "reasons": reasons}, 503) if reasons else _READY

    async def status(self, asked: Asked) -> Answer:
        report = self._statuses.status(writable=asked.may_write)
        in_force = self._house.in_force()

        def told() -> Answer:
            return tell({**report, "pools": self._statuses.pools(in_force)})

        return await self._traffic.aside(told)

    async def config(self, _asked: Asked) -> Answer:
        files, config = self._house.files(), self._house.in_force().config
        # Of thousands of upstreams a fifth of a second, so it is made once, by one who asks.
        async with self._configuration_turn:
            known = self._configuration
            if known is None or known[0] != files or known[1] is not config:
                answer = await asyncio.to_thread(_tell_config, files, config)
                self._configuration = known = files, config, answer
            return known[2]

    async def traffic(self, _asked: Asked) -> Answer:
        return await self._traffic.aside(lambda: tell(self._traffic.traffic()))

    async def history(self, _asked: Asked) -> Answer:
        return await self._traffic.aside(lambda: tell(self._traffic.history()))

    async def metrics(self, asked: Asked) -> Answer:
        body, content_type = await self._traffic.aside(lambda: self._traffic.render(asked.accept))
        return Answer(body, content_type=content_type)

    async def listeners(self, _asked: Asked) -> Answer:
        return tell({"listeners": await self._listeners()})

    async def listener(self, asked: Asked) -> Answer:
        return _one(asked.name, await self._listeners(), "listener")

    async def pools(self, _asked: Asked) -> Answer:
        in_force = self._house.in_force()
        return await self._traffic.aside(lambda: tell({"pools": self._pools(in_force)}))

    async def pool(self, asked: Asked) -> Answer:
        in_force = self._house.in_force()
        return await self._traffic.aside(lambda: _one(asked.name, self._pools(in_force), "pool"))

    async def upstreams(self, asked: Asked) -> Answer:
        """All upstreams in one list, each with its pool; or those of one pool."""
        wanted, in_force = asked.word("pool"), self._house.in_force()
        return await self._traffic.aside(lambda: self._upstreams(in_force, wanted))

    def _upstreams(self, in_force: InForce, wanted: str) -> Answer:
        pools = {pool["name"]: pool for pool in self._pools(in_force)}
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

    async def _listeners(self) -> list[Report]:
        """What is told of each listener, with its traffic."""
        moves = (await self._traffic.aside(self._traffic.traffic))["listeners"]
        # Asked after the traffic: a name that came meanwhile has none yet.
        return [{**one, "traffic": moves.get(one["name"])} for one in self._statuses.listeners()]

    def _pools(self, in_force: InForce) -> list[Report]:
        """The same of each pool, and of its upstreams, in any thread."""
        moves = self._traffic.traffic()
        found = []
        for pool in self._statuses.pools(in_force):
            upstreams = moves["upstreams"].get(pool["name"], {})
            pool["traffic"] = moves["pools"].get(pool["name"])
            for one in pool["upstreams"]:
                one["traffic"] = upstreams.get(one["name"])
            found.append(pool)
        return found

    async def sessions(self, asked: Asked) -> Answer:
        """Live sessions, as the workers tell them; also those of processes before an upgrade."""
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
                "matching": found.number,
                "offset": query.offset,
                "process": os.getpid(),
                "silent_workers": found.silent_workers,
                "silent_processes": found.silent_processes,
                "sessions": found.sessions,
            }
        )

    async def events(self, _asked: Asked) -> Answer:
        return tell({"events": self._house.events.recent()})

    async def explain(self, asked: Asked) -> Answer:
        """Which rule takes a client, and where to. It is imported here: few ever ask."""
        from spliceproxy.admin.explain import explain_live

        if not asked.word("listener"):
            raise AskError("which listener? write for example ?listener=web&source=10.1.2.3")
        house = self._house
        in_force, closed = house.in_force(), frozenset(house.closed.names)
        # In a thread: it may have to read long lists of networks.
        return tell(
            await asyncio.to_thread(explain_live, in_force, house.board, closed, asked.words)
        )

    async def stream(self, asked: Asked) -> Stream:
        return open_stream(self._house, asked)

    async def token(self, _asked: Asked) -> Answer:
        return tell(self._token())


def _tell_config(files: Sequence[Path], config: Config) -> Answer:
    return tell({"files": [str(path) for path in files], "config": in_words(config)})


def _one(name: str, found: list[Report], kind: str) -> Answer:
    """The one of that name. Raises AskError."""
    for one in found:
        if one["name"] == name:
            return tell(one)
    raise AskError(f"{kind}: {unknown(name, [one['name'] for one in found])}", 404)


_WELL = tell({"status": "ok"})
_READY = tell({"status": "ready"})
