"""Tab in real shells: commands, options, and names that only the running proxy knows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command import Spliceproxy
from fake_admin import FakeAdmin
from tmux import Terminal, quoted, terminal

SHELLS = ["bash", "zsh", "fish"]
PROGRAMS = Path(sys.executable).parent
CLEAN = {
    "bash": ("bash", "--norc", "--noprofile"),
    "zsh": ("zsh", "-f"),
    "fish": ("fish", "--no-config"),
}
SET_UP = {
    "bash": 'eval "$(spliceproxy completion bash)"',
    "zsh": 'PROMPT="$ "; autoload -U compinit; compinit -D; eval "$(spliceproxy completion zsh)"',
    "fish": 'function fish_prompt; echo "\\$ "; end; spliceproxy completion fish | source',
}


@contextmanager
def completing(shell: str, directory: Path, admin: Path) -> Iterator[Terminal]:
    """That shell, with the script in it."""
    env = {
        "PATH": f"{PROGRAMS}:/usr/bin:/bin",
        "SPLICEPROXY_ADMIN": str(admin),
        "HOME": str(directory),
    }
    with terminal(directory, 120, 40, env) as shown:
        if shell != "bash":
            shown.type(f"exec {quoted(*CLEAN[shell])}")
            shown.press("Enter")
        shown.type(f"{SET_UP[shell]}; clear; echo set up")
        shown.press("Enter")
        shown.wait(lambda now: now.startswith("set up"), "the script")
        yield shown


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeAdmin]:
    with FakeAdmin(tmp_path / "admin.sock") as running:
        yield running


def complete(shown: Terminal, begun: str, whole: str) -> None:
    """Tab behind `begun` makes it `whole`."""
    shown.press("C-u")
    shown.type(begun)
    shown.press("Tab")
    shown.wait(lambda now: now.rstrip().endswith(f"$ {whole}"), f"{begun!r} completed")


@pytest.mark.parametrize("shell", SHELLS)
def test_what_can_follow_in_one_way_only_is_completed(
    shell: str, tmp_path: Path, fake: FakeAdmin
) -> None:
    with completing(shell, tmp_path, fake.path) as shown:
        for begun, whole in (
            ("spliceproxy comp", "spliceproxy completion"),
            ("spliceproxy log-level de", "spliceproxy log-level debug"),
            ("spliceproxy sessions --limi", "spliceproxy sessions --limit"),
            ("spliceproxy sessions --pool can", "spliceproxy sessions --pool canary"),
            ("spliceproxy explain --listener post", "spliceproxy explain --listener postgres"),
            ("spliceproxy drain listener/w", "spliceproxy drain listener/web"),
            ("spliceproxy drain pool/canary/", "spliceproxy drain pool/canary/10.0.0.20:9000"),
            (
                "spliceproxy weight pool/app/10.0.0.1:",
                "spliceproxy weight pool/app/10.0.0.1:80",
            ),
            ("spliceproxy tail --why idle", "spliceproxy tail --why idle_timeout"),
        ):
            complete(shown, begun, whole)


@pytest.mark.parametrize("shell", SHELLS)
def test_all_that_can_follow_is_listed(shell: str, tmp_path: Path, fake: FakeAdmin) -> None:
    with completing(shell, tmp_path, fake.path) as shown:
        shown.type("spliceproxy drain pool/db/")
        shown.press("Tab", "Tab")
        for name in ("10.0.1.1:5432", "10.0.1.2:5432", "unix:/run/postgresql/.s.PGSQL.5432"):
            shown.wait_for(name.partition(":")[0])


@pytest.mark.parametrize("shell", SHELLS)
def test_where_no_proxy_runs_nothing_is_offered_and_nothing_said(
    shell: str, tmp_path: Path
) -> None:
    with completing(shell, tmp_path, tmp_path / "nobody.sock") as shown:
        complete(shown, "spliceproxy drain pool/", "spliceproxy drain pool/")
        complete(shown, "spliceproxy stat", "spliceproxy status")


def test_a_proxy_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, spliceproxy: Spliceproxy
) -> None:
    import socket
    import time

    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent.sock"))
        silent.listen()
        env = {
            "_SPLICEPROXY_COMPLETE": "bash_complete",
            "COMP_LINE": "spliceproxy drain ",
            "COMP_WORDBREAKS": ":=",
            "SPLICEPROXY_ADMIN": str(tmp_path / "silent.sock"),
        }
        began = time.monotonic()
        shown = spliceproxy(env=env)
        assert time.monotonic() - began < 5
    assert (shown.returncode, shown.stdout.strip(), shown.stderr) == (0, "", "")


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_right_to_its_shell(shell: str, spliceproxy: Spliceproxy) -> None:
    script = spliceproxy("completion", shell)
    assert (script.returncode, script.stderr) == (0, "")
    checked = subprocess.run(
        [shell, "-n"], input=script.stdout, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")
