"""What happens, as it happens: server-sent events (HTML Living Standard, 9.2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import orjson

from spliceproxy.admin.asking import Asked, Stream
from spliceproxy.control.house import House
from spliceproxy.control.record_streams import RecordStream
from spliceproxy.ipc.queries import filter_of

_SIGN_OF_LIFE = 10.0
"""Seconds between two comments: so both sides notice when the other one is gone."""
_FILTERS = ("listener", "pool", "upstream", "client", "route", "sni", "why")
PARAMETERS = frozenset({"records", "events", *_FILTERS})


def open_stream(house: House, asked: Asked) -> Stream:
    """Raises AskError, QueryError; OSError where there are no fds left."""
    keep = asked.choice("records", "errors", "all", "off")
    where = filter_of({name: asked.word(name) for name in _FILTERS if name in asked.words})
    records = None if keep == "off" else house.streams.open(keep, where)
    return Stream(_lines(records), lambda: None if records is None else records.close())


async def _lines(records: RecordStream | None) -> AsyncIterator[bytes]:
    """What is told, each time as a whole event or comment."""
    yield b": hello\n\n"
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(1)
    reader = asyncio.create_task(_tell_records(records, queue))
    try:
        while True:
            try:
                async with asyncio.timeout(_SIGN_OF_LIFE):
                    told = await queue.get()
            except TimeoutError:
                told = b": still here\n\n"
            if told is None:
                return
            yield told
    finally:
        reader.cancel()


async def _tell_records(records: RecordStream | None, queue: asyncio.Queue[bytes | None]) -> None:
    if records is None:
        return
    async for told in records:
        if isinstance(told, int):
            await queue.put(event("lost", orjson.dumps({"records": told})))
        else:
            await queue.put(event("record", told))
    await queue.put(None)


def event(name: str, data: bytes) -> bytes:
    """One event, whose data is one line."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data.rstrip(b"\n"))
