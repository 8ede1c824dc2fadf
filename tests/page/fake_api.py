"""The admin API as the page meets it, without a proxy: what it says is chosen.

Its numbers move with each answer to `/traffic`, so a page that shows old ones is found out. It
speaks to one test, in a thread and an event loop of its own.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from fake_proxy import FakeProxy, Json

import spliceproxy

PAGE = Path(spliceproxy.__file__).parent / "admin" / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


class FakeApi:
    """Serves the page and a FakeProxy; `url` is where."""

    def __init__(self, proxy: FakeProxy) -> None:
        self.proxy = proxy
        self.read_token = ""
        """Without one, everybody may read."""
        self.write_token = ""
        """Without one, everybody may give orders."""
        self.port = 0
        self.answers: dict[str, Json] = {}
        """What was said last, by path."""
        self.asked: list[str] = []
        """Method and path, with its query, of all requests for data."""
        self.orders: list[tuple[str, Json]] = []
        """Orders that were accepted: the last part of the path, and the body."""
        self.delay = 0.0
        """Seconds before each answer to a GET that has an end."""
        self.under_way = self.most_under_way = 0
        """Such answers that are being waited for, now and at the most."""
        self.refusals: dict[str, tuple[int, str]] = {}
        """Status and error, by path, of what is refused whatever is asked."""
        self._held: dict[str, asyncio.Event] = {}
        self._loop = asyncio.new_event_loop()
        self._runner: web.AppRunner | None = None
        self._streams: list[tuple[web.StreamResponse, asyncio.Event]] = []
        self._thread = threading.Thread(target=self._loop.run_forever)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Listen: at first anywhere, afterwards where it did before."""
        if not self._thread.is_alive():
            self._thread.start()
        self._run(self._start())

    def stop(self) -> None:
        """Be gone: connections are closed, new ones refused."""
        self._run(self._stop())

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def hold(self, path: str) -> None:
        """Have requests for this path wait until `let_go`."""
        self._held[path] = asyncio.Event()

    def let_go(self, path: str, *, others: bool = True) -> None:
        """Answer those that wait; and `others`, that come later, at once."""
        waiting = self._held.pop(path)
        if not others:
            self.hold(path)
        self._loop.call_soon_threadsafe(waiting.set)

    def tell(self, kind: str, data: Json) -> None:
        """Send something to all streams; an event is kept for `/events`, too."""

        async def send() -> None:
            if kind == "event":
                self.proxy.events.append(data)
            for response, _ in self._streams:
                await response.write(f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode())

        self._run(send())

    @property
    def streams(self) -> int:
        """Streams that are open."""
        return len(self._streams)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _start(self) -> None:
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/api/v1/stream", self._stream)
        for path, answer in self.proxy.reads().items():
            app.router.add_get(f"/api/v1/{path}", self._read(path, answer))
        for path, order in self.proxy.orders().items():
            app.router.add_post(f"/api/v1/{path}", self._write(path, order))
        app.router.add_get("/{name:[a-z_]*\\.?[a-z]*}", self._file)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        for _, over in self._streams:
            over.set()
        if self._runner is not None:
            await self._runner.cleanup()
        self._runner = None

    async def _file(self, request: web.Request) -> web.StreamResponse:
        path = PAGE / (request.match_info["name"] or "index.html")
        if not path.is_file():
            raise web.HTTPNotFound
        headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
        return web.Response(
            body=path.read_bytes(),
            content_type=TYPES[path.suffix],
            charset="utf-8",
            headers=headers,
        )

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if not request.path.startswith("/api/"):
            return await handler(request)
        self.asked.append(f"{request.method} {request.path_qs}")
        path = request.path.removeprefix("/api/v1/")
        if held := self._held.get(path):
            await held.wait()
        if path in self.refusals:
            status, error = self.refusals[path]
            return web.json_response({"error": error}, status=status)
        token = _token(request)
        if self.read_token and token not in (self.read_token, self.write_token):
            return web.json_response({"error": "a token is needed"}, status=401)
        if request.method == "POST" and not self._may_write(token):
            return web.json_response({"error": "the write token is needed"}, status=401)
        return await handler(request)

    def _may_write(self, token: str) -> bool:
        return token == self.write_token or not self.write_token

    def _read(self, path: str, answer: Callable[[Any], Json]) -> Any:
        async def handler(request: web.Request) -> web.Response:
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
            await asyncio.sleep(self.delay)
            self.under_way -= 1
            found = answer(request.query)
            if path == "status":
                found["writable"] = self._may_write(_token(request))
            self.answers[path] = found
            return web.json_response(found, status=400 if "error" in found else 200)

        return handler

    def _write(self, path: str, order: Callable[[Json], Json]) -> Any:
        async def handler(request: web.Request) -> web.Response:
            body = await request.json()
            answer = order(body)
            if "error" not in answer:
                self.orders.append((path, body))
            return web.json_response(answer, status=400 if "error" in answer else 200)

        return handler

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b": open\n\n")
        mine = (response, asyncio.Event())
        self._streams.append(mine)
        try:
            await mine[1].wait()
        finally:
            self._streams.remove(mine)
        return response


def _token(request: web.Request) -> str:
    return request.headers.get("Authorization", "").removeprefix("Bearer ")


@contextmanager
def fake_api(proxy: FakeProxy) -> Iterator[FakeApi]:
    """A fake that listens on a port of its own, until the end of the block."""
    api = FakeApi(proxy)
    api.start()
    try:
        yield api
    finally:
        api.close()
