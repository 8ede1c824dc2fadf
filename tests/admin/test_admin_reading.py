"""What the admin API tells of a running proxy, path by path."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness.door import ask, request, streamed
from harness.proxy import Proxy, running_proxy
from harness.upstreams import echo, refuse
from harness.wait import wait_until

from spliceproxy import config

YAML = """\
admin: {{bind: "unix:{door}"}}
health: {{interval: 100ms, fall: 1, rise: 1}}
listeners:
  web:
    bind: "127.0.0.1:0"
    routes:
      - {{source: 192.0.2.0/24, pool: {{app: 3, spare: 1}}}}
      - {{sni: [a.example.com, b.example.com], alpn: h2, pool: spare}}
    pool: app
    max_sessions: 50
  other: {{bind: "127.0.0.1:0", pool: spare}}
pools:
  app:
    required: true
    upstreams: [{{address: "{up}", weight: 2, max_sessions: 9}}]
    max_sessions: 100
    health: {{check: exchange, send: "AUTH secret\\r\\n", expect: AUTH}}
  spare:
    upstreams: ["{down}", {{address: "{up}", tier: 1}}]
    health: {{check: http, path: "/healthz?key=secret", interval: 1h}}
"""


@dataclass
class Told:
    """A proxy, and what it tells."""

    proxy: Proxy
    door: Path
    up: str
    down: str

    def get(self, target: str) -> dict[str, Any]:
        code, answer = request(self.door, "GET", target)
        assert code == 200, answer
        return answer

    def order(self, name: str, **body: Any) -> dict[str, Any]:
        code, answer = request(self.door, "POST", f"/api/v1/{name}", body)
        assert code == 200, answer
        return answer

    def refused(self, target: str, body: object = None) -> tuple[int, str]:
        method = "GET" if body is None else "POST"
        code, answer = request(self.door, method, f"/api/v1/{target}", body)
        assert code >= 400
        return code, answer["error"]


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    door = tmp_path / "admin.sock"
    with echo() as up, refuse() as down:
        text = YAML.format(door=door, up=up.address, down=down.address)
        with running_proxy(text, workers=2) as proxy:
            found = Told(proxy, door, up.address, down.address)
            wait_until(lambda: found.get("/api/v1/status")["ready"], 10, "ready")
            yield found


def test_status_tells_all_that_does_not_move_fast(told: Told) -> None:
    with told.proxy.connect("web") as client:
        client.sendall(b"hello")
        assert client.recv(5) == b"hello"
        status = told.get("/api/v1/status")
    assert (status["ready"], status["not_ready"], status["writable"]) == (True, [], True)
    assert (status["sessions"], status["older_sessions"]) == (1, 0)
    assert status["config_files"] == [str(told.proxy.config)]
    assert (status["log_level"], status["max_sessions"]) == ("info", None)
    assert status["started"].endswith("Z")
    assert len(status["started"]) == len("2026-11-30T09:00:00.000Z")
    assert all(0 < one["age_seconds"] < 60 for one in status["workers"])
    web, other = status["listeners"]
    assert web["routes"] == [
        {
            "name": "routes[0]",
            "match": "source 192.0.2.0/24",
            "pools": [{"pool": "app", "share": 0.75}, {"pool": "spare", "share": 0.25}],
        },
        {
            "name": "routes[1]",
            "match": "sni a.example.com or b.example.com, alpn h2",
            "pools": [{"pool": "spare", "share": 1.0}],
        },
    ]
    assert (web["pool"], web["pools"], web["sessions"]) == ("app", ["app", "spare"], 1)
    assert (web["draining"], web["tls"], other["routes"]) == (False, False, [])
    app, spare = status["pools"]
    assert (app["required"], app["usable"], app["sessions"], app["max_sessions"]) == (
        True,
        1,
        1,
        100,
    )
    assert app["upstreams"] == [
        {
            "name": told.up,
            "states": ["up"],
            "weight": 2,
            "configured_weight": 2,
            "held_back": 0,
            "tier": 0,
            "sessions": 1,
            "max_sessions": 9,
        }
    ]
    assert (spare["required"], spare["usable"]) == (False, 0)
    assert [one["states"] for one in spare["upstreams"]] == [["down"], ["down"]]


def test_all_that_keeps_sessions_from_an_upstream_is_told(told: Told) -> None:
    told.order("drain", target="pool/spare")
    [one, two] = told.get("/api/v1/pools/spare")["upstreams"]
    assert one["states"] == two["states"] == ["draining", "down"]


def test_each_listener_and_pool_is_told_by_itself(told: Told) -> None:
    listeners = told.get("/api/v1/listeners")["listeners"]
    assert [one["name"] for one in listeners] == ["web", "other"]
    web = told.get("/api/v1/listeners/web")
    assert web.keys() == listeners[0].keys()
    assert web["addresses"] == told.proxy.addresses("web")
    assert web["traffic"]["sessions"] == 0
    pools = told.get("/api/v1/pools")["pools"]
    assert [one["name"] for one in pools] == ["app", "spare"]
    assert told.get("/api/v1/pools/app")["upstreams"][0]["name"] == told.up
    assert told.refused("listeners/wep") == (404, "listener: there is no wep; did you mean web?")
    assert told.refused("pools/ap") == (404, "pool: there is no ap; did you mean app?")
    assert told.refused("pools/" + "x" * 100)[0] == 404


def test_upstreams_are_told_in_one_list_and_by_pool(told: Told) -> None:
    found = told.get("/api/v1/upstreams")["upstreams"]
    assert [(one["pool"], one["name"]) for one in found] == [
        ("app", told.up),
        ("spare", told.down),
        ("spare", told.up),
    ]
    assert len(told.get("/api/v1/upstreams?pool=spare")["upstreams"]) == 2
    assert told.refused("upstreams?pool=spar")[0] == 404
    assert told.refused("upstreams?pool=app&pool=spare")[0] == 400


def test_the_configuration_is_told_in_its_own_words_and_without_secrets(told: Told) -> None:
    answer = told.get("/api/v1/config")
    assert answer["files"] == [str(told.proxy.config)]
    assert "secret" not in json.dumps(answer)
    words = answer["config"]
    assert words["timeouts"]["idle"] == "1h"
    assert words["relay"]["pipe_size"] == "1MiB"
    assert words["pools"]["app"]["health"]["send"] == "***"
    assert words["pools"]["spare"]["health"]["path"] == "/healthz?***"
    text = json.dumps(words).replace("***", "x")
    again = config.loads(text, "again")
    assert set(config.difference(config.load(told.proxy.config), again)) == {
        "~ pool app: health.send AUTH secret\r\n → x",
        "~ pool spare: health.path /healthz?key=secret → /healthz?x",
    }


def test_readiness_falls_with_a_required_pool_and_rises_again(told: Told) -> None:
    assert told.get("/readyz") == {"status": "ready"}
    told.order("drain", target="pool/app")
    code, answer = request(told.door, "GET", "/readyz")
    assert (code, answer["reasons"]) == (503, ["pool app: no upstream can be used"])
    assert told.get("/api/v1/status")["not_ready"] == answer["reasons"]
    assert told.get("/healthz") == {"status": "ok"}
    told.order("undrain", target="pool/app")
    told.order("weight", target="pool/app", weight=0)
    assert request(told.door, "GET", "/readyz")[0] == 503
    told.order("weight", target="pool/app", weight=None)
    told.order("drain", target="pool/spare")
    assert told.get("/readyz") == {"status": "ready"}


def test_readiness_falls_when_every_listener_drains(told: Told) -> None:
    told.order("drain", target="listener/web")
    assert told.get("/readyz") == {"status": "ready"}
    told.order("drain", target="all")
    code, answer = request(told.door, "GET", "/readyz")
    assert (code, answer["reasons"]) == (503, ["every listener is draining"])
    told.order("undrain", target="listener/other")
    assert told.get("/readyz") == {"status": "ready"}


def test_while_it_stops_it_is_well_and_not_ready(told: Told) -> None:
    with told.proxy.connect("web") as client:
        client.sendall(b"hello")
        assert client.recv(5) == b"hello"
        told.proxy.terminate()
        wait_until(lambda: request(told.door, "GET", "/readyz")[0] == 503, 5, "not ready")
        assert request(told.door, "GET", "/readyz")[1]["reasons"] == ["the proxy is stopping"]
        assert told.get("/healthz") == {"status": "ok"}


def test_without_workers_it_is_not_well(told: Told) -> None:
    for pid in told.proxy.worker_pids():
        os.kill(pid, 9)
    wait_until(lambda: request(told.door, "GET", "/healthz")[0] == 503, 5, "it is not well")
    wait_until(lambda: request(told.door, "GET", "/healthz")[0] == 200, 10, "it is well again")


def test_head_tells_the_same_without_a_body(told: Told) -> None:
    for target in ("/healthz", "/api/v1/status", "/api/v1/config"):
        answer = ask(told.door, "HEAD", target)
        assert (answer.status, answer.body) == (200, b"")
        assert int(answer.headers["Content-Length"]) > 10


def test_sessions_are_found_by_filters_in_order_and_in_parts(told: Told) -> None:
    clients = [told.proxy.connect("web") for _ in range(5)]
    for number, client in enumerate(clients):
        client.sendall(b"x" * (number + 1))
        client.recv(100)
    found = told.get("/api/v1/sessions?listener=web&pool=app&phase=relay&sort=bytes")
    assert (found["matching"], found["offset"], found["silent_workers"]) == (5, 0, [])
    assert [one["bytes_up"] for one in found["sessions"]] == [5, 4, 3, 2, 1]
    part = told.get("/api/v1/sessions?sort=-bytes&offset=1&limit=2")
    assert (part["matching"], part["offset"]) == (5, 1)
    assert [one["bytes_up"] for one in part["sessions"]] == [2, 3]
    ids = [one["session"] for one in part["sessions"]]
    named = told.get(f"/api/v1/sessions?id={ids[0]}&id={ids[1]}")
    assert {one["session"] for one in named["sessions"]} == set(ids)
    address = "{}:{}".format(*clients[0].getsockname())
    assert told.get(f"/api/v1/sessions?client={address}")["matching"] == 1
    assert told.get("/api/v1/sessions?client=127.0.0.0/8&min_age=0")["matching"] == 5
    assert told.get("/api/v1/sessions?pool=spare")["matching"] == 0
    for client in clients:
        client.close()


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("limit=0", "limit is from 1 to 1000"),
        ("limit=1001", "limit is from 1 to 1000"),
        ("limit=-1", "limit is a whole number"),
        ("limit=1e3", "limit is a whole number"),
        ("limit=٣", "limit is a whole number"),
        ("offset=99999999999", "offset is a whole number"),
        ("offset=10000", "offset is from 0 to"),
        ("sort=size", "sort is one of age, idle, bytes, rate, rtt"),
        ("client=nobody", "client: nobody is no address"),
        ("min_age=old", "min_age is a number of seconds"),
        ("min_idle=nan", "min_idle is a number of seconds"),
        ("why=done", "parameter: there is no why"),
        ("pool=a&pool=b", "pool stands there 2 times; once is enough"),
    ],
)
def test_a_question_that_makes_no_sense_is_told_so(query: str, wrong: str, told: Told) -> None:
    quoted = query.replace("٣", "%D9%A3")
    code, text = told.refused(f"sessions?{quoted}")
    assert code == 400
    assert text.startswith(wrong)


def test_sessions_are_reset_by_name_and_by_filter(told: Told) -> None:
    clients = [told.proxy.connect("web") for _ in range(3)]
    for client in clients:
        client.sendall(b"hello")
        client.recv(5)
    [one, *_] = told.get("/api/v1/sessions")["sessions"]
    assert told.order("reset", sessions=[one["session"], "0-00000000-9"]) == {"reset": 1}
    assert told.order("reset", where={"pool": "spare"}) == {"reset": 0}
    assert told.order("reset", where={"client": "127.0.0.0/8", "pool": "app"}) == {"reset": 2}
    records = told.proxy.wait_records(3)
    assert {record["why"] for record in records} == {"operator"}
    assert told.get("/api/v1/sessions")["matching"] == 0
    for client in clients:
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        client.close()
    assert told.proxy.log("sessions reset")


@pytest.mark.parametrize(
    ("order", "body", "wrong"),
    [
        ("reset", {}, "say which sessions"),
        ("reset", {"where": {}}, "an empty filter is every session"),
        ("reset", {"where": {"name": "x"}}, "there is no filter name"),
        ("reset", {"where": "web"}, "where is no filter"),
        ("reset", {"sessions": "0-1-2"}, "sessions is no list of texts"),
        ("reset", {"sessions": [1]}, "sessions is no list of texts"),
        ("reset", {"sessions": ["x"] * 1001}, "1001 sessions; one order can name 1000"),
        ("reset", {"sessions": ["x"], "where": {"pool": "app"}}, "say which sessions"),
        ("reset", {"session": ["x"]}, "the body is no order: there is no session"),
        ("weight", {}, "the body is no order"),
        ("weight", {"target": "pool/app"}, "the body is no order"),
        ("weight", {"target": "pool/app", "weight": "3"}, "weight is a whole number, or null"),
        ("weight", {"target": "pool/app", "weight": True}, "weight is a whole number, or null"),
        ("weight", {"target": "pool/app", "weight": 1.5}, "weight is a whole number, or null"),
        ("weight", {"target": "pool/app", "weight": 257}, "pool/app: a weight is from 0 to 256"),
        ("weight", {"target": "all", "weight": 1}, "all: write pool/NAME or pool/NAME/UPSTREAM"),
        ("weight", {"target": 1, "weight": 1}, "target is no text"),
        ("log-level", {}, "the body is no order"),
        ("log-level", {"level": "loud"}, "loud: there is no such level; write debug, info"),
        ("reload", {"file": "x"}, "the body is no order: there is no file"),
        ("upgrade", [], "the body is no order"),
    ],
)
def test_an_order_that_makes_no_sense_is_told_so(
    order: str, body: object, wrong: str, told: Told
) -> None:
    code, text = told.refused(order, body)
    assert code == 400, text
    assert text.startswith(wrong)


def test_weights_are_set_and_told_beside_the_configured_ones(told: Told) -> None:
    target = f"pool/app/{told.up}"
    done = told.order("weight", target=target, weight=7)
    assert done == {"target": target, "weight": 7, "configured_weight": 2, "changed": True}
    [one] = told.get("/api/v1/pools/app")["upstreams"]
    assert (one["weight"], one["configured_weight"]) == (7, 2)
    assert not told.order("weight", target=target, weight=7)["changed"]
    assert told.order("weight", target=target, weight=None)["weight"] == 2
    assert told.refused("weight", {"target": "pool/ap", "weight": 1})[0] == 404


def test_the_log_level_is_set_for_all_processes(told: Told) -> None:
    assert told.order("log-level", level="debug") == {"level": "debug", "before": "info"}
    assert told.get("/api/v1/status")["log_level"] == "debug"
    assert told.order("log-level", level="info") == {"level": "info", "before": "debug"}


def test_reload_tells_what_changed_or_what_is_wrong(told: Told) -> None:
    text = told.proxy.config.read_text()
    assert told.order("reload") == {"changes": []}
    told.proxy.config.write_text(text.replace("max_sessions: 50", "max_sessions: 51"))
    assert told.order("reload") == {"changes": ["~ listener web: max_sessions 50 → 51"]}
    told.proxy.config.write_text(text.replace("max_sessions: 50", "max_sesions: 51"))
    code, wrong = told.refused("reload", {})
    assert code == 409
    assert "max_sesions: unknown key; did you mean max_sessions?" in wrong


def test_events_are_the_lines_of_the_log(told: Told) -> None:
    told.order("drain", target="pool/spare")
    events = told.get("/api/v1/events")["events"]
    assert [line["event"] for line in events] == [line["event"] for line in told.proxy.log()]
    last = events[-1]
    assert (last["event"], last["level"], last["target"]) == ("draining", "info", "pool/spare")
    assert last["time"].endswith("Z")


def test_explain_tells_what_becomes_of_a_client(told: Told) -> None:
    answer = told.get("/api/v1/explain?listener=web&source=192.0.2.7")
    assert (answer["route"], answer["live"]) == ("routes[0]", True)
    answer = told.get("/api/v1/explain?listener=web&source=10.0.0.1&sni=b.example.com&alpn=h2")
    assert answer["route"] == "routes[1]"
    assert told.refused("explain")[0] == 400
    assert told.refused("explain?listener=wep")[0] == 404
    assert told.refused("explain?listener=web&source=nobody")[0] == 400


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


def test_the_page_and_its_files_are_served(told: Told) -> None:
    page = ask(told.door, "GET", "/")
    assert page.status == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert b"<html" in page.body
    for path, kind in (("/app.js", "text/javascript"), ("/style.css", "text/css")):
        answer = ask(told.door, "GET", path)
        assert answer.headers["Content-Type"] == f"{kind}; charset=utf-8"
