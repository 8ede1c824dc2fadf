"""A listening socket of a test's own, with a handler for each connection.

Each connection has a thread and blocking calls, so that a behaviour reads as what it does; a
handler that is `hold` needs none, so that thousands may wait.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

FAMILIES = ("v4", "v6", "unix")

LOOPBACK = {"v4": (socket.AF_INET, "127.0.0.1"), "v6": (socket.AF_INET6, "::1")}

Handler = Callable[[socket.socket, "Upstream"], Any]


class _Hold:
    """What a handler returns to leave the connection open, as it is, until the upstream stops."""


HOLD = _Hold()


def hold(_sock: socket.socket, _upstream: Upstream) -> _Hold:
    """Neither read nor write."""
    return HOLD


def address_text(sock: socket.socket) -> str:
    """The address of a listening socket in the configuration's words."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{os.fsdecode(name)}"
    return f"[{name[0]}]:{name[1]}" if sock.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"


def connect_name(sock: socket.socket) -> tuple[str, int] | str:
    """The address of a listening socket as connect() takes it."""
    name = sock.getsockname()
    return (name[0], name[1]) if isinstance(name, tuple) else os.fsdecode(name)


def reset(sock: socket.socket) -> None:
    """Close with a TCP reset, whatever waits in the send queue."""
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Upstream:
    """A listening socket, and a handler for each connection.

    `stop()` ends the open connections by shutdown and close; `start()` listens again at the same
    address.
    """

    def __init__(self, family: str, handler: Handler, backlog: int = 4096) -> None:
        self._handler = handler
        self._backlog = backlog
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._open: set[socket.socket] = set()
        self._directory: str | None = None
        self._bind: tuple[int, Any]
        self._sock: socket.socket | None = None
        self.accepted = 0
        """Connections so far."""
        self.results: list[Any] = []
        """What the handlers returned, in the order in which they finished."""
        self.errors: list[Exception] = []
        """Errors of a connection that its handler did not expect: resets, broken pipes."""
        self.stopping = threading.Event()
        if family == "unix":
            self._directory = tempfile.mkdtemp(prefix="upstream-")
            self._bind = (socket.AF_UNIX, f"{self._directory}/socket")
        else:
            number, host = LOOPBACK[family]
            self._bind = (number, (host, 0))
        self.start()

    def start(self) -> None:
        """Listen, at the address of the first time."""
        self.stopping.clear()
        family, name = self._bind
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(name)
        sock.listen(self._backlog)
        self._bind = (family, sock.getsockname())
        self._sock = sock
        self.address = address_text(sock)
        self.name = connect_name(sock)
        """As connect() takes it."""
        self._start_thread(self._accept, sock)

    @property
    def open_connections(self) -> int:
        with self._lock:
            return len(self._open)

    def stop(self) -> None:
        """Close the listening socket and every connection; all threads have ended afterwards."""
        self.stopping.set()
        if self._sock is not None:
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)  # wakes accept()
        while True:
            with self._lock:
                for sock in self._open:
                    with suppress(OSError):
                        sock.shutdown(socket.SHUT_RDWR)  # wakes recv() and send()
                threads = list(self._threads)
            if not threads:
                break
            for thread in threads:
                thread.join(10)
                assert not thread.is_alive(), f"{thread.name} hangs"
            with self._lock:
                self._threads.difference_update(threads)
        if self._sock is not None:
            self._sock.close()
            self._sock = None
            if self._bind[0] == socket.AF_UNIX:
                Path(str(self._bind[1])).unlink()
        for sock in self._open:
            sock.close()
        self._open.clear()

    def close(self) -> None:
        """Stop, and remove the UNIX socket's directory."""
        self.stop()
        if self._directory is not None:
            shutil.rmtree(self._directory)

    def _start_thread(self, target: Callable[[socket.socket], None], sock: socket.socket) -> None:
        thread = threading.Thread(target=target, args=(sock,), daemon=True)
        with self._lock:
            self._threads.add(thread)
            thread.start()

    def _accept(self, listening: socket.socket) -> None:
        while not self.stopping.is_set():
            try:
                sock, _peer = listening.accept()
            except OSError:
                continue  # stop() shut it down, or a client was gone before
            with self._lock:
                self._open.add(sock)
                self.accepted += 1
            if self._handler is hold:
                continue
            self._start_thread(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        result: Any = None
        try:
            result = self._handler(sock, self)
        except OSError as error:
            if not self.stopping.is_set():
                self.errors.append(error)
        with self._lock:
            self._threads.discard(threading.current_thread())
            if result is HOLD:
                return
            self._open.discard(sock)
            if result is not None:
                self.results.append(result)
        sock.close()


@contextmanager
def serving(family: str, handler: Handler, backlog: int = 4096) -> Iterator[Upstream]:
    """An upstream with a behaviour of the test's own."""
    upstream = Upstream(family, handler, backlog)
    try:
        yield upstream
    finally:
        upstream.close()
