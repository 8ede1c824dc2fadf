"""The operator's door: HTTP and JSON on a UNIX socket, whose path begins with its version.

    GET  /v1/status
    POST /v1/drain     {"target": "pool/app/10.0.0.1:80"}   no new sessions; the others go on
                       {"target": "listener/web", "over": 60}   or end within so many seconds;
                       "older_sessions" of the answer are with processes that hear of no drain
    POST /v1/undrain   {"target": "pool/app"}
    POST /v1/reload    {"changes": [...]} or 409; only where the supervisor can
    POST /v1/upgrade   {"pid": 4711, "sessions": 12} or 409; the new process, and the sessions that
                       the old one has; only where the supervisor can

What goes wrong is {"error": "..."}, with 400 for an order that makes no sense, 404 for a name that
is not there, 405, 409 for what cannot be done now.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

import orjson
import structlog

from spliceproxy.control.closed import ClosedListeners
from spliceproxy.control.door_socket import DoorSocket
from spliceproxy.control.draining import Draining, Drains, TargetError, UnknownTargetError
from spliceproxy.control.parts import InForce
from spliceproxy.control.report import House, report
from spliceproxy.errors import SpliceproxyError

if TYPE_CHECKING:
    from aiohttp import web

_log = structlog.get_logger()

Reload = Callable[[], Awaitable[list[str]]]
"""Reads the configuration anew and returns what changed, a line each. Raises SpliceproxyError."""

Upgrade = Callable[[], Awaitable[dict[str, int]]]
"""Replaces this process by a new one; the `pid` that serves now, and the `sessions` that this one
has. Raises SpliceproxyError."""

LONGEST_OVER = 30 * 86400
"""Seconds over which a drain may be spread."""
_CLOSING = 1.0
"""Seconds that answers under way may take when the door closes."""
_MAX_BODY = 64 * 1024
"""Bytes of one order."""


class Door:
    """Answers the operator, in the supervisor's event loop. A Part."""

    def __init__(
        self,
        socket: DoorSocket,
        house: House,
        reload: Reload | None = None,
        upgrade: Upgrade | None = None,
        closed: ClosedListeners | None = None,
    ) -> None:
        """`socket` stays the caller's. Without `reload` or `upgrade` there is no such order, and
        without `closed` none for listeners."""
        self._socket = socket
        self._house = house
        self._reload = reload
        self._upgrade = upgrade
        self._closed: Collection[str] = () if closed is None else closed.names
        self._draining = Draining(house.states, house.board, house.fleet.tell, closed)
        self._began = time.monotonic()
        self._in_force: InForce | None = None
        self._opening: asyncio.Task[web.AppRunner] | None = None
        self._over = False
        """Whether it was closed: a process that was upgraded follows its configuration on."""

    def apply(self, in_force: InForce) -> None:
        """Tell of this configuration, and open the door the first time: when it is ours."""
        self._in_force = in_force
        self._draining.apply(in_force)
        if self._opening is None and not self._over:
            self._opening = asyncio.create_task(self._open())

    async def close(self) -> None:
        """Let nobody in any more; answers under way get a second."""
        self._over = True
        opening, self._opening = self._opening, None
        if opening is None:
            return
        if not self._socket.ours.is_set():
            opening.cancel()
        with suppress(asyncio.CancelledError):
            runner = await opening
            await runner.cleanup()

    async def hand_over(self) -> None:
        """Let nobody in any more; the answers under way go on, that to `upgrade` among them."""
        if self._opening is not None:
            runner = await self._opening
            for site in list(runner.sites):
                await site.stop()

    def knowledge(self) -> Drains:
        """What is drained, by name."""
        return self._draining.names()

    def learn(self, knowledge: Drains) -> None:
        """Have these drained, as another process had."""
        self._draining.recall(knowledge)

    async def _open(self) -> web.AppRunner:
        from aiohttp import web  # a fifth of a second, which a proxy without a door does not need

        await self._socket.ours.wait()
        # What is left to it, after `_tell_errors`, is the traceback of who does not speak HTTP.
        logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)

        @web.middleware
        async def tell_errors(
            request: web.Request,
            handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
        ) -> web.StreamResponse:
            return await _tell_errors(request, handler)

        app = web.Application(middlewares=[tell_errors], client_max_size=_MAX_BODY)
        app.router.add_get("/v1/status", self._on_status)
        app.router.add_post("/v1/drain", self._on_drain)
        app.router.add_post("/v1/undrain", self._on_undrain)
        if self._reload is not None:
            app.router.add_post("/v1/reload", self._on_reload)
        if self._upgrade is not None:
            app.router.add_post("/v1/upgrade", self._on_upgrade)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_CLOSING)
        await runner.setup()
        await web.SockSite(runner, self._socket.sock).start()
        _log.info("door open", path=str(self._socket.path))
        return runner

    async def _on_status(self, _request: web.Request) -> web.Response:
        assert self._in_force is not None
        uptime = time.monotonic() - self._began
        return _answer(
            report(self._house, self._in_force, self._closed, pid=os.getpid(), uptime=uptime)
        )

    async def _on_drain(self, request: web.Request) -> web.Response:
        return await self._order(request, "draining", on=True)

    async def _on_undrain(self, request: web.Request) -> web.Response:
        return await self._order(request, "undrained", on=False)

    async def _order(self, request: web.Request, event: str, *, on: bool) -> web.Response:
        target, over = _target(await request.read(), paced=on)
        drained = await self._draining.order(target, on, over)
        if drained.changed or over is not None:
            _log.info(
                event,
                target=target,
                changed=drained.changed,
                sessions=drained.sessions,
                over_seconds=over,
            )
        return _answer({**asdict(drained), "older_sessions": self._house.older_sessions()})

    async def _on_reload(self, _request: web.Request) -> web.Response:
        assert self._reload is not None
        return _answer({"changes": await self._reload()})

    async def _on_upgrade(self, _request: web.Request) -> web.Response:
        assert self._upgrade is not None
        return _answer(await self._upgrade())


def _target(body: bytes, *, paced: bool) -> tuple[str, float | None]:
    """The `target` of an order, and where it may be `paced` its `over`. Raises TargetError."""
    try:
        order = orjson.loads(body)
    except orjson.JSONDecodeError:
        order = None
    keys = {"target", "over"} if paced else {"target"}
    if not isinstance(order, dict) or "target" not in order or not order.keys() <= keys:
        raise TargetError('the body is no order; send for example {"target": "pool/app"}')
    target, over = order["target"], order.get("over")
    if not isinstance(target, str):
        raise TargetError('target is no text; send for example {"target": "pool/app"}')
    if over is not None and (isinstance(over, bool) or not isinstance(over, int | float)):
        raise TargetError('over is no number of seconds; send for example {"over": 60}')
    if over is not None and not 0 <= over <= LONGEST_OVER:
        raise TargetError(f"over is from 0 to {LONGEST_OVER} seconds")
    return target, over


async def _tell_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Have every error be JSON, with one sentence."""
    from aiohttp import web

    try:
        return await handler(request)
    except UnknownTargetError as error:
        return _answer({"error": str(error)}, 404)
    except TargetError as error:
        return _answer({"error": str(error)}, 400)
    except SpliceproxyError as error:
        return _answer({"error": str(error)}, 409)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        text = f"{request.path} does not know {request.method}; use {allowed}"
        return _answer({"error": text}, 405)
    except web.HTTPNotFound:
        return _answer({"error": f"there is no {request.path}; try /v1/status"}, 404)
    except web.HTTPException as error:
        return _answer({"error": error.reason}, error.status)
    except Exception:
        _log.exception("a request at the door failed", path=request.path)
        return _answer({"error": "a mistake of spliceproxy; its log says more"}, 500)


def _answer(value: object, status: int = 200) -> web.Response:
    from aiohttp import web

    body = orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
    return web.Response(body=body, status=status, content_type="application/json")
