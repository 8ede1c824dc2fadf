"""An upgrade as the new process sees it: what it inherits, and when that becomes its own.

Nothing that it inherits is touched before the old process says so: until then the old one serves,
and goes on if this one fails. Its sockets, their queues and their files are the same ones; which of
them the configuration still wants is known by their addresses, as at a reload.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from spliceproxy.control.addresses import place_of
from spliceproxy.control.bind_errors import explain_bind
from spliceproxy.control.handover import (
    HandoverError,
    LeftBoard,
    LeftSocket,
    Legacy,
    Link,
    inherited_fds,
)
from spliceproxy.control.opening import let_in
from spliceproxy.control.sockets import (
    ListeningSocket,
    SocketFile,
    join_group,
    socket_key,
)
from spliceproxy.errors import BindError

if TYPE_CHECKING:
    from spliceproxy.config import Address, Listener

_log = structlog.get_logger()


@dataclass(slots=True)
class _Taken:
    """One inherited socket that this configuration wants."""

    left: LeftSocket
    one: ListeningSocket
    listener: Listener


@dataclass(slots=True)
class Claim:
    """The sockets for a configuration, as far as they are known."""

    sockets: list[ListeningSocket] = field(default_factory=list)
    """Inherited, and joined to inherited ones."""
    missing: list[Listener] = field(default_factory=list)
    """Listeners with the addresses that are to be bound."""


class Predecessor:
    """The process that this one replaces."""

    def __init__(self, link: Link, memfd: int) -> None:
        """Takes over both, and the fds that the memfd tells of. Raises HandoverError."""
        self.link = link
        self.sessions = 0
        """Those that it has, and its own predecessors, as it said last."""
        self.waiting: list[ListeningSocket] = []
        """Sockets of our own that let nobody in so far."""
        self._memfd = memfd
        self._legacy = legacy = Legacy.read(memfd)
        self._taken: list[_Taken] = []
        self._left = list(legacy.sockets)
        self._left_doors = list(legacy.doors)
        self._left_boards = list(legacy.boards)
        self.taken_doors: list[int] = []
        """The fds of the doors that were claimed, by the predecessor's numbers."""
        for fd in self._fds():
            os.set_inheritable(fd, False)

    @classmethod
    def from_environment(cls) -> Predecessor | None:
        """None: this process replaces nobody. Raises HandoverError."""
        fds = inherited_fds()
        if fds is None:
            return None
        link = Link(socket.socket(fileno=fds[0]))
        try:
            return cls(link, fds[1])
        except HandoverError as error:
            link.refuse(str(error))
            raise

    def read_again(self) -> None:
        """The old process has written anew what it knows. Raises HandoverError."""
        self._legacy = Legacy.read(self._memfd)

    def close(self) -> None:
        """The old process hears that this one is gone. A second call does nothing."""
        self.link.close()
        if self._memfd >= 0:
            os.close(self._memfd)
            self._memfd = -1

    def knowledge(self, part: str) -> Any:
        """What the part of this name knew; None: nothing."""
        return self._legacy.knowledge.get(part)

    def closed_listeners(self) -> set[str]:
        """The listeners that somebody drained: nobody is to be let in by them."""
        drains = self.knowledge("Draining")
        return set() if drains is None else set(drains["listeners"])

    def claim(self, listeners: Iterable[Listener], workers: int) -> Claim:
        """Take what these listeners want, for so many workers, and close the rest, which stays
        the predecessor's. Raises BindError; then nothing is open any more."""
        claim = Claim()
        try:
            for listener in listeners:
                self._claim(listener, workers, claim)
        except BaseException:
            for one in (*(taken.one for taken in self._taken), *self.waiting):
                one.close()
            raise
        finally:
            for left in self._left:
                os.close(left.fd)
            self._left = []
        return claim

    def door(self, key: str) -> socket.socket | None:
        """The listening socket of the door with this key; None: there is none."""
        for left in self._left_doors:
            if left.key == key:
                self._left_doors.remove(left)
                self.taken_doors.append(left.fd)
                return socket.socket(fileno=left.fd)
        return None

    def boards(self) -> list[LeftBoard]:
        """What was counted before; the fds are the caller's from now on."""
        left, self._left_boards = self._left_boards, []
        return left

    def close_doors(self) -> None:
        """Leave to the predecessor the doors that nobody asked for."""
        for left in self._left_doors:
            os.close(left.fd)
        self._left_doors = []

    def let_in(self) -> None:
        """Let clients into the queues of the sockets that are new. Raises BindError."""
        let_in(self.waiting)

    def taken(self) -> list[int]:
        """The fds of the sockets that were claimed, by the predecessor's numbers."""
        return [taken.left.fd for taken in self._taken]

    def own(self) -> None:
        """The predecessor has let go: give the sockets the options of their listeners, and know
        their files, which are ours to remove at the end."""
        for taken in self._taken:
            one = taken.one
            if taken.left.file:
                one.file = SocketFile.existing(Path(os.fsdecode(one.sock.getsockname())))
            if taken.left.tcp != taken.listener.tcp.model_dump(mode="json"):
                one.follow(taken.listener)

    def _claim(self, listener: Listener, workers: int, claim: Claim) -> None:
        named = [left for left in self._left if left.key is None and left.listener == listener.name]
        if named:
            claim.sockets += self._take(named, listener, None, workers)
            return
        missing = []
        for address in listener.bind:
            key = [*socket_key(address, listener.name)]
            found = [left for left in self._left if left.key == key]
            if found:
                claim.sockets += self._take(found, listener, address, workers)
            else:
                missing.append(address)
        if missing:
            claim.missing.append(listener.model_copy(update={"bind": tuple(missing)}))

    def _take(
        self, found: list[LeftSocket], listener: Listener, address: Address | None, workers: int
    ) -> list[ListeningSocket]:
        """One socket for each worker and place, or one for all; those of workers that are no more
        are left to the predecessor, which empties their queues."""
        groups: dict[str, list[ListeningSocket]] = {}
        for left in found:
            if left.owner is not None and left.owner >= workers:
                continue
            self._left.remove(left)
            one = ListeningSocket(
                listener.name,
                socket.socket(fileno=left.fd),
                left.owner,
                left.backlog,
                handed=left.handed,
                address=address,
            )
            self._taken.append(_Taken(left, one, listener))
            groups.setdefault(str(one), []).append(one)
        for group in groups.values():
            joined = _join(listener, group, workers)
            for one in joined:
                one.address = address
            self.waiting += joined
            group += joined
        return [one for group in groups.values() for one in group]

    def _fds(self) -> Sequence[int]:
        return [
            *(left.fd for left in self._left),
            *(left.fd for left in self._left_doors),
            *(left.fd for left in self._left_boards),
        ]


def _join(listener: Listener, group: list[ListeningSocket], workers: int) -> list[ListeningSocket]:
    """The sockets that a group lacks, so that each worker has one. Raises BindError."""
    first, owners = group[0], {one.owner for one in group}
    missing = [index for index in range(workers) if index not in owners]
    if first.shared or not missing:
        return []
    sock = first.sock
    v6only = sock.family != socket.AF_INET6 or bool(
        sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    )
    try:
        return join_group(listener, sock, missing, v6only)
    except OSError as error:
        if first.handed and len(group) == 1:
            first.owner = None  # as when it was handed over: all workers share the one
            return []
        raise BindError(explain_bind(listener.name, place_of(sock), error)) from None
