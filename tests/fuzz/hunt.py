"""Try one parser with many inputs; where it breaks a promise, find a short input that does."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass

from fuzz.mutate import Mutator
from fuzz.parsers import Parser


@dataclass(frozen=True, slots=True)
class Catch:
    """An input that breaks a promise."""

    data: bytes
    trace: str


@dataclass(frozen=True, slots=True)
class Hunt:
    tried: int
    seconds: float
    catch: Catch | None


def hunt(parser: Parser, inputs: int, seed: str) -> Hunt:
    """Try the seeds and then `inputs` mutations of them, up to the first that breaks a promise."""
    begin = time.perf_counter()
    good = parser.seeds()
    mutator = Mutator(good, seed, parser.words())
    check = parser.check
    tried = 0
    data = b""
    try:
        for data in good:
            check(data)
        while tried < inputs:
            data = mutator.next()
            tried += 1
            check(data)
    except Exception as error:
        short = shorten(parser, data, error)
        return Hunt(tried, time.perf_counter() - begin, Catch(short, _trace(parser, short)))
    return Hunt(tried, time.perf_counter() - begin, None)


def shorten(parser: Parser, data: bytes, error: Exception) -> bytes:
    """Leave out what can be left out while the same kind of error comes."""
    part = len(data) // 2
    while part:
        start = 0
        while start < len(data):
            shorter = data[:start] + data[start + part :]
            if isinstance(_error(parser, shorter), type(error)):
                data = shorter
            else:
                start += part
        part //= 2
    return data


def _error(parser: Parser, data: bytes) -> Exception | None:
    try:
        parser.check(data)
    except Exception as error:
        return error
    return None


def _trace(parser: Parser, data: bytes) -> str:
    error = _error(parser, data)
    return "".join(traceback.format_exception(error)) if error is not None else ""
