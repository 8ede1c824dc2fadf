"""An upgrade as the old process sees it: it calls a successor, hands over, and lets sessions end.

1. The new program is started with the same command line, on the inherited sockets. Until it serves,
   nothing here changes: if it fails, is silent, or this process is told to stop, it is ended, and
   this one goes on.
2. The successor's workers are ready, and it serves. Both accept from the same queues for a moment.
3. This process lets go: its workers stop accepting, the service manager and the doors change hands,
   and the sockets that the successor did not take are retired as at a reload.
4. Its workers' sessions end when they like, without limit. It stays for them, and passes on what
   its successor says to its own predecessors, until the last one is gone.

The successor is not a child of this process: whoever adopts orphans (systemd, or another init)
hears of its end, now and after this process has ended.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from spliceproxy.control.doors import Doors
from spliceproxy.control.handover import (
    VARIABLE,
    LeftBoard,
    LeftDoor,
    LeftSocket,
    Legacy,
    Link,
    Said,
)
from spliceproxy.control.parts import InForce, Lasting, Part
from spliceproxy.control.sockets import ListeningSocket, socket_key
from spliceproxy.errors import SpliceproxyError

_log = structlog.get_logger()

_END_TIME = 5.0
"""Seconds that a successor which is not wanted any more has to end by itself."""
_SIGNALS = (signal.SIGTERM, signal.SIGKILL)

_START = """
import os, sys
link, command = int(sys.argv[1]), sys.argv[2:]
if os.fork():
    os._exit(0)
try:
    os.write(link, b'{"say":"started","pid":%d}' % os.getpid())
except OSError:
    os._exit(0)  # nobody waits any more
try:
    os.execvp(command[0], command)
except OSError as error:
    import json
    problem = f"{command[0]}: {error.strerror}"
    os.write(link, json.dumps({"say": "failed", "problems": [problem]}).encode())
    os._exit(127)
"""
"""A program whose only child is left to init, and becomes the command."""


class UpgradeError(SpliceproxyError):
    """No successor serves; nothing has changed."""


def command_line() -> list[str]:
    """What starts the program as this process was started.

    A script is started by its own path, so that a new version with another interpreter is found
    behind it; everything else by this interpreter.
    """
    script = Path(sys.argv[0])
    if script.is_file() and os.access(script, os.X_OK):
        return [str(script.absolute()), *sys.argv[1:]]
    return [sys.executable, *sys.orig_argv[1:]]


def legacy_of(
    sockets: Sequence[ListeningSocket],
    in_force: InForce,
    parts: Sequence[Part],
    doors: Doors,
    boards: Sequence[LeftBoard],
) -> Legacy:
    """All that there is to be left."""
    listeners = in_force.config.listeners
    return Legacy(
        [
            LeftSocket(
                fd=one.sock.fileno(),
                listener=one.listener,
                key=None if one.address is None else [*socket_key(one.address, one.listener)],
                owner=one.owner,
                backlog=one.backlog,
                handed=one.handed,
                file=one.file is not None,
                tcp=listeners[one.listener].tcp.model_dump(mode="json"),
            )
            for one in sockets
        ],
        [LeftDoor(door.fd, door.key) for door in doors],
        list(boards),
        {type(part).__name__: part.knowledge() for part in parts if isinstance(part, Lasting)},
    )


class Successor:
    """The process that is to replace this one, or did."""

    def __init__(self, link: Link, legacy: Callable[[], Legacy], memfd: int) -> None:
        self.link = link
        self.pid = 0
        self.taken: frozenset[int] = frozenset()
        """The fds of the sockets that it serves."""
        self.taken_doors: frozenset[int] = frozenset()
        """Those of the doors that it has."""
        self._legacy = legacy
        self._memfd = memfd
        self._pidfd = -1
        self._refused = False

    @classmethod
    async def call(
        cls,
        legacy: Callable[[], Legacy],
        environment: Mapping[str, str],
        patience: float,
        stop: asyncio.Event,
    ) -> Successor:
        """Start it and wait until it serves, for `patience` seconds at most; then `let_go` is due.

        `legacy` is asked at the start, just before the successor serves, and at the end. Raises
        UpgradeError: it is gone then. `stop` ends the waiting.
        """
        try:
            here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            memfd = os.memfd_create("spliceproxy-legacy", os.MFD_CLOEXEC)
        except OSError as error:
            raise UpgradeError(f"no fd for it: {error.strerror}") from None
        successor = cls(Link(here), legacy, memfd)
        try:
            with there:
                await successor._start(there, environment)
            await successor._wait_until_it_serves(patience, stop)
        except BaseException:
            await successor._end()
            os.close(memfd)
            raise
        finally:
            successor._forget_process()
        return successor

    def let_go(self) -> None:
        """It has the doors by now: tell it the last that was ordered there, and that all is its."""
        with suppress(OSError):
            self._legacy().write(self._memfd)
        self.link.say("yours", answers=True)
        os.close(self._memfd)

    async def _start(self, there: socket.socket, environment: Mapping[str, str]) -> None:
        """Start the program. Raises UpgradeError."""
        legacy = self._legacy()
        fds = [there.fileno(), self._memfd, *(left.fd for left in legacy.sockets)]
        fds += [door.fd for door in legacy.doors]
        fds += [board.fd for board in legacy.boards]
        variable = f"{there.fileno()},{self._memfd}"
        try:
            legacy.write(self._memfd)
            starter = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _START, str(there.fileno()), *command_line()],
                pass_fds=fds,
                env={**os.environ, **environment, VARIABLE: variable},
            )
        except OSError as error:
            raise UpgradeError(f"{sys.executable}: {error.strerror}") from None
        await asyncio.to_thread(starter.wait)

    async def _wait_until_it_serves(self, patience: float, stop: asyncio.Event) -> None:
        self.link.listen()
        talk = asyncio.create_task(self._talk())
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait(
                (talk, stopped), timeout=patience, return_when=asyncio.FIRST_COMPLETED
            )
            if talk.done():
                talk.result()
            elif stop.is_set():
                raise UpgradeError("the proxy is stopping")
            else:
                raise UpgradeError(f"the new process was not ready within {patience:g} s")
        finally:
            talk.cancel()
            stopped.cancel()

    async def _talk(self) -> None:
        self.pid = int((await self._expect("started"))["pid"])
        with suppress(ProcessLookupError):
            self._pidfd = os.pidfd_open(self.pid)
        await self._expect("ready")
        self._legacy().write(self._memfd)  # orders came in while it started
        self.link.say("take")
        said = await self._expect("serving")
        self.taken, self.taken_doors = frozenset(said["taken"]), frozenset(said["doors"])

    async def _expect(self, word: str) -> Said:
        said = await self.link.hear()
        if said is None:
            raise UpgradeError(
                "the new process ended before it was ready; its last words stand in the log"
            )
        if said["say"] == "failed":
            self._refused = True
            raise UpgradeError("\n".join(said["problems"]))
        if said["say"] != word:
            raise UpgradeError(f"the new process said {said['say']} where {word} was due")
        return said

    async def _end(self) -> None:
        """Leave nothing of it: SIGTERM, so that it removes the files that it made, then SIGKILL.

        One that refused ends by itself, with its last words.
        """
        steps = (0, signal.SIGTERM, signal.SIGKILL) if self._refused else _SIGNALS
        for number in steps if self._pidfd >= 0 else ():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)
            with suppress(TimeoutError):
                async with asyncio.timeout(_END_TIME):
                    await self.link.gone.wait()
                    break
        self.link.close()

    def _forget_process(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
