"""Connections at a door, until told to stop; those that were let in by then are made whole.

asyncio's own server cannot be used: whom it accepted just before its close is reset, in the moment
in which an upgrade hands a door over.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

import structlog

_log = structlog.get_logger()

_BURST = 64
"""Connections that are accepted in one turn."""
_PAUSE = 1.0
"""Seconds without accepting, where the process or the machine is out of something."""
_OUT_OF = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
"""Other errors of accept(2) are those of the connection, which is gone."""


class Acceptor:
    """Accepts at one listening socket, which stays the caller's."""

    def __init__(self, sock: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Begin, in the running event loop. `protocol` makes one for each connection."""
        self._sock = sock
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._resuming: asyncio.TimerHandle | None = None
        self._made: set[asyncio.Task[None]] = set()
        self._accepting = True
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._accept)

    @property
    def busy(self) -> bool:
        """Whether somebody was let in who has no protocol so far."""
        return bool(self._made)

    def stop(self) -> None:
        """Accept nobody any more. A second call does nothing."""
        if not self._accepting:
            return
        self._accepting = False
        if self._resuming is not None:
            self._resuming.cancel()
        self._loop.remove_reader(self._sock.fileno())

    def _accept(self) -> None:
        for _ in range(_BURST):
            try:
                sock, _name = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF:
                    self._pause(error)
                    return
                continue
            task = self._loop.create_task(self._make(sock))
            self._made.add(task)
            task.add_done_callback(self._made.discard)

    async def _make(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        try:
            await self._loop.connect_accepted_socket(self._protocol, sock)
        except OSError:  # it is gone already
            sock.close()

    def _pause(self, error: OSError) -> None:
        _log.warning("nobody is let in at a door for a second", error=error.strerror)
        self._loop.remove_reader(self._sock.fileno())
        self._resuming = self._loop.call_later(_PAUSE, self._resume)

    def _resume(self) -> None:
        self._loop.add_reader(self._sock.fileno(), self._accept)
