"""Whoever watches session records live: a socket for each, on which nobody waits for anybody.

The supervisor hands over one end of a seqpacket pair for each watcher, and says which records it
wants. What the socket does not take at once is lost, and counted: a watcher that is slow, or that
wants to see too much, costs the worker no more than one that is neither. The end of a watcher is
the end of the pair.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Final

from spliceproxy.ipc.queries import RECORD_LOOKS, Matcher, SessionFilter, encode_lost
from spliceproxy.telemetry.record import NORMAL_ENDS, Record, Why, render

if TYPE_CHECKING:
    from spliceproxy.worker.loop import Loop

PER_SECOND: Final = 1000
"""Records that one watcher is told in a second, at the most: some percent of a worker's time."""


class Streams:
    """All who watch this worker."""

    __slots__ = ("_loop", "open")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.open: list[Stream] = []

    def add(self, fd: int, keep: str, where: SessionFilter) -> None:
        """Tell these records through `fd`, which is this object's from now on."""
        self.open.append(Stream(fd, keep, where))

    def wants(self, why: Why) -> bool:
        """Whether anybody may want to know of a session that ended so."""
        return why not in NORMAL_ENDS or any(not stream.errors for stream in self.open)

    def tell(self, record: Record) -> None:
        """Tell everybody who wants to know."""
        normal, now = record["why"] in NORMAL_ENDS, self._loop.now
        for stream in tuple(self.open):
            if not (normal and stream.errors) and not stream.tell(record, now):
                self.open.remove(stream)
                stream.close()

    def look(self) -> None:
        """Once a second: tell what was lost, and see who is gone."""
        for stream in list(self.open):
            if not stream.look():
                self.open.remove(stream)
                stream.close()

    def close(self) -> None:
        """Nothing more will be told."""
        for stream in self.open:
            stream.close()
        self.open.clear()


class Stream:
    """One watcher's end."""

    __slots__ = ("_left", "_lost", "_matches", "_second", "_sock", "errors")

    def __init__(self, fd: int, keep: str, where: SessionFilter) -> None:
        self._sock = socket.socket(fileno=fd)
        self._sock.setblocking(False)
        self.errors = keep == "errors"
        """It wants no session that ended as it should."""
        self._matches = Matcher(where, RECORD_LOOKS)
        self._second = 0.0
        """When the second began in which `_left` more records may go."""
        self._left = PER_SECOND
        self._lost = 0

    def tell(self, record: Record, now: float) -> bool:
        """Tell of a session, if it is meant; False: nobody listens any more."""
        if not self._matches(record):
            return True
        if now - self._second >= 1.0:
            self._second, self._left = now, PER_SECOND
        if not self._left:
            self._lost += 1
            return True
        self._left -= 1
        return self._send(render(record), lost=1)

    def look(self) -> bool:
        """Tell what was lost, if that can be said now; False: nobody listens any more."""
        if not self._lost:
            return self._listened_to()
        lost, self._lost = self._lost, 0
        return self._send(encode_lost(lost), lost=lost)

    def _listened_to(self) -> bool:
        try:
            return self._sock.recv(1) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def _send(self, line: bytes, lost: int) -> bool:
        try:
            self._sock.send(line, socket.MSG_NOSIGNAL)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOBUFS, errno.EMSGSIZE):
                return False
            self._lost += lost
        return True

    def close(self) -> None:
        self._sock.close()
