"""What is in force, and what puts something else in its place: reloads, and what is found.

One at a time, by one lock, which whoever opens or closes listeners takes as well. The parts hear of
each change in their order, once the workers obey it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import structlog

from spliceproxy.control.discovery.changes import tell_empty
from spliceproxy.control.parts import InForce, Part
from spliceproxy.control.reload import Reloader, Setup
from spliceproxy.control.systemd import Notifier
from spliceproxy.errors import SpliceproxyError
from spliceproxy.telemetry.board import Upstreams

_log = structlog.get_logger()


class Changes:
    """Holds `in_force`, and is the only one that replaces it."""

    def __init__(
        self,
        in_force: InForce,
        reloader: Reloader,
        setup: Setup,
        parts: Sequence[Part],
        upstreams: Upstreams,
        notifier: Notifier,
        refusal: Callable[[], str],
    ) -> None:
        """`parts` may grow until the first change. `refusal` says why there can be no change any
        more, or nothing."""
        self.in_force = in_force
        self.lock = asyncio.Lock()
        """Whoever has it keeps changes away."""
        self.reloaded = True, time.time()
        """Whether the last reload was put in force, and when the last one was that was, in seconds
        since the epoch; the start is the first."""
        self._reloader = reloader
        self._setup = setup
        self._parts = parts
        self._upstreams = upstreams
        self._notifier = notifier
        self._refusal = refusal
        self._wanted = asyncio.Event()

    def reload_soon(self) -> None:
        """Have `reload_when_wanted` reload."""
        self._wanted.set()

    async def reload_when_wanted(self) -> None:
        """Reload after each `reload_soon`, without end; those that come meanwhile are one more."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            with suppress(SpliceproxyError):  # it is in the log
                await self.reload()

    async def reload(self) -> list[str]:
        """Put the configuration in force as it is now in its file; what differs, in lines.

        Raises SpliceproxyError with a line for each problem; then nothing has changed.
        """
        async with self.lock:
            if refusal := self._refusal():
                _log.warning(f"not reloaded: {refusal}")
                raise SpliceproxyError(f"not reloaded: {refusal}")
            began = time.monotonic()
            self._notifier.notify(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
            try:
                in_force, lines = await self._reloader.reload(self.in_force)
            except SpliceproxyError as error:
                _log.error("not reloaded: nothing has changed", problems=str(error).splitlines())
                self.reloaded = False, self.reloaded[1]
                self._setup.discovery.apply(self.in_force)
                self._setup.access.apply(self.in_force)
                self._setup.certificates.apply(self.in_force)
                raise
            finally:
                self._notifier.notify(READY=1)
            self._obey(in_force)
            self.reloaded = True, time.time()
            tell_empty(in_force)
            milliseconds = round((time.monotonic() - began) * 1000, 1)
            _log.info("reloaded", changes=lines or ["nothing changed"], milliseconds=milliseconds)
            return lines

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[InForce]:
        """While nothing changes. Raises SpliceproxyError where nothing can any more."""
        async with self.lock:
            if refusal := self._refusal():
                raise SpliceproxyError(f"not done: {refusal}")
            yield self.in_force

    async def refresh(self) -> InForce:
        """Put in force what is set beside the configuration; to be called within `alone`. Returns
        what is in force now. Raises SpliceproxyError; then nothing has changed."""
        before = self.in_force
        try:
            in_force = await self._reloader.refresh("upstreams changed", before)
        except SpliceproxyError:
            self._forget_slots()
            raise
        if in_force is not before:
            self._obey(in_force)
        return in_force

    async def find_upstreams(self, stop: asyncio.Event) -> None:
        """Wait a little for names and lists, so that the workers begin with what they tell; no
        longer than until `stop`."""
        finding = asyncio.create_task(self._setup.discovery.prepare(self.in_force.config))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((finding, stopping), return_when=asyncio.FIRST_COMPLETED)
            if finding.done():
                await finding
        finally:
            finding.cancel()
            stopping.cancel()
            await asyncio.gather(finding, stopping, return_exceptions=True)
        await self._refresh("upstreams found")
        tell_empty(self.in_force)

    async def follow(self, changed: asyncio.Event) -> None:
        """Put in force what was found or read, whenever it is something else."""
        while True:
            await changed.wait()
            async with self.lock:
                before = self.in_force
                await self._refresh("upstreams changed")
                if self.in_force is not before:
                    self._obey(self.in_force)

    async def _refresh(self, event: str) -> None:
        self._setup.discovery.changed.clear()
        self._setup.access.changed.clear()
        self._setup.certificates.changed.clear()
        self._setup.log_level.changed.clear()
        try:
            self.in_force = await self._reloader.refresh(event, self.in_force)
        except SpliceproxyError as error:
            _log.error("upstreams that were found cannot be used", problem=str(error))
            self._forget_slots()

    def _obey(self, in_force: InForce) -> None:
        """Have all parts follow what the workers obey already."""
        self.in_force = in_force
        for part in self._parts:
            part.apply(in_force)
        self._forget_slots()

    def _forget_slots(self) -> None:
        kept = {(pool.name, upstream.name) for pool, upstream in self.in_force.upstreams()}
        kept |= {(pool.name, "") for pool in self.in_force.snapshot.pools}  # also of empty ones
        self._setup.slots.forget(kept, self._upstreams)
