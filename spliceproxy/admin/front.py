"""HTTP at the doors: aiohttp's parser, and nothing of its routing, behind a `Gate` each.

A request goes through it in this order: the gate (how much, how long), the parser, the reception
(who may ask what); then it is answered. Whatever goes wrong on the way is one sentence of JSON.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import aclosing, suppress
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from spliceproxy.admin.accepting import Acceptor
from spliceproxy.admin.api import Routes
from spliceproxy.admin.asking import Answer, Asked, AskError, Handler, Stream, wrong
from spliceproxy.admin.gate import BOUNDS, Bounds, Crowd, Gate
from spliceproxy.admin.guard import Entry, Tokens
from spliceproxy.admin.reception import Reception
from spliceproxy.control.doors import Door, Doors
from spliceproxy.control.draining import TargetError, UnknownTargetError
from spliceproxy.errors import SpliceproxyError
from spliceproxy.ipc.queries import QueryError

_log = structlog.get_logger()

_LONGEST_LINE = 8190
"""Bytes of a request line, or of one header."""
_LOOK, _LOOKS = 0.02, 25
"""Seconds between two looks whether those who are new were answered, and how many there are at the
most."""
_CLOSING = 1.0
"""Seconds that answers under way may take when the doors close."""
_FOR_EVER = 86400.0
"""Seconds: the gate closes connections, not the parser."""

_PARSER: dict[str, Any] = {
    "access_log": None,
    "auto_decompress": False,
    "keepalive_timeout": _FOR_EVER,
    "lingering_time": 0,
    "max_field_size": _LONGEST_LINE,
    "max_line_size": _LONGEST_LINE,
}
HEADERS = {
    "Server": "spliceproxy",
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every answer."""


class Front:
    """Serves the doors. To be used in a running event loop."""

    def __init__(
        self,
        routes: Mapping[Entry, Routes],
        tokens: Callable[[], Tokens],
        hosts: Collection[str],
        most: int,
        streams: int,
        bounds: Bounds = BOUNDS,
    ) -> None:
        """`tokens` are those in force, `hosts` the names of this machine. Each kind of door has
        `most` connections, of which `streams` may be answers without end."""
        self._reception = Reception(routes, tokens, hosts)
        self._crowds = {entry: Crowd(most) for entry in Entry}
        self._streams = streams
        self._bounds = bounds
        self._http = web.Server(self._serve)
        self._acceptors: list[Acceptor] = []
        # What is left to it is the tracebacks of those who do not speak HTTP.
        logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)

    def open(self, doors: Doors) -> None:
        """Answer at these doors; their sockets stay the caller's."""
        loop = asyncio.get_running_loop()
        for door in doors:
            entry = entry_of(door)

            def connection(entry: Entry = entry) -> Gate:
                inner = _Connection(self._http, loop=loop, **_PARSER)
                inner.entry = entry
                inner.gate = Gate(self._crowds[entry], inner, _raw_refusal, self._bounds)
                return inner.gate

            self._acceptors.append(Acceptor(door.sock, connection))
            _log.info("door open", address=str(door.place), metrics=door.metrics)

    async def hand_over(self) -> None:
        """Let nobody in any more: who comes meets the process that serves. Those who came just
        before are still answered, and what they order is done."""
        self._stop_accepting()
        for crowd in self._crowds.values():
            crowd.see_out()
        for _ in range(_LOOKS):
            if not any(one.busy for one in self._acceptors) and not any(
                crowd.new_ones for crowd in self._crowds.values()
            ):
                break
            await asyncio.sleep(_LOOK)
        self._reception.replaced = True
        self._send_home()

    async def close(self) -> None:
        """Let nobody in any more; answers under way get a second."""
        self._stop_accepting()
        self._send_home()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING):
                for crowd in self._crowds.values():
                    await crowd.empty.wait()
        for crowd in self._crowds.values():
            crowd.cut_off()
        await self._http.shutdown(0)

    def _stop_accepting(self) -> None:
        for acceptor in self._acceptors:
            acceptor.stop()

    def _send_home(self) -> None:
        for crowd in self._crowds.values():
            crowd.send_home()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, _Connection)
        gate = connection.gate
        try:
            handler, asked = await self._reception.admit(connection.entry, request)
            refused = None
        except AskError as error:
            refused = wrong(error.status, str(error))
        async with gate.answering():
            answer = await self._carry_out(handler, asked) if refused is None else refused
            if gate.unwanted.is_set() or not request.content.is_eof():
                gate.unwanted.set()  # what is left of the body would be taken for a request
            if isinstance(answer, Stream):
                response = await self._stream(request, answer, connection)
            else:
                response = await _send(request, answer, gate)
            if not response.keep_alive:
                await gate.part()
        return response

    async def _carry_out(self, handler: Handler, asked: Asked) -> Answer | Stream:
        """Have every error be JSON, with one sentence."""
        try:
            return await handler(asked)
        except AskError as error:
            return wrong(error.status, str(error))
        except UnknownTargetError as error:
            return wrong(404, str(error))
        except (TargetError, QueryError) as error:
            return wrong(400, str(error))
        except SpliceproxyError as error:
            return wrong(409, str(error))
        except Exception:
            _log.exception("a request at a door failed")
            return wrong(500, "a mistake of spliceproxy; its log says more")

    async def _stream(
        self, request: web.BaseRequest, stream: Stream, connection: _Connection
    ) -> web.StreamResponse:
        """Tell all that it tells, until it ends or nobody listens any more."""
        crowd, gate = self._crowds[connection.entry], connection.gate
        if crowd.streams >= self._streams:
            stream.close()
            return await _send(request, wrong(429, "there are too many streams; try later"), gate)
        crowd.streams += 1
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": stream.content_type})
        response.force_close()
        await response.prepare(request)
        telling = asyncio.create_task(_tell_all(response, stream))
        unwanted = asyncio.create_task(gate.unwanted.wait())
        try:
            await asyncio.wait((telling, unwanted), return_when=asyncio.FIRST_COMPLETED)
        finally:
            crowd.streams -= 1
            stream.close()
            for task in (telling, unwanted):
                task.cancel()
        with suppress(asyncio.CancelledError, ConnectionError):
            await telling
        await response.write_eof()
        return response


class _Connection(web.RequestHandler):
    """aiohttp's side of one connection."""

    gate: Gate
    entry: Entry

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - aiohttp's signature
        status: int = 500,  # noqa: ARG002
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        """What the parser does not take, told in our words."""
        if isinstance(exc, LineTooLong):
            answer = wrong(413, f"a line of a request has {_LONGEST_LINE} bytes at the most")
        else:
            answer = wrong(400, "this is not HTTP as it is understood here")
        response = _response(answer)
        response.force_close()
        return response


def entry_of(door: Door) -> Entry:
    """Which kind of door it is. What counts is where it listens, not who comes."""
    if door.metrics:
        return Entry.METRICS
    if door.is_unix:
        return Entry.UNIX
    return Entry.LOOPBACK if door.is_loopback else Entry.ELSEWHERE


def _response(answer: Answer) -> web.Response:
    headers = {**HEADERS, **answer.headers, "Content-Type": answer.content_type}
    if answer.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return web.Response(body=answer.body, status=answer.status, headers=headers)


async def _send(request: web.BaseRequest, answer: Answer, gate: Gate) -> web.StreamResponse:
    """Write an answer, as fast as it is read."""
    response = _response(answer)
    if gate.unwanted.is_set():
        response.force_close()
    await response.prepare(request)
    await response.write_eof()
    return response


async def _tell_all(response: web.StreamResponse, stream: Stream) -> None:
    async with aclosing(stream.lines) as lines:
        async for line in lines:
            await response.write(line)


def _raw_refusal(status: int, text: str) -> bytes:
    """A whole answer, for where no request was read."""
    answer = wrong(status, text)
    phrase = {408: "Request Timeout", 413: "Content Too Large", 503: "Service Unavailable"}[status]
    headers: dict[str, Any] = {
        **HEADERS,
        "Content-Type": answer.content_type,
        "Content-Length": len(answer.body),
        "Connection": "close",
    }
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {headers[name]}" for name in headers)]
    return "\r\n".join([*lines, "", ""]).encode() + answer.body
