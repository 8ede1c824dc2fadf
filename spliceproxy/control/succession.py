"""The supervisor's place in a row of upgrades: whom it replaces, and who replaces it.

A process that was replaced stays until its own sessions and those of its predecessors have ended.
What its successor says, it passes on to its predecessor; so the whole row hears that it is to stop,
or that files were rotated, and the newest one knows how many sessions all of them have.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog

from spliceproxy.control.answering import WORDS, Answering
from spliceproxy.control.doors import Doors
from spliceproxy.control.draining import Draining
from spliceproxy.control.fleet import Fleet
from spliceproxy.control.handover import HandoverError, LeftBoard, Link
from spliceproxy.control.house import AdminPart
from spliceproxy.control.inherited import Predecessor
from spliceproxy.control.parts import InForce, Lasting, Part
from spliceproxy.control.record_streams import RecordStreams
from spliceproxy.control.service import Service
from spliceproxy.control.sessions import LiveSessions
from spliceproxy.control.sockets import ListeningSocket, tell_addresses
from spliceproxy.control.systemd import Notifier
from spliceproxy.control.upgrade import Successor, UpgradeError, command_line, legacy_of
from spliceproxy.errors import BindError

_log = structlog.get_logger()

_RETIRED_TIME = 5.0
"""Seconds for the queues of sockets that were given up, before and after."""
_COUNT_PAUSE = 1.0
"""Seconds between two looks at how many sessions are left."""


@dataclass(frozen=True, slots=True)
class Wing:
    """What changes hands in an upgrade."""

    service: Service
    fleet: Fleet
    notifier: Notifier
    parts: Sequence[Part]
    ordered: Sequence[Part]
    """Those, Lasting, that keep what somebody ordered: orders still come in during an upgrade."""
    doors: Doors
    admin: AdminPart | None
    boards: Callable[[bool], list[LeftBoard]]
    """What was counted, for a successor; told whether no process before this one is left."""
    reopen: Callable[[], None]
    """Open the files of session records anew."""
    reloading: asyncio.Lock
    """Held while the configuration changes."""
    in_force: Callable[[], InForce]
    patience: float
    """Seconds for a successor to be ready."""
    sessions: LiveSessions
    streams: RecordStreams
    draining: Draining
    """Whom a successor asks about this process and those before it."""


class Succession:
    """Takes over from a predecessor, and hands over to a successor."""

    def __init__(
        self,
        wing: Wing,
        predecessor: Predecessor | None,
        sockets: Sequence[ListeningSocket],
        stop: asyncio.Event,
        hurry: asyncio.Event,
    ) -> None:
        """`sockets` are all of this process; where there is a predecessor, the service gets them
        when it lets go. `stop` and `hurry` are set when a successor says so."""
        self._wing = wing
        self._predecessor = predecessor
        self._sockets = sockets
        self._stop = stop
        self._hurry = hurry
        self._tasks: list[asyncio.Task[None]] = []
        self._successor: Link | None = None
        self._upgrading: asyncio.Task[dict[str, int]] | None = None
        self._answering = Answering(wing.sessions, wing.streams, wing.draining)
        self.drain: float | None = None
        """What a successor that stops says of `timeouts.drain`."""
        self.serving = asyncio.Event()
        """Set when this process serves, and nobody before it does any more."""
        self.succeeded = asyncio.Event()
        """Set when a successor serves."""
        self.upgraded = asyncio.Event()
        """Set when it also has, or has emptied the queues of, all that it did not take."""
        self.older_gone = asyncio.Event()
        """Set when no predecessor is left."""
        if predecessor is None:
            self.serving.set()
            self.older_gone.set()

    @property
    def older_sessions(self) -> int:
        """Sessions that predecessors still have, as they said last."""
        return 0 if self._predecessor is None else self._predecessor.sessions

    def learn(self) -> None:
        """Let the parts know what the predecessor's knew; before they are applied."""
        for part in self._wing.parts if self._predecessor is not None else ():
            assert self._predecessor is not None
            knowledge = self._predecessor.knowledge(type(part).__name__)
            if isinstance(part, Lasting) and knowledge is not None:
                part.learn(knowledge)

    def _learn_again(self, old: Predecessor) -> None:
        """What somebody ordered meanwhile: the last that was done at the old process's doors."""
        with suppress(HandoverError):  # it died while it wrote: what was known before holds
            old.read_again()
        for part in self._wing.ordered:
            knowledge = old.knowledge(type(part).__name__)
            if isinstance(part, Lasting) and knowledge is not None:
                part.learn(knowledge)
                part.apply(self._wing.in_force())

    async def take_over(self) -> None:
        """Serve as soon as all workers are ready, and have the predecessor let go."""
        old = self._predecessor
        if old is None:
            return
        old.link.listen()
        await self._wing.fleet.ready.wait()
        try:
            old.let_in()
        except BindError as error:
            self.refuse(str(error))
            self._stop.set()
            return
        old.link.say("ready")
        if await old.link.hear() is None:
            # It did not wait for so long, and serves: or it is gone, and what it left is not known.
            _log.error("not taking over: the old process gave up, or it is gone")
            self._stop.set()
            return
        self._learn_again(old)
        self._wing.service.add(self._sockets, self._wing.fleet.workers())
        old.link.say("serving", taken=old.taken(), doors=old.taken_doors)
        yours = await old.link.hear()  # None: the old process is gone; it is ours all the same
        self._learn_again(old)
        old.own()
        if yours is not None:
            self._wing.sessions.older.begin(old.link, answers=yours.get("answers") is True)
        self._wing.doors.take()
        _log.info("took over: the process before this one ends after its sessions")
        tell_addresses("listening", self._sockets)
        self._tasks.append(asyncio.create_task(self._hear_old(old)))
        self.serving.set()

    def refuse(self, text: str) -> None:
        """This process cannot serve: a predecessor hears why."""
        if self._predecessor is not None:
            self._predecessor.link.refuse(text)

    async def upgrade(self) -> dict[str, int]:
        """Have a successor serve; its `pid`, and the `sessions` that are left to this process.

        Raises UpgradeError with a line for each problem; then nothing has changed.
        """
        refusal = self._why_not()
        if refusal:
            _log.error("not upgraded", problems=[refusal])
            raise UpgradeError(f"not upgraded: {refusal}")
        # A task of its own: who asked may be gone before it is done.
        self._upgrading = asyncio.create_task(self._upgrade())
        return await asyncio.shield(self._upgrading)

    def _why_not(self) -> str:
        """Why there is no upgrade now; empty: it is possible."""
        if os.getpid() == 1:
            return (
                "this process is PID 1, with which its container ends; "
                "replace the container by one of the new image"
            )
        if self.succeeded.is_set():
            return "another process serves since an upgrade"
        if self._upgrading is not None and not self._upgrading.done():
            return "an upgrade is under way"
        if not self.serving.is_set() or not self._wing.fleet.ready.is_set():
            return "this process itself is not ready; try again"
        return "the proxy is stopping" if self._stop.is_set() else ""

    async def _upgrade(self) -> dict[str, int]:
        wing = self._wing
        async with wing.reloading:
            _log.info("upgrading", command=command_line())
            wing.notifier.notify(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
            try:
                pid = await self._hand_over()
            except UpgradeError as error:
                wing.notifier.notify(READY=1)
                problems = str(error).splitlines()
                if self._stop.is_set():  # it was told to: nothing went wrong
                    _log.info("not upgraded", problems=problems)
                    raise UpgradeError(f"not upgraded: {error}") from None
                _log.error("not upgraded: this process goes on", problems=problems)
                raise UpgradeError(f"not upgraded, pid {os.getpid()} goes on:\n{error}") from None
        with suppress(TimeoutError):
            async with asyncio.timeout(_RETIRED_TIME):
                await wing.service.closed.wait()
        wing.service.close()
        sessions = wing.fleet.statistics().sessions
        _log.info("upgraded: another process serves", successor=pid, sessions=sessions)
        self.upgraded.set()
        return {"pid": pid, "sessions": sessions}

    async def _hand_over(self) -> int:
        """Have a successor serve, and let go; its pid. Raises UpgradeError."""
        wing = self._wing
        # What the last reload gave up may be wanted again.
        with suppress(TimeoutError):
            async with asyncio.timeout(_RETIRED_TIME):
                await wing.service.settled.wait()
        sockets = wing.service.sockets()
        successor = await Successor.call(
            lambda: legacy_of(
                sockets,
                wing.in_force(),
                wing.parts,
                wing.doors,
                wing.boards(self.older_gone.is_set()),
            ),
            wing.notifier.environment(),
            wing.patience,
            self._stop,
        )
        wing.notifier.notify(MAINPID=successor.pid, READY=1)
        wing.notifier.close()
        taken = [one for one in sockets if one.sock.fileno() in successor.taken]
        wing.service.hand_over(taken, wing.fleet.workers())
        if wing.admin is not None:
            await wing.admin.hand_over()
        wing.doors.give_up(successor.taken_doors)
        successor.let_go()
        self._successor = successor.link
        self.succeeded.set()
        wing.fleet.retire()
        self._tasks.append(asyncio.create_task(self._hear_new(successor.link)))
        self._tasks.append(asyncio.create_task(self._count(successor.link)))
        return successor.pid

    def reopen(self) -> None:
        """Have predecessors open their files anew."""
        if self._predecessor is not None:
            self._predecessor.link.say("reopen")

    def stop_older(self, drain: float | None) -> None:
        """Have predecessors end within so many seconds, None: without limit."""
        if self._predecessor is not None:
            self._predecessor.link.say("stop", drain=drain)

    def hurry_older(self) -> None:
        """Have predecessors end now."""
        if self._predecessor is not None:
            self._predecessor.link.say("hurry")

    def close(self) -> None:
        """Both neighbours hear that this process is gone."""
        for task in self._tasks:
            task.cancel()
        self._answering.close()
        if self._successor is not None:
            self._successor.close()
        if self._predecessor is not None:
            self._predecessor.close()
        if not self.serving.is_set():
            for one in self._sockets:
                one.close()

    async def _hear_old(self, old: Predecessor) -> None:
        while (said := await old.link.hear()) is not None:
            match said["say"]:
                case "sessions":
                    old.sessions = said["sessions"]
                case "answer":
                    self._wing.sessions.older.on_answer(said)
        old.sessions = 0
        self._wing.sessions.older.end()
        _log.info("the process before this one has ended")
        self.older_gone.set()

    async def _hear_new(self, new: Link) -> None:
        while (said := await new.hear()) is not None:
            match said["say"]:
                case "reopen":
                    self._wing.reopen()
                case "hurry":
                    self._hurry.set()
                    self._stop.set()
                case "stop":
                    self.drain = said["drain"]
                    self._stop.set()
                case word if word in WORDS:
                    self._answering.begin(new, said)
        # It ended, well or not: nobody could find or stop this process any more.
        self._stop.set()

    async def _count(self, new: Link) -> None:
        told = -1
        while True:
            sessions = self._wing.fleet.statistics().sessions + self.older_sessions
            if sessions != told and new.say("sessions", sessions=sessions):
                told = sessions
            await asyncio.sleep(_COUNT_PAUSE)
