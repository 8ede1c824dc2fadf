"""Upstreams named by how they behave: real listening sockets on IPv4, IPv6 and UNIX.

    with upstreams.sink("v6") as upstream:
        ...  # upstream.address is what a configuration says: [::1]:40123
        upstream.results  # what the handler found, one entry per connection that it finished

Each connection has a thread of its own and blocking calls, so that a behaviour reads as what it
does; `stall` alone needs none, so that thousands may wait.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import struct
import tempfile
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from harness.load import blocks, drain_digest
from harness.wait import wait_until

FAMILIES = ("v4", "v6", "unix")

_LOOPBACK = {"v4": (socket.AF_INET, "127.0.0.1"), "v6": (socket.AF_INET6, "::1")}

Handler = Callable[[socket.socket, "Upstream"], Any]


class _Hold:
    """What a handler returns to leave the connection open, as it is, until the upstream stops."""


HOLD = _Hold()


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

    `stop()` resets nothing by itself: open connections end by close. `start()` listens again at
    the same address.
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
            number, host = _LOOPBACK[family]
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
            if self._handler is _stall:
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


def _finish(sock: socket.socket) -> None:
    """Send FIN and read on to the peer's: a close with unread input would be a reset."""
    sock.shutdown(socket.SHUT_WR)
    while sock.recv(65536):
        pass


# ---------------------------------------------------------------- well-behaved


@contextmanager
def echo(family: str = "v4") -> Iterator[Upstream]:
    """Sends back what comes, and FIN after the peer's FIN. Results: bytes of each connection."""

    def handler(sock: socket.socket, _upstream: Upstream) -> int:
        total = 0
        while data := sock.recv(65536):
            sock.sendall(data)
            total += len(data)
        return total

    with serving(family, handler) as upstream:
        yield upstream


@contextmanager
def sink(family: str = "v4", rate: float | None = None) -> Iterator[Upstream]:
    """Reads to the end (`rate` bytes per second at most), then answers the SHA-256 in hex.

    Results: (bytes, digest) of each connection.
    """

    def handler(sock: socket.socket, _upstream: Upstream) -> tuple[int, str]:
        total, digest = drain_digest(sock, rate)
        sock.sendall(digest.encode())
        return total, digest

    with serving(family, handler) as upstream:
        yield upstream


@contextmanager
def source(size: int, seed: int, family: str = "v4") -> Iterator[Upstream]:
    """Sends the stream of `load.blocks(size, seed)` at once, then FIN; reads and ignores."""

    def handler(sock: socket.socket, _upstream: Upstream) -> int:
        reader = threading.Thread(target=_discard, args=(sock,), daemon=True)
        reader.start()
        try:
            for block in blocks(size, seed):
                sock.sendall(block)
            sock.shutdown(socket.SHUT_WR)
        finally:
            reader.join()
        return size

    with serving(family, handler) as upstream:
        yield upstream


@contextmanager
def exchange(size: int, seed: int, family: str = "v4") -> Iterator[Upstream]:
    """Sends the stream and reads to the end, both at once.

    Results: (bytes read, their digest) of each connection.
    """

    def handler(sock: socket.socket, _upstream: Upstream) -> tuple[int, str]:
        def send() -> None:
            with suppress(OSError):
                for block in blocks(size, seed):
                    sock.sendall(block)
                sock.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        try:
            return drain_digest(sock)
        finally:
            sender.join()

    with serving(family, handler) as upstream:
        yield upstream


@contextmanager
def named(name: str, family: str = "v4") -> Iterator[Upstream]:
    """Speaks first: sends its name, then FIN."""

    def handler(sock: socket.socket, _upstream: Upstream) -> str:
        sock.sendall(name.encode())
        _finish(sock)
        return name

    with serving(family, handler) as upstream:
        yield upstream


@contextmanager
def half_close(family: str = "v4", greeting: bytes = b"enough\n") -> Iterator[Upstream]:
    """Sends `greeting` and FIN at once, and goes on reading to the peer's end.

    Results: (bytes, digest) of each connection.
    """

    def handler(sock: socket.socket, _upstream: Upstream) -> tuple[int, str]:
        sock.sendall(greeting)
        sock.shutdown(socket.SHUT_WR)
        return drain_digest(sock)

    with serving(family, handler) as upstream:
        yield upstream


# ---------------------------------------------------------------- ill-behaved


def _discard(sock: socket.socket) -> None:
    with suppress(OSError):
        while sock.recv(65536):
            pass


def _stall(_sock: socket.socket, _upstream: Upstream) -> _Hold:
    return HOLD


@contextmanager
def stall(family: str = "v4") -> Iterator[Upstream]:
    """Accepts, and then neither reads nor writes."""
    with serving(family, _stall) as upstream:
        yield upstream


@contextmanager
def resets(family: str = "v4", after: int = 1) -> Iterator[Upstream]:
    """Reads `after` bytes, then resets. Results: bytes read. (On UNIX: closes.)"""

    def handler(sock: socket.socket, _upstream: Upstream) -> int:
        left = after
        while left > 0 and (data := sock.recv(min(left, 65536))):
            left -= len(data)
        reset(sock)
        return after - left

    with serving(family, handler) as upstream:
        yield upstream


@contextmanager
def sends_then_resets(size: int, seed: int, family: str = "v4") -> Iterator[Upstream]:
    """Sends the stream, waits until the peer's kernel has it, then resets."""

    def handler(sock: socket.socket, _upstream: Upstream) -> int:
        for block in blocks(size, seed):
            sock.sendall(block)
        wait_until(lambda: _unsent(sock) == 0, 30, "an empty send queue")
        reset(sock)
        return size

    with serving(family, handler) as upstream:
        yield upstream


def _unsent(sock: socket.socket) -> int:
    answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    return int(struct.unpack("i", answer)[0])


@contextmanager
def trickle(
    size: int, seed: int, family: str = "v4", piece: int = 1, pause: float = 0.01
) -> Iterator[Upstream]:
    """Sends the stream `piece` bytes at a time, with `pause` seconds between, then FIN."""

    def handler(sock: socket.socket, upstream: Upstream) -> int:
        sent = 0
        for block in blocks(size, seed):
            for at in range(0, len(block), piece):
                sock.sendall(block[at : at + piece])
                sent += len(block[at : at + piece])
                if upstream.stopping.wait(pause):
                    return sent
        _finish(sock)
        return sent

    with serving(family, handler) as upstream:
        yield upstream


class Address:
    """An address at which nobody serves."""

    def __init__(self, sock: socket.socket) -> None:
        self.address = address_text(sock)
        self.name = connect_name(sock)


@contextmanager
def refuse(family: str = "v4") -> Iterator[Address]:
    """An address that refuses: bound, so that nobody else gets it, and not listening."""
    with _bound(family) as sock:
        yield Address(sock)


@contextmanager
def blackhole(family: str = "v4") -> Iterator[Address]:
    """An address that does not answer: its backlog is full, so that a connect takes for ever.

    (On UNIX a non-blocking connect fails with EAGAIN.)
    """
    with _bound(family) as sock, ExitStack() as fillers:
        sock.listen(0)
        for _ in range(8):
            filler = fillers.enter_context(socket.socket(sock.family, socket.SOCK_STREAM))
            filler.setblocking(False)
            if filler.connect_ex(sock.getsockname()) == errno.EAGAIN:
                break
        yield Address(sock)


@contextmanager
def _bound(family: str) -> Iterator[socket.socket]:
    if family == "unix":
        with (
            tempfile.TemporaryDirectory(prefix="upstream-") as directory,
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock,
        ):
            sock.bind(f"{directory}/socket")
            yield sock
        return
    number, host = _LOOPBACK[family]
    with socket.socket(number, socket.SOCK_STREAM) as sock:
        sock.bind((host, 0))
        yield sock
