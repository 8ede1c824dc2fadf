"""worker/streams.py: records for whoever watches, and for nobody more than the socket takes."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from spliceproxy.ipc.queries import SessionFilter, decode_told
from spliceproxy.telemetry.record import Record
from spliceproxy.worker.loop import Loop
from spliceproxy.worker.streams import PER_SECOND, Streams


class FakeLoop:
    now = 100.0


@contextmanager
def watching(keep: str = "all", **where: Any) -> Iterator[tuple[Streams, socket.socket, FakeLoop]]:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    loop = FakeLoop()
    streams = Streams(cast("Loop", loop))
    streams.add(there.detach(), keep, SessionFilter(**where))
    here.setblocking(False)
    with here:
        yield streams, here, loop
    streams.close()


def record(number: int = 0, **fields: Any) -> Record:
    known = {"session": str(number), "why": "done", "pool": "app", "client": "192.0.2.7:1"}
    return cast("Record", {**known, "duration_ms": 1.0, **fields})


def told(sock: socket.socket) -> list[Any]:
    """All that was told so far: sessions, and numbers of lost ones."""
    found: list[Any] = []
    while True:
        try:
            data = sock.recv(65536)
        except BlockingIOError:
            return found
        one = decode_told(data)
        found.append(one if isinstance(one, int) else json.loads(one)["session"])


def test_a_watcher_hears_of_what_it_wants() -> None:
    with watching("errors", pool="app") as (streams, sock, _):
        streams.tell(record(1))
        streams.tell(record(2, why="idle_timeout"))
        streams.tell(record(3, why="idle_timeout", pool="db"))
        assert told(sock) == ["2"]


def test_a_watcher_that_does_not_read_costs_nothing_and_is_told_what_it_lost() -> None:
    with watching() as (streams, sock, loop):
        for number in range(900):
            streams.tell(record(number, sni="x" * 2000))
        kept = told(sock)
        assert kept == [str(number) for number in range(len(kept))]
        assert 0 < len(kept) < 900
        loop.now += 1
        streams.look()
        assert told(sock) == [900 - len(kept)]
        streams.tell(record(901))
        streams.look()
        assert told(sock) == ["901"]


def test_no_more_than_so_many_are_told_in_a_second() -> None:
    with watching() as (streams, sock, loop):
        heard: list[Any] = []
        for number in range(PER_SECOND + 5):
            streams.tell(record(number))
            heard += told(sock)
        assert len(heard) == PER_SECOND
        loop.now += 1
        streams.tell(record(7))
        streams.look()
        assert told(sock) == ["7", 5]


def test_who_left_is_forgotten_at_the_next_record_or_the_next_look() -> None:
    with watching() as (streams, sock, _):
        streams.look()
        assert streams.open
        sock.close()
        streams.look()
        assert not streams.open
    with watching() as (streams, sock, _):
        sock.close()
        streams.tell(record())
        assert not streams.open
