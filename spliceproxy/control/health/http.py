"""The check `http`: one GET, judged by the status of its response, and by its body if wanted."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from spliceproxy import __version__
from spliceproxy.config.units import regular_expression
from spliceproxy.control.addresses import Place
from spliceproxy.control.health.connection import Dial, Farewell
from spliceproxy.control.health.stream import TlsStream, context_of
from spliceproxy.control.health.tunnel import Tunnel
from spliceproxy.control.health.verdict import CheckFailedError, Passed, explain, quote

if TYPE_CHECKING:
    from spliceproxy.config import PoolHealth
    from spliceproxy.ipc import PoolTlsPlan

_MOST = 1024 * 1024
"""Bytes of a body that are read; `expect` is looked for in them. A longer response is cut off."""
_CHUNK = 65536


class _Dialling(aiohttp.BaseConnector):
    """Takes the connection that somebody else makes, who can send something before the request.

    What is overridden, and `_factory`, are as aiohttp's own connectors have them.
    """

    def __init__(self, dial: Callable[[], Awaitable[socket.socket]]) -> None:
        super().__init__(force_close=True)
        self._dial = dial

    async def _create_connection(
        self, req: aiohttp.ClientRequest, *_traces_and_timeout: object
    ) -> ResponseHandler:
        try:
            sock = await self._dial()
        except OSError as error:
            raise aiohttp.ClientConnectorError(req.connection_key, error) from error
        try:
            loop = asyncio.get_running_loop()
            _transport, protocol = await loop.create_connection(self._factory, sock=sock)
        except BaseException:
            sock.close()
            raise
        return protocol


def _named(place: Place, name: str | None) -> str:
    """The Host that goes with a name: servers refuse one that is not what TLS was asked for (421,
    RFC 9110, section 15.5.20)."""
    if name is None or name == place.host:
        return "localhost" if place.family == socket.AF_UNIX else str(place)
    host = f"[{name}]" if ":" in name else name
    return f"{host}:{place.port}" if place.port not in (0, 443) else host


class HttpCheck:
    """GET over HTTP/1.1, without keep-alive and without following redirects."""

    def __init__(self, health: PoolHealth, dial: Dial, farewell: Farewell) -> None:
        self._health = health
        self._dial = dial
        self._farewell = farewell
        self._expect = regular_expression(health.expect) if health.expect else None
        self._session: aiohttp.ClientSession | None = None
        self._context: ssl.SSLContext | None = None

    async def check(self, place: Place, name: str | None) -> Passed:
        """See `Check`."""
        try:
            if self._dial.tls is not None:
                return await self._check_by_tls(self._dial.tls, place, name)
            if self._dial.send_proxy is not None:
                connector = _Dialling(partial(self._dial.connect, place))
                async with self._new_session(connector) as session:
                    return Passed(await self._get(session, _named(place, None)))
            if place.family == socket.AF_UNIX:
                assert isinstance(place.address, str | bytes)
                unix = aiohttp.UnixConnector(place.address, force_close=True)  # type: ignore[arg-type]
                async with self._new_session(unix) as session:
                    return Passed(await self._get(session, "localhost"))
            if self._session is None:
                self._session = self._new_session(
                    aiohttp.TCPConnector(
                        force_close=True,
                        limit=0,
                        use_dns_cache=False,
                        socket_factory=lambda info: self._dial.open(info[0]),
                    )
                )
            return Passed(await self._get(self._session, str(place)))
        except aiohttp.ClientConnectorError as error:
            raise error.os_error from None
        except aiohttp.ServerDisconnectedError:
            raise CheckFailedError("closed without a response") from None
        except aiohttp.ClientOSError as error:
            raise CheckFailedError(explain(error)) from None
        except aiohttp.ClientPayloadError:
            raise CheckFailedError("closed within the response") from None
        except aiohttp.ClientError as error:
            said = getattr(error, "message", "") or type(error).__name__
            line = said.splitlines()[0].rstrip(":")
            raise CheckFailedError(f"no HTTP response: {line}") from None

    async def _check_by_tls(self, tls: PoolTlsPlan, place: Place, name: str | None) -> Passed:
        self._context = self._context or context_of(tls, "http/1.1")
        sock = await self._dial.connect(place)
        try:
            stream = TlsStream(sock, self._context, name)
            try:
                await stream.shake_hands()
                how = await self._get_through(Tunnel(stream), _named(place, name))
                return Passed(how, stream.expires())
            finally:
                stream.say_end()
        finally:
            self._farewell.say(sock)

    async def _get_through(self, tunnel: Tunnel, authority: str) -> str:
        try:
            async with self._new_session(_Dialling(tunnel.take)) as session:
                return await self._get(session, authority)
        except aiohttp.ClientError:
            if tunnel.failure is not None:
                raise tunnel.failure from None
            raise
        finally:
            await tunnel.close()

    async def close(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    @staticmethod
    def _new_session(connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def _get(self, session: aiohttp.ClientSession, authority: str) -> str:
        headers = {
            "Host": self._health.host or authority,
            "User-Agent": f"spliceproxy/{__version__} (health check)",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
        }
        url = URL(f"http://{authority}{self._health.path}", encoded=True)
        async with session.get(url, headers=headers, allow_redirects=False) as response:
            body = bytearray()
            async for chunk in response.content.iter_chunked(_CHUNK):
                body += chunk
                if len(body) >= _MOST:
                    break
        if not any(low <= response.status <= high for low, high in self._health.status):
            raise CheckFailedError(f"status {response.status}")
        if self._expect is not None and not self._expect.search(body):
            assert self._health.expect is not None
            wanted = quote(self._health.expect.encode(errors="surrogateescape"))
            raise CheckFailedError(f"status {response.status}, but no {wanted} in its body")
        # aiohttp closes the socket in the loop's next turn.
        await asyncio.sleep(0)
        return f"status {response.status}"
