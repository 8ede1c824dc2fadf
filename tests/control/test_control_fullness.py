"""control/fullness.py: what the log says of limits that sessions have come to."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from typing import Any

from harness.found import find_upstreams
from harness.health import MACHINE
from harness.proxy import running_proxy
from harness.upstreams import echo
from structlog.testing import capture_logs

from spliceproxy import config
from spliceproxy.control.fullness import Fullness
from spliceproxy.control.parts import InForce
from spliceproxy.control.plan import make_snapshot
from spliceproxy.control.slots import UpstreamSlots
from spliceproxy.telemetry.board import SESSIONS, Board, listener_sessions


def yaml(upstream: str, listener: int | str, pool: int | str, process: int | str = "auto") -> str:
    keys = {
        "health": "off",
        "max_sessions": process,
        "listeners": {"web": {"bind": "127.0.0.1:0", "pool": "app", "max_sessions": listener}},
        "pools": {"app": {"upstreams": upstream, "max_sessions": pool}},
    }
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in keys.items())


class Rig:
    """The part and a board of two workers."""

    def __init__(self) -> None:
        fd = Board.create(2)
        self.board = Board(fd, 2)
        os.close(fd)
        self.part = Fullness(self.board)
        self._slots = UpstreamSlots()
        self._last = InForce(*self._load("off", "off", "auto"))

    def _load(self, *limits: int | str) -> tuple[config.Config, Any]:
        loaded = config.loads(yaml("127.0.0.1:9", *limits), "x.yaml", {})
        found = find_upstreams(loaded)
        return loaded, make_snapshot(loaded, found, MACHINE, 2, 0, self._slots)

    def apply(
        self, listener: int | str = "off", pool: int | str = "off", process: int | str = "auto"
    ) -> None:
        self._last = InForce(*self._load(listener, pool, process))
        self.part.apply(self._last)

    @property
    def worker_sessions(self) -> int:
        return self._last.snapshot.worker_sessions

    def sessions(self, *of_workers: int) -> list[tuple[object, ...]]:
        """Have each worker have so many; what is said of it: event, name, sessions, limit."""
        [listener], [pool] = self._last.snapshot.listeners, self._last.snapshot.pools
        for worker, number in enumerate(of_workers):
            self.board.regions[worker][SESSIONS] = number
            self.board.regions[worker][listener_sessions(listener.slot)] = number
            self.board.upstreams.sessions[worker][pool.slot] = number
        with capture_logs() as lines:
            self.part.look()
        return [
            (line["event"], line[line["event"].split()[0]], line["sessions"], line["max_sessions"])
            for line in lines
        ]


def within_a_loop(test: Callable[[Rig], None]) -> None:
    """Nobody looks but the test: it is over before the first tick."""

    async def main() -> None:
        rig = Rig()
        test(rig)
        await rig.part.close()

    asyncio.run(main())


def test_a_listener_is_full_with_its_last_session_and_has_room_at_nine_tenths() -> None:
    def test(it: Rig) -> None:
        it.apply(listener=20)
        assert it.sessions(10, 9) == []
        assert it.sessions(10, 10) == [("listener full", "web", 20, 20)]
        assert it.sessions(11, 10) == []
        for near in (19, 20, 18):
            assert it.sessions(near, 0) == []
        assert it.sessions(17, 0) == [("listener has room again", "web", 17, 20)]
        assert it.sessions(20, 0) == [("listener full", "web", 20, 20)]

    within_a_loop(test)


def test_process_worker_and_pool_have_limits_of_their_own() -> None:
    def test(it: Rig) -> None:
        it.apply(pool=3, process=5)
        assert it.sessions(3, 0) == [("pool full", "app", 3, 3)]
        assert it.sessions(3, 2) == [("process full", "spliceproxy", 5, 5)]
        it.apply()
        most = it.worker_sessions
        assert it.sessions(0, most) == [("worker full", 1, most, most)]

    within_a_loop(test)


def test_a_limit_that_a_reload_changes_is_looked_at_anew() -> None:
    def test(it: Rig) -> None:
        it.apply(listener=4)
        assert it.sessions(4, 0) == [("listener full", "web", 4, 4)]
        it.apply(listener=8)
        assert it.sessions(4, 0) == [("listener has room again", "web", 4, 8)]
        it.apply(listener=4)
        assert it.sessions(4, 0) == [("listener full", "web", 4, 4)]
        it.apply()
        assert it.sessions(4, 0) == []
        it.apply(listener=4)
        assert it.sessions(4, 0) == [("listener full", "web", 4, 4)]

    within_a_loop(test)


def test_a_client_that_has_to_wait_is_known_within_seconds() -> None:
    with echo() as upstream, running_proxy(yaml(upstream.address, 1, "off")) as proxy:
        with proxy.connect("web"):
            line = proxy.wait_log("listener full")
            assert (line["level"], line["listener"], line["max_sessions"]) == ("warning", "web", 1)
        assert proxy.wait_log("listener has room again")["sessions"] == 0
