"""What becomes of orders to a running proxy; those of drains are in other tests."""

from __future__ import annotations

import json

import pytest
from told import Told


def reset(sessions: int) -> dict[str, object]:
    """What is answered where everybody hears of it."""
    return {"reset": sessions, "silent_workers": [], "silent_processes": []}


def test_sessions_are_reset_by_name_and_by_filter(told: Told) -> None:
    clients = [told.proxy.connect("web") for _ in range(3)]
    for client in clients:
        client.sendall(b"hello")
        client.recv(5)
    [one, *_] = told.get("/api/v1/sessions")["sessions"]
    assert told.order("reset", sessions=[one["session"], "0-00000000-9"]) == reset(1)
    assert told.order("reset", where={"pool": "spare"}) == reset(0)
    assert told.order("reset", where={"client": "127.0.0.0/8", "pool": "app"}) == reset(2)
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
        ("reset", {"sessions": ["0-eb810881-1", ""]}, '"" is no session; write for example'),
        ("reset", {"sessions": ["x"]}, '"x" is no session; write for example 0-eb810881-1'),
        ("reset", {"where": {"sni": '"' * 600}}, "sni has 512 characters at the most"),
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


def test_the_largest_orders_that_can_be_given_leave_every_worker_alive(told: Told) -> None:
    """A message that a worker cannot read ends it, and all of its sessions."""
    before = [worker["pid"] for worker in told.get("/api/v1/status")["workers"]]
    where = {"sni": "\0" * 512, "client": "unix:" + '"' * 507}
    assert told.order("reset", where=where)["reset"] == 0
    assert told.refused("reset", {"where": {"sni": '"' * 30_000}})[0] == 400
    ids = [f"ffffffff-ffffffff-{number:016x}" for number in range(1000)]
    assert told.order("reset", sessions=ids)["reset"] == 0
    assert [worker["pid"] for worker in told.get("/api/v1/status")["workers"]] == before
    assert not told.proxy.log("worker died")


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


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("expect: AUTH}", "expect: [AUTH]}"),
        ("expect: AUTH}", "expect: AUTH"),
        ("check: exchange", "check exchange"),
        ("check: exchange, send: ", "check: exchange, path: "),
        ("check: exchange, send: ", "check: exchange, interval: "),
        ('path: "/healthz', 'path: "healthz'),
        ('path: "/healthz', 'host: "/healthz'),
    ],
)
def test_who_may_read_learns_no_secret_from_a_file_that_is_wrong(
    right: str, wrong: str, told: Told
) -> None:
    """The file's lines are shown where it is wrong, and health checks send secrets."""
    text = told.proxy.config.read_text()
    assert right in text
    told.proxy.config.write_text(text.replace(right, wrong, 1))
    try:
        status, problem = told.refused("reload", {})
    finally:
        told.proxy.config.write_text(text)
    assert (status, "secret" in problem) == (409, True), "who may write is told all"
    events = told.get("/api/v1/events")["events"]
    name = "not reloaded: nothing has changed"
    [*_, told_to_all] = [line for line in events if line["event"] == name]
    [*_, line] = told.proxy.log(name)
    assert told_to_all["problems"][0].split(" ")[0] == line["problems"][0].split(" ")[0]
    assert "secret" in json.dumps(line)
    assert "secret" not in json.dumps(events)


def test_reload_tells_what_changed_or_what_is_wrong(told: Told) -> None:
    text = told.proxy.config.read_text()
    assert told.order("reload") == {"changes": []}
    told.proxy.config.write_text(text.replace("max_sessions: 50", "max_sessions: 51"))
    assert told.order("reload") == {"changes": ["~ listener web: max_sessions 50 → 51"]}
    told.proxy.config.write_text(text.replace("max_sessions: 50", "max_sesions: 51"))
    code, wrong = told.refused("reload", {})
    assert code == 409
    assert "max_sesions: unknown key; did you mean max_sessions?" in wrong
