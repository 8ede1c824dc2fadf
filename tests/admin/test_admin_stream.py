"""What a stream of the admin API tells, as it happens."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import threading
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest
from harness.door import streamed
from harness.wait import wait_until
from told import Told

from spliceproxy.admin.stream import _lines
from spliceproxy.control.fleet import Fleet
from spliceproxy.control.older import Older
from spliceproxy.control.record_streams import RecordStreams
from spliceproxy.ipc.queries import SessionFilter


class Heard:
    """The events of a stream, as they come, without comments."""

    def __init__(self, lines: Any) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._lines = lines
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        name = ""
        for line in self._lines:
            word, _, value = line.decode().rstrip("\n").partition(": ")
            if word == "event":
                name = value
            elif word == "data":
                self.events.append((name, json.loads(value)))

    def wait(self, kind: str, **wanted: object) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            return next(
                (
                    data
                    for name, data in self.events
                    if name == kind and wanted.items() <= data.items()
                ),
                None,
            )

        answer = wait_until(found, 10, f"{kind} {wanted}")
        assert answer is not None
        return answer


def talk(told: Told, listener: str) -> None:
    with told.proxy.connect(listener) as client:
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        while client.recv(100):
            pass


def test_a_stream_tells_records_and_events_as_they_come(told: Told) -> None:
    with streamed(told.door, "/api/v1/stream?records=all") as lines:
        heard = Heard(lines)
        told.order("drain", target="pool/spare")
        heard.wait("event", event="draining", target="pool/spare")
        talk(told, "web")
        record = heard.wait("record", listener="web")
        [written] = told.proxy.wait_records(1)
        assert record == written
        os.kill(told.proxy.worker_pids()[0], 9)
        heard.wait("event", event="worker died")
        wait_until(
            lambda: all(one["ready"] for one in told.get("/api/v1/status")["workers"]), 10, "ready"
        )
        for _ in range(4):
            talk(told, "web")
        wait_until(
            lambda: sum(name == "record" for name, _ in heard.events) == 5, 10, "five records"
        )


def test_a_stream_tells_what_is_asked_for_alone(told: Told) -> None:
    with (
        streamed(told.door, "/api/v1/stream?records=off") as events_alone,
        streamed(told.door, "/api/v1/stream?events=off") as errors_alone,
        streamed(told.door, "/api/v1/stream?records=all&listener=web&events=off") as web_alone,
    ):
        events, errors, web = Heard(events_alone), Heard(errors_alone), Heard(web_alone)
        with pytest.raises(ConnectionResetError):
            talk(told, "other")
        with told.proxy.connect("web") as client:
            client.sendall(b"hello")
            client.recv(5)
            told.order("reset", where={"listener": "web"})
        talk(told, "web")
        web.wait("record", why="done")
        events.wait("event", event="sessions reset")
        errors.wait("record", why="no_upstream")
    assert {name for name, _ in events.events} == {"event"}
    assert {data["listener"] for _, data in web.events} == {"web"}
    assert [data["why"] for _, data in web.events] == ["operator", "done"]
    assert [data["why"] for _, data in errors.events] == ["no_upstream"]


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("records=some", "records is one of errors, all, off"),
        ("events=all", "events is one of on, off"),
        ("min_age=1", "parameter: there is no min_age"),
        ("client=x", "client: x is no address"),
    ],
)
def test_a_stream_that_makes_no_sense_is_none(query: str, wrong: str, told: Told) -> None:
    code, text = told.refused(f"stream?{query}")
    assert code == 400
    assert text.startswith(wrong)


def test_a_stream_ends_when_one_of_its_sources_does() -> None:
    async def one() -> AsyncIterator[bytes]:
        yield b"told"

    async def silent() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b"never"

    async def told() -> list[bytes]:
        return [line async for line in _lines([one(), silent()])]

    assert asyncio.run(asyncio.wait_for(told(), 60)) == [b": hello\n\n", b"told"]


def test_a_stream_that_a_new_worker_cannot_tell_is_closed_and_the_worker_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No fds are left: whoever watches comes again, and is told so."""

    def none_left(*_args: object) -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    async def begin() -> int | bytes | None:
        fleet = SimpleNamespace(on_ready=[], workers=lambda: iter(()))
        streams = RecordStreams(cast(Fleet, fleet), Older())
        stream = streams.open("all", SessionFilter())
        monkeypatch.setattr(socket, "socketpair", none_left)
        for call in fleet.on_ready:
            call(SimpleNamespace(send=none_left))
        return await anext(stream, None)

    assert asyncio.run(asyncio.wait_for(begin(), 60)) is None
