"""`spliceproxy run`: which file it takes, and how it fails."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
from command import Spliceproxy, running

ETC = Path("/etc/spliceproxy/spliceproxy.yaml")


@pytest.mark.skipif(ETC.exists(), reason=f"{ETC} exists on this machine")
def test_without_any_file_both_places_are_named(spliceproxy: Spliceproxy) -> None:
    shown = spliceproxy("run")
    assert shown.returncode == 2
    assert shown.stderr == (
        "spliceproxy: run: no FILE was named, and neither ./spliceproxy.yaml nor"
        " /etc/spliceproxy/spliceproxy.yaml exists\n"
    )


def test_without_a_file_the_one_in_this_directory_is_taken(
    spliceproxy: Spliceproxy, wrong: Path
) -> None:
    wrong.rename(wrong.with_name("spliceproxy.yaml"))
    shown = spliceproxy("run")
    assert shown.returncode == 78
    assert shown.stderr.startswith("spliceproxy.yaml:")


def test_a_wrong_configuration_starts_nothing(spliceproxy: Spliceproxy, wrong: Path) -> None:
    shown = spliceproxy("run", wrong)
    assert shown.returncode == 78
    assert shown.stdout == ""
    assert shown.stderr == spliceproxy("check", wrong).stderr


def test_an_address_in_use_is_told_and_exit_code_1(spliceproxy: Spliceproxy, minimal: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        minimal.write_text(minimal.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}"))
        shown = spliceproxy("run", minimal)
    assert shown.returncode == 1
    assert shown.stdout == ""
    told = [line for line in shown.stderr.splitlines() if line.startswith("spliceproxy: ")]
    assert len(told) == 1
    assert f"127.0.0.1:{port}" in told[0]
    assert "in use" in told[0]
    assert str(os.getpid()) in told[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_ends_well_when_it_is_told_to(number: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "in.sock"
    file = tmp_path / "app.yaml"
    file.write_text(
        f"listeners: {{web: {{bind: unix:{path}, pool: app}}}}\n"
        "pools: {app: {upstreams: 127.0.0.1:9}}\n"
    )
    with running(tmp_path / "log", "run", file) as proxy:
        assert path.exists()
        proxy.send_signal(number)
        assert proxy.wait(15) == 0
    assert not path.exists()
