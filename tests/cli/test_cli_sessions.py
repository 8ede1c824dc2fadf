"""`spliceproxy sessions`: what is asked for, what is shown, and what is reset."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from command import Spliceproxy
from fake_admin import FakeAdmin
from harness.proxy import running_proxy
from harness.upstreams import stall
from harness.wait import wait_until
from tmux import quoted, terminal

NOBODY_SILENT: dict[str, list[int]] = {"silent_workers": [], "silent_processes": []}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAdmin]:
    with FakeAdmin(tmp_path / "admin.sock") as running:
        running.answers["/api/v1/reset"] = {"reset": 12, **NOBODY_SILENT}
        monkeypatch.setenv("SPLICEPROXY_ADMIN", str(running.path))
        yield running


def test_a_name_that_is_not_there_is_told(fake: FakeAdmin, spliceproxy: Spliceproxy) -> None:
    shown = spliceproxy("sessions", "--pool", "ap")
    assert shown.stdout == ""
    assert shown.stderr.startswith("no session matches; there is no pool ap; there are app, ")
    fake.asked.clear()
    shown = spliceproxy("sessions", "--pool", "app", "--client", "203.0.113.9")
    assert shown.stderr == "no session matches\n"


def test_all_that_is_asked_for_is_asked_of_the_proxy(
    fake: FakeAdmin, spliceproxy: Spliceproxy
) -> None:
    options = (
        "0-1 0-2 --listener web --pool app --upstream 10.0.0.1:80 --client 10.0.0.0/8 "
        "--route routes[0] --sni a.example.com --phase relay --min-age 5m --min-idle 2 "
        "--sort -rtt --limit 7"
    )
    shown = spliceproxy("sessions", *options.split())
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "", "no session matches\n")
    (method, path, _), *_ = fake.asked
    assert (method, path.partition("?")[0]) == ("GET", "/api/v1/sessions")
    assert parse_qsl(path.partition("?")[2]) == [
        ("id", "0-1"),
        ("id", "0-2"),
        ("listener", "web"),
        ("pool", "app"),
        ("upstream", "10.0.0.1:80"),
        ("client", "10.0.0.0/8"),
        ("route", "routes[0]"),
        ("sni", "a.example.com"),
        ("phase", "relay"),
        ("min_age", "300.0"),
        ("min_idle", "2.0"),
        ("sort", "-rtt"),
        ("offset", "0"),
        ("limit", "7"),
    ]


@pytest.mark.usefixtures("fake")
def test_sessions_are_rows_with_all_columns_where_it_is_piped(spliceproxy: Spliceproxy) -> None:
    shown = spliceproxy("sessions", "--limit", "6")
    assert shown.returncode == 0
    assert shown.stderr == "6 of 40; --limit shows more\n"
    head, *rows = (" ".join(line.split()) for line in shown.stdout.splitlines())
    assert head == (
        "session listener route pool upstream client sni state age idle ↑ ↓ ↑/s ↓/s rtt"
    )
    assert rows[2] == (
        "0-eb810881-2 postgres - db 10.0.1.1:5432 192.0.2.3:44430 - open 37.5s 0.2s 162B 5.7MiB "
        "16.4KiB 818.4KiB 336µs"
    )
    assert " www.example.com ↓ blocked 12.5s " in rows[0]
    assert " www.example.com connect 1m15s " in rows[5]


def test_more_than_one_answer_holds_are_put_together(
    fake: FakeAdmin, spliceproxy: Spliceproxy
) -> None:
    fake.house.live = 2500
    answer = json.loads(spliceproxy("sessions", "--limit", "2300", "--json").stdout)
    assert len(answer["sessions"]) == 2300
    assert answer["matching"] == 2500
    asked = [dict(parse_qsl(path.partition("?")[2])) for _, path, _ in fake.asked]
    assert [(one["offset"], one["limit"]) for one in asked] == [
        ("0", "1000"),
        ("1000", "1000"),
        ("2000", "300"),
    ]


def test_who_did_not_answer_is_told(fake: FakeAdmin, spliceproxy: Spliceproxy) -> None:
    silent = {"silent_workers": [1], "silent_processes": [1234]}
    fake.answers["/api/v1/sessions"] = {**fake.house.sessions({}), **silent}
    assert spliceproxy("sessions").stderr == (
        "worker 1 did not answer: its sessions are missing\n"
        "process 1234 of before an upgrade did not answer: its sessions are missing\n"
    )
    fake.answers["/api/v1/reset"] = {"reset": 3, **silent}
    shown = spliceproxy("sessions", "--pool", "app", "--reset", "--yes")
    assert (shown.returncode, shown.stdout) == (1, "3 sessions reset\n")
    assert shown.stderr == (
        "worker 1 did not answer: its sessions may live on\n"
        "process 1234 of before an upgrade did not answer: its sessions may live on\n"
    )


def test_who_has_each_is_a_column_where_not_all_are_with_the_newest(
    fake: FakeAdmin, spliceproxy: Spliceproxy
) -> None:
    answer = fake.house.sessions({"limit": "2"})
    fake.answers["/api/v1/sessions"] = answer
    assert " process " not in spliceproxy("sessions").stdout
    answer["sessions"][1]["process"] = 1234
    head, *rows = (line.split() for line in spliceproxy("sessions").stdout.splitlines())
    assert head[:3] == ["session", "process", "listener"]
    assert [row[1] for row in rows] == ["4711", "1234"]


def test_a_reset_names_what_was_asked_for(fake: FakeAdmin, spliceproxy: Spliceproxy) -> None:
    shown = spliceproxy("sessions", "--pool", "app", "--min-idle", "5m", "--reset", "--yes")
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "12 sessions reset\n", "")
    assert fake.orders("/api/v1/reset") == [{"where": {"pool": "app", "min_idle": 300.0}}]
    shown = spliceproxy("sessions", "0-1", "--reset", "--yes")
    assert fake.orders("/api/v1/reset")[1:] == [{"sessions": ["0-1"]}]


@pytest.mark.parametrize(
    ("answer", "orders", "said"),
    [("y", 1, "12 sessions reset"), ("n", 0, "130"), ("", 0, "130")],
)
def test_on_a_terminal_it_asks_first(
    answer: str, orders: int, said: str, tmp_path: Path, fake: FakeAdmin
) -> None:
    with terminal(tmp_path) as shell:
        command = quoted(
            sys.executable, "-m", "spliceproxy", "sessions", "--pool", "canary", "--reset"
        )
        shell.type(f"{command}; echo $?")
        shell.press("Enter")
        shell.wait_for("Reset 10 sessions? [y/N]:")
        assert fake.orders("/api/v1/reset") == []
        shell.type(answer)
        shell.press("Enter")
        shell.wait(lambda now: f"\n{said}\n" in now and now.rstrip().endswith("$"), said)
        assert len(fake.orders("/api/v1/reset")) == orders


def test_sessions_of_a_real_proxy_are_listed_and_reset(
    tmp_path: Path, spliceproxy: Spliceproxy
) -> None:
    door = tmp_path / "real.sock"
    with stall() as silent:
        text = (
            f'admin: {{bind: "unix:{door}"}}\n'
            "listeners:\n"
            '  web: {bind: "127.0.0.1:0", pool: app}\n'
            '  other: {bind: "127.0.0.1:0", pool: app}\n'
            f'pools: {{app: {{upstreams: "{silent.address}"}}}}\n'
        )
        with (
            running_proxy(text, workers=2) as proxy,
            proxy.connect("web") as client,
            proxy.connect("other"),
        ):

            def listed(*filters: str) -> list[list[str]]:
                shown = spliceproxy("sessions", *filters, "--admin", door)
                return [line.split() for line in shown.stdout.splitlines()[1:]]

            wait_until(lambda: len(listed()) == 2, 10, "two sessions")
            [row] = listed("--listener", "web")
            host, port = client.getsockname()
            assert row[1:6] == ["web", "-", "app", silent.address, f"{host}:{port}"]
            shown = spliceproxy("sessions", row[0], "--reset", "--yes", "--admin", door)
            assert shown.stdout == "1 session reset\n"
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            [record] = proxy.wait_records(1)
            assert (record["session"], record["why"]) == (row[0], "operator")
            assert len(listed()) == 1
