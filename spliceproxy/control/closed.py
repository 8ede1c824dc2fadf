"""Listeners that somebody drained: their addresses are given up, and had again later.

What is in front of the proxy notices it as it notices a machine that is gone: the connect is
refused. Nobody is reset for it: the sockets are retired as those of a listener that left the
configuration, queue and all (`control/retire.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from typing import TYPE_CHECKING

from spliceproxy.control.addresses import Place, place_of
from spliceproxy.control.names import resolve_binds
from spliceproxy.control.opening import bind_sockets, close_sockets, let_in
from spliceproxy.control.parts import InForce
from spliceproxy.control.service import Service
from spliceproxy.control.sockets import ListeningSocket, tell_addresses
from spliceproxy.errors import SpliceproxyError

if TYPE_CHECKING:
    from spliceproxy.config import Address, Listener
    from spliceproxy.control.fleet import Fleet

_RETIRED_TIME = 5.0
"""Seconds for the queues of sockets that were given up just before."""


class ClosedListeners:
    """Gives up the addresses of listeners, and binds them again."""

    def __init__(
        self,
        service: Service,
        fleet: Fleet,
        workers: int,
        alone: Callable[[], AbstractAsyncContextManager[InForce]],
    ) -> None:
        """`alone()` keeps reloads away, and knows the configuration in force. It raises
        SpliceproxyError where nothing can be opened or closed any more."""
        self._service = service
        self._fleet = fleet
        self._workers = workers
        self._alone = alone
        self.names: set[str] = set()
        """The listeners that are closed. A name that left the configuration is kept: should it
        come back, it is still closed."""
        self._had: dict[tuple[str, Address], list[Place]] = {}
        """Which ports they had where any port would do."""

    async def close(self, names: Collection[str]) -> int:
        """Let no new client in by these listeners; how many were open.

        Raises SpliceproxyError where the address of one is not ours to give up; then nothing has
        changed.
        """
        async with self._alone():
            wanted = [name for name in names if name not in self.names]
            sockets = [one for one in self._service.sockets() if one.listener in wanted]
            for one in sockets:
                if one.handed:
                    raise SpliceproxyError(
                        f"listener/{one.listener}: systemd holds {one} and would go on queueing "
                        "clients; drain its pool, or stop its socket unit"
                    )
            for one in sockets:
                self._remember(one)
            self.names.update(wanted)
            tell_addresses("not listening any more", sockets)
            self._service.remove(sockets, self._fleet.workers())
            return len(wanted)

    async def open(self, names: Collection[str]) -> int:
        """Let clients in again by all of these listeners, or by none; how many were closed.

        Raises SpliceproxyError with one line for each address that was not to be had; then they
        stay closed.
        """
        async with self._alone() as in_force:
            wanted = self.names.intersection(names)
            config = in_force.config
            listeners = {name: one for name, one in config.listeners.items() if name in wanted}
            these = config.model_copy(update={"listeners": listeners, "pools": {}})
            places = await asyncio.to_thread(resolve_binds, these)
            with suppress(TimeoutError):
                async with asyncio.timeout(_RETIRED_TIME):
                    await self._service.settled.wait()
            sockets = self._bind(listeners.values(), places)
            self.names -= wanted
            self._had = {key: had for key, had in self._had.items() if key[0] in self.names}
            self._service.add(sockets, self._fleet.workers())
            tell_addresses("listening", sockets)
            return len(wanted)

    def recall(self, names: Iterable[str]) -> None:
        """Know these as closed: another process, whose sockets this one has, closed them. To be
        called before the first reload."""
        self.names.update(names)

    def _remember(self, one: ListeningSocket) -> None:
        address = one.address
        if address is not None and not address.port and not address.is_unix:
            places = self._had.setdefault((one.listener, address), [])
            place = place_of(one.sock)
            places += [] if place in places else [place]

    def _bind(
        self, listeners: Iterable[Listener], places: Mapping[Address, list[Place]]
    ) -> list[ListeningSocket]:
        """Sockets that let clients in; each listener is bound by itself, as to its ports."""
        bound: list[ListeningSocket] = []
        try:
            for one in listeners:
                here = {a: self._had.get((one.name, a), places[a]) for a in one.bind}
                bound += bind_sockets([one], here, self._workers)
            let_in(bound)
        except BaseException:
            close_sockets(bound)
            raise
        return bound
