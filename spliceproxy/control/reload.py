"""A new configuration for a running proxy: all of it, or nothing.

Everything that may fail comes first: the file is read, names are looked up, new addresses are
bound. Then the workers are told, in one step each: the snapshot, then the new sockets. A socket
whose address stays is kept, with its queue, also where its listener has another name now; one whose
address is gone is retired, so that nobody who waits in it is reset. Sessions keep what they have.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from spliceproxy.config import difference, keep_what_needs_a_restart, needs_restart
from spliceproxy.config.address import overlap
from spliceproxy.control.access import AccessTables
from spliceproxy.control.discovery import Discovery
from spliceproxy.control.discovery.changes import tell_changes
from spliceproxy.control.file_watch import Sources
from spliceproxy.control.log_level import LogLevel
from spliceproxy.control.machine import Machine
from spliceproxy.control.names import Places, resolve_binds
from spliceproxy.control.opening import bind_sockets, close_sockets, let_in
from spliceproxy.control.parts import InForce
from spliceproxy.control.plan import make_snapshot, plan_listeners, plan_pools
from spliceproxy.control.plan_weights import SetWeights
from spliceproxy.control.pool_options import find_pool_problems
from spliceproxy.control.records import find_record_problems
from spliceproxy.control.service import Service
from spliceproxy.control.slots import UpstreamSlots
from spliceproxy.control.sockets import ListeningSocket, socket_key, tell_addresses
from spliceproxy.control.tls import Certificates
from spliceproxy.errors import SpliceproxyError
from spliceproxy.ipc import Snapshot
from spliceproxy.ipc.sealed import seal

if TYPE_CHECKING:
    from spliceproxy.config import Config
    from spliceproxy.control.fleet import Fleet

_log = structlog.get_logger()

_CONFIGURED_TIME = 5.0
"""Seconds for the workers to say that they obey; a silent one is about to be replaced anyway."""

_RETIRED_TIME = 5.0
"""Seconds for the queues of sockets that the reload before gave up."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a reload needs that the start knew, and that never changes."""

    load: Callable[[], Config] | None
    """Read the configuration again. Raises SpliceproxyError. None: there is no file."""
    machine: Machine
    workers: int
    slots: UpstreamSlots
    discovery: Discovery
    access: AccessTables
    certificates: Certificates
    log_level: LogLevel
    weights: SetWeights
    sources: Sources | None = None
    """Which files a configuration is read from; None: none."""
    watch: bool = False
    """Whether there is a reload whenever one of them is another one."""

    def files(self, config: Config) -> list[Path]:
        """Those of this configuration that are there."""
        sources = () if self.sources is None else self.sources(config)
        return [path for path in dict.fromkeys(sources) if path.is_file()]


@dataclass(frozen=True, slots=True)
class _Sockets:
    """The listening sockets of the new configuration, seen from the old one."""

    kept: list[ListeningSocket]
    names: dict[int, str]
    """Number of a kept socket → the name of its listener now."""
    gone: list[ListeningSocket]
    new: list[ListeningSocket]


class Reloader:
    """Carries out reloads, one at a time."""

    def __init__(
        self,
        setup: Setup,
        service: Service,
        fleet: Fleet,
        sealed: int,
        closed: Collection[str] = (),
    ) -> None:
        """`sealed` is the fd of the snapshot that the fleet has, which is the reloader's now.

        `closed` holds the names of listeners that somebody drained, at any time."""
        self._setup = setup
        self._service = service
        self._fleet = fleet
        self._sealed = sealed
        self._closed = closed

    async def reload(self, in_force: InForce) -> tuple[InForce, list[str]]:
        """Read the configuration and put it in force. Returns it, and what differs, in lines.

        Raises SpliceproxyError with one line for each problem; then nothing has changed.
        """
        setup = self._setup
        if setup.load is None:
            raise SpliceproxyError("nothing to reload: the configuration is not from a file")
        config = await asyncio.to_thread(setup.load)
        old = in_force.config
        lines = difference(old, config)
        fixed = needs_restart(old, config)
        config = keep_what_needs_a_restart(old, config)
        if fixed:
            _log.warning("these keys need spliceproxy upgrade, and stay as they are", keys=fixed)
        if config == old:
            return in_force, lines
        places = await asyncio.to_thread(resolve_binds, config)
        if self._wants_back(config):
            await _wait(self._service.settled, _RETIRED_TIME)
        await setup.access.prepare(config)
        await setup.certificates.prepare(config)
        await setup.discovery.prepare(config)
        sockets = self._open(config, places)
        try:
            snapshot = make_snapshot(
                config,
                setup.discovery.found(config),
                setup.machine,
                setup.workers,
                len(sockets.kept) + len(sockets.gone) + len(sockets.new),
                setup.slots,
                setup.access.tables(config),
                setup.certificates.plans(config),
                setup.weights,
                setup.log_level.after(config),
            )
            self._fleet.make_room(snapshot)
            sealed = seal(snapshot)
        except BaseException:
            close_sockets(sockets.new)
            raise
        after = InForce(config, snapshot)
        await self._put_in_force(old, after, sockets, sealed)
        return after, lines

    async def refresh(self, event: str, in_force: InForce) -> InForce:
        """Put in force what the same configuration stands for now, and what somebody set beside it;
        the log calls the upstreams `event`.

        Raises TooManyUpstreamsError; then nothing has changed.
        """
        setup, config = self._setup, in_force.config
        tls = setup.certificates.plans(config)
        found = setup.discovery.found(config)
        pools = plan_pools(config, found, setup.slots, tls, setup.weights)
        listeners = plan_listeners(config, setup.slots, setup.access.tables(config), tls)
        before, level = in_force.snapshot, setup.log_level.level
        snapshot = replace(before, pools=pools, listeners=listeners, log_level=level)
        if snapshot == before:
            return in_force
        after = InForce(config, snapshot)
        self._fleet.make_room(after.snapshot)
        sealed = seal(after.snapshot)
        self._fleet.configure(sealed)
        tell_changes(event, in_force, after, setup.discovery)
        await self._obeyed(sealed)
        _tell_files(before, after.snapshot)
        return after

    def close(self) -> None:
        """Close the snapshot."""
        os.close(self._sealed)

    def _wants_back(self, config: Config) -> bool:
        """Whether an address is wanted that the last reload gave up, and that is still in use."""
        given_up = [one.address for one in self._service.retiring() if one.address is not None]
        return any(
            overlap(wanted, address)
            for listener in config.listeners.values()
            for wanted in listener.bind
            for address in given_up
        )

    def _open(self, config: Config, places: Places) -> _Sockets:
        """Bind what is new, and let its clients in: they wait until the workers were told.

        What is drained stays closed.
        """
        listeners = [one for one in config.listeners.values() if one.name not in self._closed]
        wanted = {
            socket_key(address, listener.name): listener
            for listener in listeners
            for address in listener.bind
        }
        kept, gone, names = [], [], {}
        by_name, covered = set(), set()
        for one in self._service.sockets():
            if one.address is None:
                listener = config.listeners.get(one.listener)
                by_name.add(one.listener)
            else:
                key = socket_key(one.address, one.listener)
                listener = wanted.get(key)
                covered.add(key)
            if listener is None:
                gone.append(one)
            else:
                kept.append(one)
                names[one.number] = listener.name
        fresh = []
        for listener in listeners:
            missing = [a for a in listener.bind if socket_key(a, listener.name) not in covered]
            if missing and listener.name not in by_name:
                fresh.append(listener.model_copy(update={"bind": tuple(missing)}))
        problems = [*find_pool_problems(config.pools.values()), *find_record_problems(config)]
        new = bind_sockets(fresh, places, self._setup.workers, (), problems)
        try:
            let_in(new)
        except BaseException:
            close_sockets(new)
            raise
        return _Sockets(kept, names, gone, new)

    async def _put_in_force(
        self, old: Config, after: InForce, sockets: _Sockets, sealed: int
    ) -> None:
        service, fleet = self._service, self._fleet
        fleet.configure(sealed)
        workers = list(fleet.workers())
        for one in sockets.kept:
            name = sockets.names[one.number]
            before, now = old.listeners.get(one.listener), after.config.listeners[name]
            if before is None or before.tcp != now.tcp:
                one.follow(now)
            if name != one.listener:
                service.rename(one, name, workers)
        service.add(sockets.new, workers)
        tell_addresses("not listening any more", sockets.gone)
        service.remove(sockets.gone, workers)
        tell_addresses("listening", sockets.new)
        await self._obeyed(sealed)

    async def _obeyed(self, sealed: int) -> None:
        """Wait until the workers obey the snapshot that they were told of, and close the last."""
        if not await _wait(self._fleet.configured, _CONFIGURED_TIME):
            _log.warning("a worker is slow to obey the new configuration")
        before, self._sealed = self._sealed, sealed
        os.close(before)


def _tell_files(before: Snapshot, after: Snapshot) -> None:
    """Log what the files that were followed have changed."""
    for old, new in zip(before.listeners, after.listeners, strict=True):
        if new.tls != old.tls:
            _log.info("certificates changed", listener=new.name)
        if new.access != old.access:
            _log.info("access changed", listener=new.name)
    for one, other in zip(before.pools, after.pools, strict=True):
        if one.tls != other.tls:
            _log.info("certificates changed", pool=one.name)


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    """Whether the event came within `seconds`."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
