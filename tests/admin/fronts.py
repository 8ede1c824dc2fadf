"""A front of its own, with paths of a test's own, at a door on the loopback address."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from spliceproxy import config
from spliceproxy.admin.api import Route, Routes
from spliceproxy.admin.front import Front
from spliceproxy.admin.gate import BOUNDS, Bounds
from spliceproxy.admin.guard import Entry, Need, Tokens
from spliceproxy.control.doors import open_doors

WRITE = "writing-writing-writing"
Where = tuple[str, int]


class Serving:
    """A front in an event loop of its own."""

    def __init__(self, front: Front, where: Where, loop: asyncio.AbstractEventLoop) -> None:
        self.where = where
        self._front = front
        self._loop = loop

    def hand_over(self) -> None:
        """As an upgrade does it."""
        asyncio.run_coroutine_threadsafe(self._front.hand_over(), self._loop).result(10)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._front.close(), self._loop).result(10)


@contextmanager
def serving_front(
    paths: Mapping[str, Route], *, most: int = 8, bounds: Bounds = BOUNDS
) -> Iterator[Serving]:
    """Serve these paths to all who come by TCP."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        with open_doors(_CONFIG) as doors:
            [door] = doors
            routes = dict.fromkeys(Entry, Routes(paths))

            async def serve() -> Front:
                front = Front(routes, lambda: Tokens(WRITE.encode()), (), most, most, bounds)
                front.open(doors)
                return front

            front = asyncio.run_coroutine_threadsafe(serve(), loop).result(10)
            serving = Serving(front, (door.place.host, door.place.port), loop)
            try:
                yield serving
            finally:
                serving.close()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


_CONFIG = config.loads(
    "admin: {bind: 127.0.0.1:0}\n"
    'listeners: {web: {bind: ":8080", pool: app}}\n'
    "pools: {app: {upstreams: 127.0.0.1:9001}}\n",
    "test.yaml",
    {},
)

__all__ = ["Need", "Route", "Serving", "serving_front"]
