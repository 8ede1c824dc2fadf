"""Inputs made from good ones: bits flipped, parts cut out, doubled, moved, exchanged."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

EDGES = (0x00, 0x01, 0x0A, 0x0D, 0x20, 0x2F, 0x30, 0x3A, 0x7F, 0x80, 0xFE, 0xFF)
"""Bytes at which parsers err: ends of ranges, ends of lines, digits and their neighbours."""

Mutation = Callable[[bytearray, random.Random], None]


class Mutator:
    """An endless row of inputs, the same for the same `seed`, `seeds` and `words`.

    `words` are those of a language: one that is read as text gets whole words of it, and whole
    lines moved, or hardly an input would come far.
    """

    def __init__(self, seeds: Sequence[bytes], seed: str, words: Sequence[bytes] = ()) -> None:
        self._random = random.Random(seed)
        self._seeds = [bytes(one) for one in seeds] or [b""]
        self._words = words

    def next(self) -> bytes:
        rng = self._random
        data = bytearray(rng.choice(self._seeds))
        for _ in range(min(1 + int(rng.expovariate(0.7)), 8)):
            if rng.random() < 0.1:
                _join(data, rng.choice(self._seeds), rng)
            elif self._words and rng.random() < 0.7:
                _write(data, rng.choice(self._words), rng)
            else:
                rng.choice(MUTATIONS)(data, rng)
        return bytes(data)


def _flip(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.choice(EDGES)


def _count(data: bytearray, rng: random.Random) -> None:
    """One more or one less, as a length or a digit that is wrong by one."""
    if data:
        place = rng.randrange(len(data))
        data[place] = (data[place] + rng.choice((-1, 1))) % 256


def _lengthen(data: bytearray, rng: random.Random) -> None:
    """A number of two bytes that is far too large."""
    if len(data) > 1:
        place = rng.randrange(len(data) - 1)
        data[place : place + 2] = rng.choice((b"\xff\xff", b"\x0f\xf0", b"\x10\x00", b"\x40\x00"))


def _cut(data: bytearray, rng: random.Random) -> None:
    start, end = _slice(data, rng)
    del data[start:end]


def _end_early(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _double(data: bytearray, rng: random.Random) -> None:
    start, end = _slice(data, rng)
    data[end:end] = data[start:end]


def _insert(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data) + 1)
    size = 1 + int(rng.expovariate(0.2))
    data[place:place] = rng.randbytes(size) if rng.random() < 0.5 else bytes([rng.choice(EDGES)])


def _append(data: bytearray, rng: random.Random) -> None:
    data += rng.randbytes(rng.randrange(64))


def _swap(data: bytearray, rng: random.Random) -> None:
    start, end = _slice(data, rng)
    part = data[start:end]
    del data[start:end]
    place = rng.randrange(len(data) + 1)
    data[place:place] = part


def _join(data: bytearray, other: bytes, rng: random.Random) -> None:
    """The beginning of one and the end of another."""
    del data[rng.randrange(len(data) + 1) :]
    data += other[rng.randrange(len(other) + 1) :]


def _write(data: bytearray, word: bytes, rng: random.Random) -> None:
    """A word of the language in another one's place or between two; or a line moved, doubled, lost,
    or indented otherwise."""
    what = rng.random()
    if what < 0.6:
        pattern = _WORD if what < 0.4 else _GAP
        places = [match.span() for match in pattern.finditer(data)]
        start, end = rng.choice(places) if places else (len(data), len(data))
        data[start:end] = word
        return
    lines = data.split(b"\n")
    line = lines.pop(rng.randrange(len(lines)))
    if what < 0.7:
        line = b" " * rng.choice((0, 1, 2, 4, 6)) + line.lstrip()
    for _ in range(rng.choice((0, 1, 1, 2))):
        lines.insert(rng.randrange(len(lines) + 1), line)
    data[:] = b"\n".join(lines)


_WORD = re.compile(rb"[\w.:/*-]+")
_GAP = re.compile(rb"(?=\W)")


def _slice(data: bytearray, rng: random.Random) -> tuple[int, int]:
    """Of a random place; more often short than long."""
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + 1 + int(rng.expovariate(0.1)))


MUTATIONS: tuple[Mutation, ...] = (
    _flip,
    _overwrite,
    _count,
    _lengthen,
    _cut,
    _end_early,
    _double,
    _insert,
    _append,
    _swap,
)
