"""From a request of HTTP to what is asked: who comes, to which path, with which words and body."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from urllib.parse import parse_qs

from aiohttp import HttpVersion10, HttpVersion11, web

from spliceproxy.admin.api import Route, Routes
from spliceproxy.admin.asking import Asked, AskError, Handler, unknown
from spliceproxy.admin.guard import Claims, Entry, Need, Tokens, may_write, refusal

MOST_BODY = 64 * 1024
"""Bytes of one order."""
_MOST_WORDS = 1100
"""Parameters of one request."""
_SHOWN = 60
"""Characters of what was asked that an error shows."""


class Reception:
    """Decides which requests are heard."""

    def __init__(
        self,
        routes: Mapping[Entry, Routes],
        tokens: Callable[[], Tokens],
        hosts: Collection[str],
    ) -> None:
        """`tokens` are those in force, `hosts` the names of this machine."""
        self._routes = routes
        self._tokens = tokens
        self._hosts = hosts
        self.replaced = False
        """Whether another process serves, and nothing is heard here any more."""

    async def admit(self, entry: Entry, request: web.BaseRequest) -> tuple[Handler, Asked]:
        """Who is to answer, and what is asked. How long a body takes is the gate's concern.

        Raises AskError. Who may not come in learns that alone, whatever else is wrong.
        """
        if request.version not in (HttpVersion10, HttpVersion11):
            raise AskError("this is not HTTP/1.1")
        path, _, query = request.raw_path.partition("?")
        if not path.startswith("/"):
            raise AskError("a request names a path, which begins with /")
        routes = self._routes[entry]
        found = routes.find(path)
        claims, tokens = _claims(request), self._tokens()
        need = Need.READ if found is None else found[0].need
        if (refused := refusal(entry, need, claims, tokens, self._hosts)) is not None:
            raise AskError(refused.text, refused.status)
        if found is None:
            raise AskError(f"there is no {_short(path)} here; try {routes.first}", 404)
        route, name = found
        if request.method not in route.methods:
            allowed = ", ".join(route.methods)
            raise AskError(f"{path} does not know {_short(request.method)}; use {allowed}", 405)
        words = _words(query, route)
        body = await _body(request, wanted=route.need is Need.WRITE)
        if self.replaced:
            raise AskError("another process serves since an upgrade; ask again", 503)
        accept = request.headers.get("Accept", "")
        return route.handler, Asked(name, words, body, accept, may_write(entry, claims, tokens))


def _claims(request: web.BaseRequest) -> Claims:
    headers = request.headers
    return Claims(
        host=headers.getall("Host", []),
        origin=headers.getall("Origin", []),
        fetch_site=headers.getall("Sec-Fetch-Site", []),
        authorization=headers.getall("Authorization", []),
    )


def _words(query: str, route: Route) -> Mapping[str, list[str]]:
    """The parameters of a request. Raises AskError."""
    if not query:
        return {}
    try:
        words = parse_qs(
            query,
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=_MOST_WORDS,
        )
    except ValueError:
        raise AskError("what stands behind ? makes no sense; write name=value&name=value") from None
    for word in words:
        if word not in route.parameters:
            raise AskError(f"parameter: {unknown(_short(word), sorted(route.parameters))}")
    return words


async def _body(request: web.BaseRequest, *, wanted: bool) -> bytes:
    """All of the body. Raises AskError."""
    if not wanted:
        if request.body_exists:
            raise AskError(f"{request.method} has no body here")
        return b""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise AskError("a body is sent as it is, not encoded")
    too_large = AskError(f"an order has {MOST_BODY} bytes at the most", 413)
    if (request.content_length or 0) > MOST_BODY:
        raise too_large
    body = bytearray()
    try:
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > MOST_BODY:
                raise too_large
    except web.RequestPayloadError:
        raise AskError("the body is broken") from None
    return bytes(body)


def _short(word: str) -> str:
    shown = "".join(char if char.isprintable() else "?" for char in word[:_SHOWN])
    return shown if len(word) <= _SHOWN else f"{shown}…"
