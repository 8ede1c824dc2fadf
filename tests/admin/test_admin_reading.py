"""What the admin API tells of a running proxy, path by path."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack

import pytest
from harness.door import ask, request
from harness.wait import wait_until
from told import Told

from spliceproxy import config


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
        "~ pool app: health.send *** → ***",
        "~ pool spare: health.path /healthz?*** → /healthz?***",
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
    assert ask(told.door, "HEAD", "/api/v1/stream").headers["Content-Type"] == "text/event-stream"


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


@pytest.mark.parametrize("sort", ["age", "bytes", "-rate"])
def test_parts_fit_together_where_nothing_tells_sessions_apart(sort: str, told: Told) -> None:
    with ExitStack() as stack:
        for _ in range(8):
            client = stack.enter_context(told.proxy.connect("web"))
            client.sendall(b"x")
            client.recv(1)
        found = [
            one["session"]
            for offset in range(0, 8, 3)
            for one in told.get(f"/api/v1/sessions?sort={sort}&offset={offset}&limit=3")["sessions"]
        ]
        assert len(found) == len(set(found)) == 8


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


def test_the_page_and_its_files_are_served(told: Told) -> None:
    page = ask(told.door, "GET", "/")
    assert page.status == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert b"<html" in page.body
    for path, kind in (("/app.js", "text/javascript"), ("/style.css", "text/css")):
        answer = ask(told.door, "GET", path)
        assert answer.headers["Content-Type"] == f"{kind}; charset=utf-8"
