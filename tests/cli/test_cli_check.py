"""`spliceproxy check` and `spliceproxy schema`."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from command import Spliceproxy


def test_a_right_file_is_one_line(spliceproxy: Spliceproxy, minimal: Path) -> None:
    shown = spliceproxy("check", minimal.name)
    assert shown.returncode == 0
    assert shown.stdout == "app.yaml: OK: 1 listener, 1 pool, 2 upstreams\n"
    assert shown.stderr == ""


def test_all_mistakes_are_told_with_their_place(spliceproxy: Spliceproxy, wrong: Path) -> None:
    shown = spliceproxy("check", wrong.name)
    assert shown.returncode == 78
    assert shown.stdout == ""
    lines = shown.stderr.splitlines()
    places = [line for line in lines if line.startswith("wrong.yaml:")]
    assert len(places) >= 2
    assert any("listeners.web.pool" in line and "app" in line for line in places)
    assert any("pools.app.upstream" in line and "upstreams" in line for line in places)
    assert "Traceback" not in shown.stderr


def test_a_missing_file_is_one_line(spliceproxy: Spliceproxy) -> None:
    shown = spliceproxy("check", "nowhere.yaml")
    assert shown.returncode == 78
    (line,) = shown.stderr.splitlines()
    assert line.startswith("nowhere.yaml: ")


def test_a_closed_standard_output_is_no_failure(minimal: Path) -> None:
    command = f"exec {sys.executable} -m spliceproxy check {minimal} >&-"
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=20)
    assert (result.returncode, result.stderr) == (0, "")


def test_checking_binds_nothing(spliceproxy: Spliceproxy, minimal: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        minimal.write_text(minimal.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}"))
        assert spliceproxy("check", minimal).returncode == 0


def test_checking_asks_no_network_and_needs_no_rights(minimal: Path) -> None:
    """strace sees no socket at all, although an upstream has a name and a port is below 1024."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    text = minimal.read_text().replace("127.0.0.1:0", ":80").replace("127.0.0.1:9001", "db.test:1")
    minimal.write_text(text)
    trace = minimal.with_name("trace")
    traced = [strace, "-f", "-o", str(trace), "-e", "trace=socket,bind,connect"]
    command = [*traced, sys.executable, "-m", "spliceproxy", "check", str(minimal)]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0, shown.stderr
    calls = [line for line in trace.read_text().splitlines() if "(" in line]
    assert calls == []


def test_schema_is_a_json_schema_of_the_language(spliceproxy: Spliceproxy) -> None:
    shown = spliceproxy("schema")
    assert shown.returncode == 0
    schema = json.loads(shown.stdout)
    assert {"listeners", "pools", "timeouts"} <= schema["properties"].keys()
