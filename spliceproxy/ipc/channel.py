"""The seqpacket pair between the supervisor and one worker."""

from __future__ import annotations

import array
import errno
import os
import socket
import weakref
from collections import deque
from typing import Protocol

from spliceproxy.errors import IpcError, LostFdError
from spliceproxy.ipc.messages import Message, decode, encode

MAX_MESSAGE = 64 * 1024
"""Bytes of one message, at most."""


class HasFileno(Protocol):
    """What owns an fd: a socket, a file. Its fileno() is -1 once it is closed."""

    def fileno(self) -> int: ...


class OwnedFd:
    """An fd that is closed when nobody refers to this object any more: so one that is sent away
    stays open for as long as its message waits."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        weakref.finalize(self, os.close, fd)

    def fileno(self) -> int:
        """The fd."""
        return self._fd


class Channel:
    """One end of a seqpacket pair: whole messages, in order, with their fds.

    Never blocks. What the kernel does not take at once waits in an outbox. While `waiting` is
    true, call `flush()` when the fd is writable; while `short` is true, by a timer instead.

    What waits needs no fd of its own: a process that is short of fds, or that has hundreds of
    sockets to hand over before the other side reads the first, would fail to duplicate them.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._outbox: deque[tuple[bytes, tuple[HasFileno | int, ...]]] = deque()
        self.short = False
        """The kernel has too many fds of this user under way (ETOOMANYREFS, unix(7)). The fd is
        writable all the same, so that its events say nothing."""

    @classmethod
    def pair(cls) -> tuple[Channel, socket.socket]:
        """A channel, and the other end's bare socket, to be handed to the new process."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(here), there

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def waiting(self) -> bool:
        return bool(self._outbox)

    def send(self, message: Message, *files: HasFileno | int) -> None:
        """Send, or queue, one message with its fds, which stay the caller's.

        A file that is closed before its message has left takes the message with it. A bare number
        must stay open for as long as the channel. Raises OSError (EPIPE and ECONNRESET where the
        other side is gone); then all that waited is dropped. Raises IpcError where the other side
        could not read it.
        """
        if len(files) != message.fds:
            kind = type(message).__name__
            raise IpcError(f"{kind} travels with {message.fds} fds, not {len(files)}")
        data = encode(message)
        if len(data) > MAX_MESSAGE:
            raise IpcError(f"{type(message).__name__} has {len(data)} bytes")
        self._outbox.append((data, files))
        if len(self._outbox) == 1:
            self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the kernel takes it. Raises OSError as `send` does."""
        self.short = False
        while self._outbox:
            data, files = self._outbox[0]
            fds = [file if isinstance(file, int) else file.fileno() for file in files]
            if -1 not in fds and not self._send(data, fds):
                return
            self._outbox.popleft()

    def _send(self, data: bytes, fds: list[int]) -> bool:
        """Send one message; False: later. Raises OSError."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._sock.sendmsg([data], rights)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS:
                self._outbox.clear()
                raise
            self.short = True
            return False
        return True

    def receive(self) -> tuple[Message, list[int]] | None:
        """The next message and its fds, which the caller then owns; None when the peer is gone.

        Raises BlockingIOError when nothing is there, IpcError when it makes no sense, and of these
        LostFdError when this process had no room for its fds (MSG_CTRUNC, unix(7)).
        """
        try:
            data, fds, flags, _address = socket.recv_fds(self._sock, MAX_MESSAGE, 253)
        except ConnectionResetError:
            return None
        if not data:
            return None
        try:
            message = decode(data)
            if flags & socket.MSG_CTRUNC:
                raise LostFdError(f"{type(message).__name__} came without its fds")
            if len(fds) != message.fds:
                raise IpcError(f"{type(message).__name__} came with {len(fds)} fds")
        except IpcError:
            for fd in fds:
                os.close(fd)
            raise
        return message, fds

    def close(self) -> None:
        """Close this end; what waited in the outbox is dropped. A second call does nothing."""
        self._outbox.clear()
        self._sock.close()
