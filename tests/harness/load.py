"""Byte streams that any two places of a test can make alike: all follows from a seed."""

from __future__ import annotations

import hashlib
import random
import socket
import time
from collections.abc import Iterator
from functools import lru_cache

BLOCK = 1024 * 1024


@lru_cache(maxsize=64)
def _random_block(seed: int) -> bytes:
    return random.Random(seed).randbytes(BLOCK)


def blocks(size: int, seed: int) -> Iterator[memoryview]:
    """`size` bytes, in blocks that are valid until the next one is taken.

    Each block is the seed's random block with the block's number in it, so that a block lost,
    doubled or moved changes the digest, and making a block costs nothing.
    """
    block = bytearray(_random_block(seed))
    view = memoryview(block)
    number = 0
    while size > 0:
        block[:8] = number.to_bytes(8, "big")
        yield view[: min(size, BLOCK)]
        size -= BLOCK
        number += 1


def stream_bytes(size: int, seed: int) -> bytes:
    """The stream in one piece."""
    return b"".join(bytes(block) for block in blocks(size, seed))


def digest(size: int, seed: int) -> str:
    """SHA-256 of the stream, in hex."""
    sha = hashlib.sha256()
    for block in blocks(size, seed):
        sha.update(block)
    return sha.hexdigest()


def pump(sock: socket.socket, size: int, seed: int, pieces: random.Random | None = None) -> str:
    """Send the stream through a blocking socket and return its digest; no shutdown follows.

    With `pieces`, each send has a random size from 1 byte to 1 MiB, small ones as likely as large.
    """
    sha = hashlib.sha256()
    for block in blocks(size, seed):
        sha.update(block)
        if pieces is None:
            sock.sendall(block)
            continue
        at = 0
        while at < len(block):
            piece = min(1 << pieces.randint(0, 20), len(block) - at)
            sock.sendall(block[at : at + piece])
            at += piece
    return sha.hexdigest()


def drain_digest(sock: socket.socket, rate: float | None = None) -> tuple[int, str]:
    """Read a blocking socket to its end; how many bytes came, and their SHA-256 in hex.

    `rate` bounds the reading, in bytes per second.
    """
    sha = hashlib.sha256()
    total = 0
    buffer = memoryview(bytearray(256 * 1024))
    began = time.monotonic()
    while count := sock.recv_into(buffer):
        sha.update(buffer[:count])
        total += count
        if rate is not None:
            ahead = total / rate - (time.monotonic() - began)
            if ahead > 0:
                time.sleep(ahead)
    return total, sha.hexdigest()


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """`size` bytes, or fewer where the stream ends before."""
    data = bytearray()
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return bytes(data)


def read_to_end(sock: socket.socket) -> bytes:
    """All bytes up to the peer's FIN."""
    data = bytearray()
    while more := sock.recv(65536):
        data += more
    return bytes(data)
