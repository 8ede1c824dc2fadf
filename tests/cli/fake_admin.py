"""A stand-in for a running proxy's admin API: HTTP and JSON as docs/api.md has them, and numbers
that a test decides.

    with FakeAdmin(path) as fake:
        fake.answers["/api/v1/status"] = {...}
        fake.tell("record", {...})

To look at what the commands make of it: `python tests/cli/fake_admin.py /tmp/fake.sock`, and then
`spliceproxy top --admin /tmp/fake.sock`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web
from fake_house import House

Answer = Any
"""JSON; a number in front of it, as a tuple, is the status."""


class FakeAdmin:
    """Serves on a UNIX socket, in a thread of its own, and with `token` also on a TCP port."""

    def __init__(self, path: Path, house: House | None = None, token: str | None = None) -> None:
        self.path = path
        self.house = house or House()
        self.token = token
        self.port = 0
        self.asked: list[tuple[str, str, Any]] = []
        """Method, path with its query, and body of each request."""
        self.answers: dict[str, Answer | Callable[[Mapping[str, str]], Answer]] = {
            "/api/v1/status": lambda _: self.house.status(),
            "/api/v1/traffic": lambda _: self.house.traffic(),
            "/api/v1/history": lambda _: self.house.history(),
            "/api/v1/sessions": lambda query: self.house.sessions(query),
        }
        """By path; a function is asked with the query, or with the body of an order."""
        self.opened = 0
        """Streams that were opened so far."""
        self._streams: list[asyncio.Queue[bytes]] = []
        self._loop = asyncio.new_event_loop()
        self._runner: web.AppRunner | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> FakeAdmin:
        self._thread.start()
        self._call(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def go_away(self) -> None:
        """As a proxy that ends: connections are closed, and its socket's file is gone."""
        self._call(self._close())

    def come_back(self) -> None:
        """As a proxy that starts."""
        self._call(self._open())

    def tell(self, event: str, value: object) -> None:
        """Send an event to every stream."""
        text = f"event: {event}\ndata: {json.dumps(value)}\n\n"
        self._loop.call_soon_threadsafe(self._send, text.encode())

    def orders(self, path: str) -> list[Any]:
        """The bodies of the orders that came for a path."""
        return [body for method, asked, body in self.asked if method == "POST" and asked == path]

    def _call(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    def _send(self, data: bytes) -> None:
        for stream in self._streams:
            stream.put_nowait(data)

    async def _open(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        self.path.unlink(missing_ok=True)
        await web.UnixSite(self._runner, str(self.path)).start()
        if self.token is not None:
            site = web.TCPSite(self._runner, "127.0.0.1", self.port)
            await site.start()
            self.port = self._runner.addresses[1][1]

    async def _close(self) -> None:
        if self._runner is None:
            return
        for stream in self._streams:
            stream.put_nowait(b"")
        await self._runner.cleanup()
        self._runner = None
        self.path.unlink(missing_ok=True)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        body = json.loads(text) if text else None
        self.asked.append((request.method, request.path_qs, body))
        by_tcp = request.transport is not None and isinstance(
            request.transport.get_extra_info("sockname"), tuple
        )
        if by_tcp and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({"error": "this takes a token"}, status=401)
        if request.path == "/api/v1/stream":
            return await self._stream(request)
        answer = self.answers.get(request.path)
        if callable(answer):
            answer = answer(body if request.method == "POST" else dict(request.query))
        if answer is None:
            return web.json_response({"error": f"there is no {request.path}"}, status=404)
        status, answer = answer if isinstance(answer, tuple) else (200, answer)
        return web.json_response(answer, status=status)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        headers = {"Content-Type": "text/event-stream", "Connection": "close"}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        waiting: asyncio.Queue[bytes] = asyncio.Queue()
        self._streams.append(waiting)
        self.opened += 1
        try:
            await response.write(b": here\n\n")
            while data := await waiting.get():
                await response.write(data)
        except ConnectionError:
            pass
        finally:
            self._streams.remove(waiting)
        return response


def main(path: str) -> None:
    """Serve until somebody ends it, with numbers that move and sessions that end."""
    house = House(clock=time.time)
    with FakeAdmin(Path(path), house, token="secret") as fake:
        print(f"http://127.0.0.1:{fake.port}", flush=True)
        for number in itertools.count():
            time.sleep(0.4)
            fake.tell("record", house.record(number))
            if number % 7 == 0:
                fake.tell("event", house.event(number))


if __name__ == "__main__":
    main(sys.argv[1])
