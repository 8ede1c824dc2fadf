"""Upstreams named by how they behave: real listening sockets on IPv4, IPv6 and UNIX.

with upstreams.sink("v6") as upstream:
    ...  # upstream.address is what a configuration says: [::1]:40123
    upstream.results  # what the handler found, one entry per connection that it finished
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
import tempfile
import termios
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from harness.load import blocks, drain_digest
from harness.serving import FAMILIES as FAMILIES
from harness.serving import LOOPBACK, Upstream, address_text, connect_name, hold, reset, serving
from harness.wait import wait_until


class Address:
    """An address at which nobody serves."""

    def __init__(self, sock: socket.socket) -> None:
        self.address = address_text(sock)
        self.name = connect_name(sock)


def _finish(sock: socket.socket) -> None:
    """Send FIN and read on to the peer's: a close with unread input would be a reset."""
    sock.shutdown(socket.SHUT_WR)
    while sock.recv(65536):
        pass


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


def _discard(sock: socket.socket) -> None:
    with suppress(OSError):
        while sock.recv(65536):
            pass


@contextmanager
def stall(family: str = "v4") -> Iterator[Upstream]:
    """Accepts, and then neither reads nor writes."""
    with serving(family, hold) as upstream:
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
    number, host = LOOPBACK[family]
    with socket.socket(number, socket.SOCK_STREAM) as sock:
        sock.bind((host, 0))
        yield sock
