"""The admin server as a part of the supervisor."""

from __future__ import annotations

import asyncio
import resource
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import structlog

from spliceproxy.admin.tokens import TokenFiles
from spliceproxy.admin.traffic import Traffic
from spliceproxy.control.doors import Door, Doors
from spliceproxy.control.house import House
from spliceproxy.control.parts import InForce

if TYPE_CHECKING:
    from spliceproxy.admin.front import Front
    from spliceproxy.config import Config

_log = structlog.get_logger()

MOST_CONNECTIONS = 256
MOST_STREAMS = 16
"""Of each kind of door."""
_FD_SHARE = 16
"""One kind of door may have one of so many fds: health checks and workers need theirs."""
_STREAMS_FD_SHARE = 64
"""The same of its streams, each of which has an fd for each worker."""


class Admin:
    """Serves the doors, in the supervisor's event loop. An AdminPart."""

    def __init__(self, config: Config, doors: Doors) -> None:
        """The sockets stay the caller's. Raises TokenError."""
        self._doors = doors
        self._tokens = TokenFiles(config)
        for warning in self._tokens.warnings():
            _log.warning("a token can be read by others", problem=warning)
        named = () if config.admin is None else config.admin.hosts
        self._hosts = frozenset((*named, *_names_of_this_machine()))
        self._upstream_series = config.metrics.upstreams
        self._house: House
        self._traffic: Traffic
        self._opening: asyncio.Task[Front] | None = None
        self._over = False
        """Whether it was closed: a process that was upgraded follows its configuration on."""

    def move_in(self, house: House) -> None:
        """Know what to tell of; called once, before anything else."""
        self._house = house
        self._traffic = Traffic(house, upstream_labels=self._upstream_series)

    def apply(self, in_force: InForce) -> None:
        """Tell of this configuration. Open the doors the first time: when they are ours."""
        if self._over or not self._doors.all:
            return
        self._traffic.apply(in_force)
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(_tell_failure)

    async def close(self) -> None:
        """Let nobody in any more; answers under way get a second."""
        self._over = True
        if self._opening is not None and not self._doors.ours.is_set():
            self._opening.cancel()
        if (front := await self._opened()) is not None:
            await front.close()
        self._opening = None
        await self._traffic.close()

    async def hand_over(self) -> None:
        """Let nobody in any more; the answers under way go on, that to `upgrade` among them."""
        if (front := await self._opened()) is not None:
            await front.hand_over()

    def knowledge(self) -> dict[str, str]:
        """The write token that was made here: who has it keeps it over an upgrade."""
        return {"write_token": self._tokens.made}

    def learn(self, knowledge: dict[str, str]) -> None:
        """Have the token that another process made."""
        self._tokens.made = knowledge["write_token"]

    async def _opened(self) -> Front | None:
        """The front, once the doors are open; None where they are not, or will not be."""
        if self._opening is None:
            return None
        await asyncio.wait((self._opening,))
        failed = self._opening.cancelled() or self._opening.exception() is not None
        return None if failed else self._opening.result()

    async def _open(self) -> Front:
        # A fifth of a second, which a proxy without a door does not need.
        from spliceproxy.admin.api import make_routes
        from spliceproxy.admin.front import Front

        await self._doors.ours.wait()
        nofile, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        front = Front(
            make_routes(self._house, self._traffic, self._tell_token),
            self._tokens.now,
            self._hosts,
            min(MOST_CONNECTIONS, nofile // _FD_SHARE),
            max(1, min(MOST_STREAMS, nofile // _STREAMS_FD_SHARE // self._house.board.workers)),
        )
        front.open(self._doors)
        return front

    def _tell_token(self) -> dict[str, Any]:
        """The write token, and where a browser can bring it."""
        urls = [url for door in self._doors for url in _urls(door)]
        return {"write": self._tokens.now().write.decode(), "urls": urls}


def _tell_failure(opening: asyncio.Task[Front]) -> None:
    if not opening.cancelled() and (error := opening.exception()) is not None:
        _log.error("nobody serves the doors", exc_info=error)


def _names_of_this_machine() -> list[str]:
    name = socket.gethostname().lower()
    return [name, name.partition(".")[0]]


def _urls(door: Door) -> list[str]:
    """What a browser can be told; one that listens everywhere has the loopback address too."""
    place = door.place
    if door.metrics or door.is_unix:
        return []
    if not ip_address(place.host).is_unspecified:
        return [f"http://{place}/"]
    loopback = "[::1]" if place.family == socket.AF_INET6 else "127.0.0.1"
    return [f"http://{host}:{place.port}/" for host in (loopback, socket.gethostname())]
