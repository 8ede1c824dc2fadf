"""`spliceproxy status`: what stands where, and what is left out where there is no room."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import Spliceproxy
from fake_admin import FakeAdmin
from tmux import quoted, terminal


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAdmin]:
    with FakeAdmin(tmp_path / "admin.sock") as running:
        monkeypatch.setenv("SPLICEPROXY_ADMIN", str(running.path))
        yield running


def in_terminal(directory: Path, width: int, height: int = 50) -> list[str]:
    """The lines of the status in a terminal of that width."""
    with terminal(directory, width, height) as shell:
        shell.type("clear; " + quoted(sys.executable, "-m", "spliceproxy", "status"))
        shell.press("Enter")
        screen = shell.wait(
            lambda now: now.startswith("spliceproxy") and now.rstrip().endswith("$"), "the status"
        )
    return screen.rstrip("\n$ ").splitlines()


def test_what_moves_stands_beside_what_there_is(fake: FakeAdmin, spliceproxy: Spliceproxy) -> None:
    shown = spliceproxy("status")
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[0] == "spliceproxy 0.1.0  pid 4711  up 1d 3h  ready"
    total = fake.house.traffic()["total"]["rates"]
    assert re.fullmatch(
        rf"328 sessions  ↑ \S+MiB/s  ↓ \S+MiB/s  ended {total['ended']:.0f}/s  errors 0.90/s",
        lines[1],
    )
    rows = [line.split() for line in lines]
    assert ["worker", "pid", "state", "sessions", "cpu", "lag"] in rows
    assert ["1", "4713", "ready", "164", "92%", "12ms"] in rows
    heads = "pool upstream state tier weight sessions ↑/s ↓/s ended/s errors/s connect p50 p99"
    assert heads.split() in rows
    [five] = [line for line in lines if "10.0.0.2:80" in line]
    assert re.search(r" up +0 +1 → 5 +\d+ of 200 +\S+iB +\S+MiB +\S+ .* 0.30ms  1.20ms$", five)
    assert any(re.match(r"canary +10.0.0.20:9000 +up at 40% ", line) for line in lines)
    assert any(re.match(r"db \(2 waiting\) +10.0.1.1:5432 +up ", line) for line in lines)
    assert any(re.search(r" 10.0.1.2:5432 +draining .* 0 +0.10 +- +-$", line) for line in lines)


def test_why_it_is_not_ready_is_told(fake: FakeAdmin, spliceproxy: Spliceproxy) -> None:
    fake.house.not_ready = ["pool app has no upstream that can be used", "draining"]
    lines = spliceproxy("status").stdout.splitlines()
    assert lines[0].endswith("  not ready")
    assert lines[1] == "not ready: pool app has no upstream that can be used; draining"


def test_json_is_the_status_and_the_traffic(fake: FakeAdmin, spliceproxy: Spliceproxy) -> None:
    answer = json.loads(spliceproxy("status", "--json").stdout)
    assert answer == {**fake.house.status(), "traffic": fake.house.traffic()}


@pytest.mark.usefixtures("fake")
def test_eighty_columns_have_what_says_most(tmp_path: Path) -> None:
    lines = in_terminal(tmp_path, 80)
    assert max(map(len, lines)) <= 80
    head = next(line for line in lines if line.startswith("pool"))
    assert head.split() == ["pool", "upstream", "state", "sessions", "↑/s", "↓/s"]
    # A long name is continued, not cut.
    at = head.index("upstream")
    column = "".join(line[at : at + 23].strip() for line in lines[-2:])
    assert column == "unix:/run/postgresql/.s.PGSQL.5432"


@pytest.mark.usefixtures("fake")
def test_a_wide_terminal_has_all_columns(tmp_path: Path) -> None:
    lines = in_terminal(tmp_path, 160)
    head = next(line for line in lines if line.startswith("pool"))
    assert head.split()[-3:] == ["connect", "p50", "p99"]
    assert "tier" in head


@pytest.mark.usefixtures("fake")
def test_a_very_narrow_one_still_has_the_names(tmp_path: Path) -> None:
    lines = in_terminal(tmp_path, 40, 100)
    assert any("10.0.0.1" in line for line in lines)
