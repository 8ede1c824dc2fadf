"""Where the running proxy is, with which token it is asked, and the small orders."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import Spliceproxy
from fake_admin import FakeAdmin
from harness.proxy import running_proxy


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeAdmin]:
    with FakeAdmin(tmp_path / "admin.sock", token="a-secret") as running:
        yield running


def test_over_tcp_the_token_comes_from_a_file_or_the_environment(
    fake: FakeAdmin, tmp_path: Path, spliceproxy: Spliceproxy
) -> None:
    file = tmp_path / "token"
    file.write_text("a-secret\n")
    place = f"http://127.0.0.1:{fake.port}"
    shown = spliceproxy("status", "--admin", place, "--token-file", file)
    assert shown.stdout.startswith("spliceproxy 0.1.0")
    env = {"SPLICEPROXY_TOKEN": "a-secret", "SPLICEPROXY_ADMIN": f"{place}/"}
    assert spliceproxy("status", env=env).stdout == shown.stdout
    file.write_text("another")
    shown = spliceproxy("status", "--token-file", file, env=env)
    assert (shown.returncode, shown.stderr) == (1, "spliceproxy: this takes a token\n")
    shown = spliceproxy("status", "--admin", place)
    assert shown.returncode == 1
    assert shown.stderr == (
        "spliceproxy: this takes a token; --token-file or SPLICEPROXY_TOKEN names it\n"
    )


@pytest.mark.parametrize(
    ("place", "code", "said"),
    [
        ("https://127.0.0.1:1", 2, "--admin https://127.0.0.1:1: no such place; write a path, "),
        ("http://", 2, "--admin http://: no such place; write a path, "),
        ("http://127.0.0.1:x", 2, "--admin http://127.0.0.1:x: "),
        ("http://127.0.0.1:1", 1, "no spliceproxy answers at http://127.0.0.1:1; is it running? "),
        ("unix:/nowhere/at.sock", 1, "no spliceproxy answers at /nowhere/at.sock; is it running? "),
        ("/nowhere/at.sock", 1, "no spliceproxy answers at /nowhere/at.sock; is it running? "),
    ],
)
def test_a_place_where_nobody_is_or_could_be_is_one_line(
    place: str, code: int, said: str, spliceproxy: Spliceproxy
) -> None:
    for command in ("status", "sessions", "tail", "top", "dashboard"):
        shown = spliceproxy(command, "--admin", place)
        assert (shown.returncode, shown.stdout) == (code, "")
        [line] = shown.stderr.splitlines()
        assert line.startswith(f"spliceproxy: {said}")


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe"])
def test_a_token_file_that_is_none_is_one_line(
    content: bytes | None, fake: FakeAdmin, tmp_path: Path, spliceproxy: Spliceproxy
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    place = f"http://127.0.0.1:{fake.port}"
    shown = spliceproxy("status", "--admin", place, "--token-file", file)
    assert (shown.returncode, shown.stdout) == (1, "")
    [line] = shown.stderr.splitlines()
    assert line.startswith(f"spliceproxy: --token-file {file}: ")


def test_the_link_to_the_dashboard_carries_the_token(
    fake: FakeAdmin, spliceproxy: Spliceproxy
) -> None:
    urls = ["http://127.0.0.1:9900/", "http://[::1]:9900/"]
    fake.answers["/api/v1/token"] = {"write": "a-secret", "urls": urls}
    shown = spliceproxy("dashboard", "--admin", fake.path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines() == [f"{url}#token=a-secret" for url in urls]


def test_the_link_is_opened_by_the_browser_that_there_is(
    fake: FakeAdmin, tmp_path: Path, spliceproxy: Spliceproxy
) -> None:
    fake.answers["/api/v1/token"] = {"write": "a-secret", "urls": ["http://127.0.0.1:9900/"]}
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    browser.chmod(0o755)
    shown = spliceproxy(
        "dashboard", "--open", "--admin", fake.path, env={"BROWSER": f"{browser} %s"}
    )
    assert shown.returncode == 0
    assert opened.read_text() == shown.stdout


def test_without_a_tcp_address_it_tells_what_to_write(
    fake: FakeAdmin, spliceproxy: Spliceproxy
) -> None:
    fake.answers["/api/v1/token"] = {"write": "a-secret", "urls": []}
    shown = spliceproxy("dashboard", "--admin", fake.path)
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr == (
        "spliceproxy: the dashboard needs a TCP address, and none is configured; write for "
        "example admin: {bind: [unix:/run/spliceproxy/admin.sock, 127.0.0.1:9900]}\n"
    )


@pytest.mark.parametrize(
    ("said", "sent", "answer", "told"),
    [
        ("3", 3, (3, 1, True), "weight 3, configured 1"),
        ("0", 0, (0, 1, True), "weight 0, configured 1"),
        ("1", 1, (1, 1, False), "weight 1 (as before)"),
        ("default", None, (1, 1, True), "weight 1"),
    ],
)
def test_a_weight_is_set_and_taken_back(
    said: str,
    sent: int | None,
    answer: tuple[int, int, bool],
    told: str,
    fake: FakeAdmin,
    spliceproxy: Spliceproxy,
) -> None:
    target = "pool/app/10.0.0.1:80"
    weight, configured, changed = answer
    fake.answers["/api/v1/weight"] = {
        "target": target,
        "weight": weight,
        "configured_weight": configured,
        "changed": changed,
    }
    shown = spliceproxy("weight", target, said, "--admin", fake.path)
    assert (shown.returncode, shown.stdout) == (0, f"{target}: {told}\n")
    assert fake.orders("/api/v1/weight") == [{"target": target, "weight": sent}]


def test_the_log_level_is_set(fake: FakeAdmin, spliceproxy: Spliceproxy) -> None:
    fake.answers["/api/v1/log-level"] = {"level": "debug", "before": "info"}
    shown = spliceproxy("log-level", "debug", "--admin", fake.path)
    assert (shown.returncode, shown.stdout) == (0, "log level info → debug\n")
    assert fake.orders("/api/v1/log-level") == [{"level": "debug"}]


def test_what_the_proxy_refuses_is_told(fake: FakeAdmin, spliceproxy: Spliceproxy) -> None:
    fake.answers["/api/v1/weight"] = (404, {"error": "there is no pool ap; did you mean app?"})
    shown = spliceproxy("weight", "pool/ap/10.0.0.1:80", "3", "--admin", fake.path)
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr == "spliceproxy: there is no pool ap; did you mean app?\n"


def test_a_running_proxy_obeys_them_and_is_seen_to(
    tmp_path: Path, spliceproxy: Spliceproxy
) -> None:
    door = tmp_path / "real.sock"
    text = (
        f'admin: {{bind: ["unix:{door}", "127.0.0.1:0"]}}\n'
        'listeners: {web: {bind: "127.0.0.1:0", pool: app}}\n'
        "pools: {app: {upstreams: [127.0.0.1:9001, 127.0.0.1:9002]}}\n"
    )
    target = "pool/app/127.0.0.1:9001"
    env = {"SPLICEPROXY_ADMIN": str(door)}
    with running_proxy(text) as proxy:
        shown = spliceproxy("weight", target, "3", env=env)
        assert shown.stdout == f"{target}: weight 3, configured 1\n"
        assert "1 → 3" in spliceproxy("status", env=env).stdout
        explained = spliceproxy("explain", "--live", "--listener", "web", env=env).stdout
        assert re.search(r"^127\.0\.0\.1:9001 +75% ", explained, re.MULTILINE)
        shown = spliceproxy("weight", target, "default", env=env)
        assert shown.stdout == f"{target}: weight 1\n"
        shown = spliceproxy("weight", "pool/app/127.0.0.1:9003", "3", env=env)
        assert shown.returncode == 1
        assert "has no upstream 127.0.0.1:9003" in shown.stderr
        assert spliceproxy("log-level", "debug", env=env).stdout == "log level info → debug\n"
        assert spliceproxy("log-level", "info", env=env).stdout == "log level debug → info\n"
        [link] = spliceproxy("dashboard", env=env).stdout.splitlines()
        url, _, token = link.partition("#token=")
        over_tcp = {"SPLICEPROXY_ADMIN": url, "SPLICEPROXY_TOKEN": token}
        assert spliceproxy("drain", target, env=over_tcp).stdout.startswith(f"{target}: draining")
        shown = spliceproxy("undrain", target, env={"SPLICEPROXY_ADMIN": url})
        assert (shown.returncode, shown.stdout) == (1, "")
        assert "--token-file or SPLICEPROXY_TOKEN names it" in shown.stderr
        assert spliceproxy("status", env={"SPLICEPROXY_ADMIN": url}).returncode == 0
        assert proxy.log("draining")
