"""A Monitor in the test's own event loop: real sockets, a real board, the log as a list."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from harness.found import find_upstreams
from harness.wait import wait_until
from spliceproxy import config
from spliceproxy.control.health import Monitor
from spliceproxy.control.machine import Machine
from spliceproxy.control.parts import InForce, UpstreamStates
from spliceproxy.control.plan import make_snapshot
from spliceproxy.control.slots import UpstreamSlots
from spliceproxy.control.tls import Certificates
from spliceproxy.telemetry.board import DOWN, Board

MACHINE = Machine(
    nofile=4096, somaxconn=4096, ports=28232, pipe_max_size=None, pipe_user_pages=None
)
FAST: dict[str, object] = {"interval": "50ms", "timeout": "400ms"}
"""Checks that a test need not wait for long."""

Line = MutableMapping[str, Any]


class Rig:
    """One monitor, what it says of each upstream, and what it logs."""

    def __init__(self, lines: list[Line], seed: int, most: int = 256) -> None:
        fd = Board.create(1)
        self.upstreams = Board(fd, 1).upstreams
        os.close(fd)
        self.states = UpstreamStates(self.upstreams)
        self.monitor = Monitor(self.states, most=most, jitter=random.Random(seed))
        self._lines = lines
        self._slots = UpstreamSlots()
        self._slot_of: dict[str, int] = {}

    @property
    def lines(self) -> list[Line]:
        """The log so far, from level info on."""
        return [one for one in self._lines if one["log_level"] != "debug"]

    def apply(self, health: object, *upstreams: str, pool: str = "app", **keys: object) -> None:
        """Put a configuration in force: one pool, with this `health` and more `keys`."""
        keys = {
            "listeners": {"web": {"bind": "127.0.0.1:0", "pool": pool}},
            "pools": {pool: {"upstreams": list(upstreams), "health": health, **keys}},
        }
        loaded = config.loads(json.dumps(keys), "test.yaml", {})
        certificates = Certificates()
        certificates.load(loaded)
        snapshot = make_snapshot(
            loaded,
            find_upstreams(loaded),
            MACHINE,
            1,
            0,
            self._slots,
            tls=certificates.plans(loaded),
        )
        in_force = InForce(loaded, snapshot)
        self._slot_of.update({one.name: one.slot for _, one in in_force.upstreams()})
        self.monitor.apply(in_force)

    def down(self, upstream: str) -> bool:
        """What the workers are told."""
        return self.states.has(self._slot_of[upstream], DOWN)

    async def wait(self, found: Callable[[], object], what: str, timeout: float = 10.0) -> None:
        """Let the loop run until something is true."""
        deadline = time.monotonic() + timeout
        while not found():
            assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}: {self.lines}"
            await asyncio.sleep(0.002)

    async def wait_log(self, event: str, count: int = 1, **fields: object) -> Line:
        """The nth log line of an event with these fields."""

        def found() -> list[Line]:
            return [one for one in self.lines if one["event"] == event and matches(one, fields)]

        await self.wait(lambda: len(found()) >= count, f"{event} {fields}")
        return found()[count - 1]


def matches(line: Line, fields: dict[str, object]) -> bool:
    return all(line.get(key) == value for key, value in fields.items())


@asynccontextmanager
async def rig(seed: int, most: int = 256) -> AsyncIterator[Rig]:
    """A rig whose monitor is closed at the end; nothing that it opened is left."""
    before = sockets()
    tasks = asyncio.all_tasks()
    with capture_logs() as lines:
        made = Rig(lines, seed, most)
        try:
            yield made
        finally:
            began = time.monotonic()
            await made.monitor.close()
            assert time.monotonic() - began < 0.5
    assert asyncio.all_tasks() == tasks
    # A test's own upstreams may still be closing theirs.
    wait_until(lambda: sockets() <= before, 5, "the end of all sockets")


def sockets() -> set[str]:
    """The sockets of this process."""
    found = set()
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(str(fd.readlink()))
    return {name for name in found if name.startswith("socket:")}


def run(test: Callable[[], Any]) -> None:
    """Run a coroutine function to its end."""
    asyncio.run(asyncio.wait_for(test(), 60))
