"""A Discovery in the test's own event loop: a real DNS server, real files, the log as a list."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from harness.health import MACHINE
from spliceproxy import config
from spliceproxy.config import Config
from spliceproxy.control.discovery import Discovery
from spliceproxy.control.discovery.lookup import Pace
from spliceproxy.control.parts import InForce
from spliceproxy.control.plan import make_snapshot, plan_pools
from spliceproxy.control.slots import UpstreamSlots

QUICK = Pace(first_retry=0.02, longest_retry=0.1, hold=0.3, gather=0.01, first_answers=0.5)
"""What a test need not wait for long."""

Line = MutableMapping[str, Any]


class Discovering:
    """One discovery, and what it finds."""

    def __init__(self, discovery: Discovery, servers: list[str], lines: list[Line]) -> None:
        self.discovery = discovery
        self.lines = lines
        self._servers = servers
        self.config: Config | None = None

    async def follow(self, *upstreams: object, **dns: object) -> list[str]:
        """Have one pool with these upstreams, as a start or a reload does; what is found."""
        keys = {
            "dns": {"servers": self._servers, "min_ttl": "50ms", **dns},
            "listeners": {"web": {"bind": "127.0.0.1:0", "pool": "app"}},
            "pools": {"app": {"upstreams": list(upstreams)}},
        }
        self.config = config.loads(json.dumps(keys), "test.yaml", {})
        await self.discovery.prepare(self.config)
        found = self.discovery.found(self.config)
        snapshot = make_snapshot(self.config, found, MACHINE, 1, 0, UpstreamSlots())
        self.discovery.apply(InForce(self.config, snapshot))
        self.discovery.changed.clear()
        return self.found()

    def found(self) -> list[str]:
        """The places that are known now, each with what is not as usual, sorted."""
        assert self.config is not None
        found = self.discovery.found(self.config)
        [pool] = plan_pools(self.config, found, UpstreamSlots())
        return sorted(
            one.name
            + (f" weight {one.weight}" if one.weight != 1 else "")
            + (f" tier {one.tier}" if one.tier else "")
            + (f" limit {one.max_sessions}" if one.max_sessions else "")
            for one in pool.upstreams
        )

    async def wait(self, found: Callable[[], object], what: str, timeout: float = 10.0) -> None:
        """Let the loop run until something is true."""
        deadline = time.monotonic() + timeout
        while not found():
            assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}: {self.lines}"
            await asyncio.sleep(0.002)

    async def wait_found(self, *places: str) -> None:
        """Until exactly these are known."""
        await self.wait(lambda: self.found() == sorted(places), f"{places}, not {self.found()}")

    def log(self, event: str) -> list[Line]:
        return [line for line in self.lines if line["event"] == event]


@asynccontextmanager
async def discovering(
    server: str = "", *, hosts: str = "", pace: Pace = QUICK, **options: Any
) -> AsyncIterator[Discovering]:
    """A discovery that is closed at the end; no task and no fd of it is left.

    `hosts` is the path of a hosts file; without it there is none.
    """
    before, tasks = fds(), asyncio.all_tasks()
    with capture_logs() as lines:
        discovery = Discovery(hosts=Path(hosts or "/nonexistent"), pace=pace, **options)
        try:
            yield Discovering(discovery, [server or "system"], lines)
        finally:
            began = time.monotonic()
            await discovery.close()
            assert time.monotonic() - began < 0.5
    assert asyncio.all_tasks() == tasks
    for _ in range(1000):  # transports close their sockets one turn later
        if fds() <= before:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"left open: {fds() - before}")


def fds() -> set[str]:
    """The sockets, inotify instances and the like of this process, by number."""
    found = set()
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(f"{fd.name} {fd.readlink()}")
    return {name for name in found if "socket:" in name or "anon_inode:" in name}
