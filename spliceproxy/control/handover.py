"""What an old supervisor and the new one that replaces it tell each other.

The new process inherits the fds of all listening sockets, of the doors, of a seqpacket pair and of
a memfd. The memfd holds the `Legacy`: which fd is which socket, and what is known at run time. It
is JSON, because the two are not the same program. Over the pair go small JSON objects, each with a
word in `say`:

    started  pid            the new process exists (said on its behalf by whoever started it)
    failed   problems       new → old: it cannot serve, and why; it ends
    ready                   new → old: all its workers are ready; nobody was served so far
    take                    old → new: serve; the memfd has what is known by now
    serving  taken, doors   new → old: it serves these fds, and has those of these doors
    yours    answers        old → new: files and the doors are yours; the memfd has what is known
                            by now, and the service manager knows you. `answers`: this program
                            answers questions; one that does not say so is asked nothing
    sessions sessions       old → new: so many are left, now and then
    reopen                  new → old: the files of session records were rotated
    stop     drain          new → old: end within so many seconds, null: without limit
    hurry                   new → old: end now
    find     number, query, new → old: which of your sessions, and of those of the processes before
             until                  you, are these (a SessionQuery)? Until that moment of
                                    CLOCK_MONOTONIC an answer is of use; what comes later is not
                                    done, because nobody was told that it was
    reset    number, query, new → old: the same, and end them by a reset
             until
    watch    number, query, new → old: tell the records of sessions that end, of those that are
             until, keep, fd        meant, through the socket beside it: all, or errors (`keep`);
                                    also where it comes late
    drain    number, target, new → old: drain (`on`) a target or undrain it; its sessions are to end
             on, over, until        within so many seconds, null: when they like. The answer's
                                    `sessions` are those of the target
    answer   number,        old → new: so many are meant, or were reset. Processes with the pids in
             sessions,              `silent` could not tell of all of theirs. A memfd beside it
             silent, [fd]           (SCM_RIGHTS) has the answer to `find`, as
                                    `encode_found` of ipc/queries.py puts it

Every question is answered, and the next one comes after the answer to the last: so neither side can
fill the pair. The end of the pair means that the other process is gone.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
import struct
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

from spliceproxy.errors import SpliceproxyError
from spliceproxy.ipc import HasFileno, OwnedFd

VARIABLE = "SPLICEPROXY_HANDOVER"
"""Environment: `PAIR,MEMFD`, two inherited fds."""

_VERSION = 2
_MAX_MESSAGE = 256 * 1024
"""Bytes: more than the kernel takes, unless somebody raised net.core.wmem_default."""
_MOST_PROBLEMS = 20_000
"""Characters of the problems that are told."""
_UCRED = struct.Struct("3i")
"""pid, uid and gid; SO_PEERCRED in unix(7)."""

Said = dict[str, Any]
"""A message; one that came with an fd has it as `fd`, an OwnedFd."""


class HandoverError(SpliceproxyError):
    """What was inherited makes no sense."""


@dataclass(frozen=True, slots=True)
class LeftSocket:
    """One listening socket, as its first owner describes it."""

    fd: int
    listener: str
    key: list[str] | None
    """Of the address that it serves, see `socket_key`; None: it was handed over by its name."""
    owner: int | None
    """The worker whose socket it was; None: it is shared."""
    backlog: int
    handed: bool
    """The service manager holds it too."""
    file: bool
    """It has a file, to be removed at the end."""
    tcp: Any
    """The options that it has: `listeners.*.tcp` in JSON."""


@dataclass(frozen=True, slots=True)
class LeftDoor:
    """The listening socket of one door."""

    fd: int
    key: str
    """See Door."""


@dataclass(frozen=True, slots=True)
class LeftBoard:
    """What the workers of one process counted, and may count still."""

    fd: int
    """Of the board."""
    start: int
    """Bytes in front of the first region."""
    regions: int
    layout: tuple[int, ...]
    """How a region is made (telemetry/counters.py)."""
    over: bool
    """Nobody writes it any more."""


@dataclass(frozen=True, slots=True)
class Legacy:
    """All that an old supervisor leaves."""

    sockets: list[LeftSocket]
    doors: list[LeftDoor]
    boards: list[LeftBoard] = field(default_factory=list)
    knowledge: dict[str, Any] = field(default_factory=dict)
    """Of each Lasting part, by its name."""

    def write(self, fd: int) -> None:
        """Into a memfd, in place of what was there. Raises OSError."""
        os.ftruncate(fd, 0)
        with open(fd, "wb", closefd=False) as file:
            file.seek(0)
            file.write(orjson.dumps({"version": _VERSION, **asdict(self)}))

    @classmethod
    def read(cls, fd: int) -> Legacy:
        """From a memfd. Raises HandoverError."""
        try:
            values = orjson.loads(os.pread(fd, os.fstat(fd).st_size, 0))
            version = values.pop("version")
            if version != _VERSION:
                raise HandoverError(
                    f"the running program hands over in version {version}, and this one takes "
                    f"version {_VERSION}: stop it and start this one instead"
                )
            values["sockets"] = [LeftSocket(**one) for one in values["sockets"]]
            values["doors"] = [LeftDoor(**one) for one in values["doors"]]
            values["boards"] = [
                LeftBoard(**{**one, "layout": tuple(one["layout"])}) for one in values["boards"]
            ]
            return cls(**values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise HandoverError(f"what the old process left makes no sense: {error!r}") from None


class Link:
    """One end of the pair. `say` never fails: a peer that is gone is heard of by `gone`."""

    def __init__(self, sock: socket.socket) -> None:
        """Takes over `sock`."""
        sock.setblocking(False)
        self._sock = sock
        self._heard: asyncio.Queue[Said | None] = asyncio.Queue()
        self._reading = False
        self.gone = asyncio.Event()
        """Set when the other process is gone, as soon as that was read."""

    def listen(self) -> None:
        """Hear the other side from now on, in the running event loop."""
        if not self._reading:
            self._reading = True
            asyncio.get_running_loop().add_reader(self._sock.fileno(), self._receive)

    async def hear(self) -> Said | None:
        """The next message; None when the other process is gone."""
        return None if self.gone.is_set() and self._heard.empty() else await self._heard.get()

    @property
    def pid(self) -> int:
        """Of the process that made the pair, which is the old one."""
        ucred = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid: int = _UCRED.unpack(ucred)[0]
        return pid

    def say(self, word: str, file: HasFileno | None = None, **more: object) -> bool:
        """Say it, with the fd of `file`, which stays the caller's; False: it did not go, as the
        other process is gone, does not read, or could not take so much."""
        data = orjson.dumps({"say": word, **more})
        fds = [] if file is None else [file.fileno()]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        if len(data) > _MAX_MESSAGE:
            return False
        try:
            self._sock.sendmsg([data], rights)
        except OSError:
            return False
        return True

    def refuse(self, text: str) -> None:
        """The new process cannot serve: `text` has a line for each problem."""
        self.say("failed", problems=text[:_MOST_PROBLEMS].splitlines())

    def close(self) -> None:
        """A second call does nothing."""
        if self._sock.fileno() < 0:
            return
        if self._reading:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
        self._sock.close()

    def _receive(self) -> None:
        while True:
            try:
                data, fds, _flags, _address = socket.recv_fds(self._sock, _MAX_MESSAGE, 1)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            files = [OwnedFd(fd) for fd in fds]
            said = _decode(data)
            if said is not None and files:
                said["fd"] = files[0]
            self._heard.put_nowait(said)
            if said is None:
                asyncio.get_running_loop().remove_reader(self._sock.fileno())
                self._reading = False
                self.gone.set()
                return


def _decode(data: bytes) -> Said | None:
    """The message; None where the other side is gone, or is no spliceproxy."""
    try:
        said = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return said if isinstance(said, dict) and isinstance(said.get("say"), str) else None


def inherited_fds(environ: MutableMapping[str, str] = os.environ) -> tuple[int, int] | None:
    """The pair's fd and the memfd's, close-on-exec from now on; None: nobody hands over.

    The variable is removed: workers must not inherit it. Raises HandoverError.
    """
    text = environ.pop(VARIABLE, "")
    if not text:
        return None
    try:
        pair, memfd = map(int, text.split(","))
        for fd in (pair, memfd):
            os.set_inheritable(fd, False)
    except (ValueError, OSError):
        raise HandoverError(
            f"{VARIABLE}={text}: only an upgrade sets this variable; unset it"
        ) from None
    return pair, memfd


def tell_predecessor(text: str) -> None:
    """Where this process was to replace another one: it cannot, and `text` says why.

    For what goes wrong before the proxy itself begins.
    """
    with suppress(HandoverError, OSError):
        fds = inherited_fds()
        if fds is not None:
            Link(socket.socket(fileno=fds[0])).refuse(text)
