"""What happens, as it happens: server-sent events (HTML Living Standard, 9.2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import orjson

from spliceproxy.admin.asking import Asked, AskError, Stream
from spliceproxy.control.events import EventSubscription
from spliceproxy.control.house import House
from spliceproxy.control.record_streams import RecordStream
from spliceproxy.ipc.queries import filter_of

_SIGN_OF_LIFE = 10.0
"""Seconds between two comments: so both sides notice when the other one is gone."""
_END = b""
"""A source is over."""
_FILTERS = ("listener", "pool", "upstream", "client", "route", "sni", "why")
PARAMETERS = frozenset({"records", "events", *_FILTERS})


def open_stream(house: House, asked: Asked) -> Stream:
    """Raises AskError, QueryError."""
    keep = asked.choice("records", "errors", "all", "off")
    with_events = asked.choice("events", "on", "off") == "on"
    where = filter_of({name: asked.word(name) for name in _FILTERS if name in asked.words})
    try:
        records = None if keep == "off" else house.streams.open(keep, where)
    except OSError as error:
        raise AskError(f"no stream can be opened now: {error.strerror}", 503) from None
    events = house.events.subscribe() if with_events else None
    sources = [one for one in (records, events) if one is not None]

    def close() -> None:
        for one in sources:
            one.close()

    told = [] if records is None else [_told_of_records(records)]
    if events is not None:
        told.append(_told_of_events(events))
    return Stream(_lines(told), close)


async def _lines(sources: Sequence[AsyncIterator[bytes]]) -> AsyncGenerator[bytes, None]:
    """All that the sources tell, as it comes, and a sign of life where nothing does; to the end of
    the first one that ends: nobody is to wait for what does not come any more."""
    yield b": hello\n\n"
    queue: asyncio.Queue[bytes] = asyncio.Queue(1)

    async def pass_on(source: AsyncIterator[bytes]) -> None:
        async for told in source:
            await queue.put(told)
        await queue.put(_END)

    tasks = [asyncio.create_task(pass_on(source)) for source in sources]
    try:
        while True:
            try:
                async with asyncio.timeout(_SIGN_OF_LIFE):
                    told = await queue.get()
            except TimeoutError:
                told = b": still here\n\n"
            if told == _END:
                return
            yield told
    finally:
        for task in tasks:
            task.cancel()


async def _told_of_records(records: RecordStream) -> AsyncIterator[bytes]:
    async for told in records:
        if isinstance(told, int):
            yield event("lost", orjson.dumps({"records": told}))
        else:
            yield event("record", told)


async def _told_of_events(events: EventSubscription) -> AsyncIterator[bytes]:
    lost = 0
    async for line in events:
        if events.lost > lost:
            yield event("lost", orjson.dumps({"events": events.lost - lost}))
            lost = events.lost
        yield event("event", orjson.dumps(line))


def event(name: str, data: bytes) -> bytes:
    """One event, whose data is one line."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data.rstrip(b"\n"))
