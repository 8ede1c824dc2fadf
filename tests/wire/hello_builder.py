"""ClientHellos made by hand, right or wrong, and put into records of any size."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

RANDOM = bytes(range(32))


def vector(data: bytes, width: int = 2) -> bytes:
    """`data` behind its length."""
    return len(data).to_bytes(width, "big") + data


def extension(kind: int, data: bytes) -> bytes:
    return kind.to_bytes(2, "big") + vector(data)


def server_name(*names: bytes | tuple[int, bytes]) -> bytes:
    entries = [name if isinstance(name, tuple) else (0, name) for name in names]
    return extension(0, vector(b"".join(bytes([kind]) + vector(name) for kind, name in entries)))


def alpn(*names: bytes) -> bytes:
    return extension(16, vector(b"".join(vector(name, 1) for name in names)))


def supported_versions(*versions: int) -> bytes:
    return extension(43, vector(b"".join(v.to_bytes(2, "big") for v in versions), 1))


def body(
    *extensions: bytes,
    version: bytes = b"\3\3",
    session_id: bytes = b"",
    suites: bytes = b"\x13\x01",
    compression: bytes = b"\0",
) -> bytes:
    """The message without its header. Without extensions it has not even an empty list of them."""
    tail = vector(b"".join(extensions)) if extensions else b""
    fixed = version + RANDOM + vector(session_id, 1) + vector(suites) + vector(compression, 1)
    return fixed + tail


def message(content: bytes) -> bytes:
    return b"\1" + vector(content, 3)


def record(data: bytes, kind: int = 22, version: bytes = b"\3\1") -> bytes:
    return bytes([kind]) + version + vector(data)


def records(data: bytes, sizes: Iterable[int]) -> bytes:
    """`data` in records of these sizes, again and again; 0 is an empty record."""
    found: list[bytes] = []
    at = 0
    for size in sizes:
        if at >= len(data):
            break
        found.append(record(data[at : at + size]))
        at += size
    assert at >= len(data), "the sizes do not last"
    return b"".join(found)


def hello(*extensions: bytes) -> bytes:
    """A whole ClientHello in one record."""
    return record(message(body(*extensions)))


def payload(data: bytes) -> bytes:
    """What the records hold of which `data` consists."""
    held = bytearray()
    at = 0
    while at < len(data):
        end = at + 5 + int.from_bytes(data[at + 3 : at + 5], "big")
        held += data[at + 5 : end]
        at = end
    return bytes(held)


def random_sizes(rng: random.Random, most: int) -> Iterator[int]:
    while True:
        yield rng.randint(1, most)


def pieces(data: bytes, cuts: Sequence[int]) -> Iterator[bytes]:
    """All that was seen after each segment, where the stream was cut at `cuts`."""
    for cut in [*sorted(cuts), len(data)]:
        yield data[:cut]
