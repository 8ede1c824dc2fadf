"""What a stream of the admin API tells, as it happens."""

from __future__ import annotations

import json
import os
import socket
import threading
from typing import Any

import pytest
from harness.door import streamed
from harness.wait import wait_until
from told import Told


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
