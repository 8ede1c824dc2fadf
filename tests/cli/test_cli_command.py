"""The command as a whole: help, version, wrong command lines, output that nobody reads."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import Spliceproxy

import spliceproxy as package

COMMANDS = [
    "run",
    "check",
    "forward",
    "status",
    "top",
    "sessions",
    "tail",
    "explain",
    "dashboard",
    "reload",
    "upgrade",
    "drain",
    "undrain",
    "weight",
    "log-level",
    "demo",
    "schema",
    "completion",
]


def test_console_script_and_module_are_the_same_command(spliceproxy: Spliceproxy) -> None:
    script = Path(sys.executable).with_name("spliceproxy")
    version = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout == f"spliceproxy {package.__version__}\n"
    assert spliceproxy("--version").stdout == version.stdout


def test_version_is_that_of_the_installed_package() -> None:
    assert importlib.metadata.version("spliceproxy") == package.__version__


def test_help_lists_every_command(spliceproxy: Spliceproxy) -> None:
    shown = spliceproxy("--help")
    assert shown.returncode == 0
    listed = [line.split()[0] for line in shown.stdout.split("Commands:\n")[1].splitlines()]
    assert listed == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, spliceproxy: Spliceproxy) -> None:
    shown = spliceproxy(command, "--help")
    assert shown.returncode == 0
    assert shown.stderr == ""
    assert shown.stdout.startswith(f"Usage: spliceproxy {command} ")
    assert max(map(len, shown.stdout.splitlines())) <= 90
    assert spliceproxy(command, "-h").stdout == shown.stdout


def test_help_loads_nothing_that_it_does_not_need() -> None:
    """What makes `--help` quick, counted instead of timed."""
    program = (
        "import sys\n"
        "from spliceproxy.cli.app import run_command\n"
        "code = run_command(['--help'])\n"
        "heavy = {'yaml', 'pydantic', 'structlog', 'rich', 'asyncio', 'orjson', 'http.client'}\n"
        "print(code, sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert shown.stderr == "0 []\n"


@pytest.mark.parametrize(
    ("wing", "unwanted"),
    [
        ("import spliceproxy.worker.worker", {"yaml", "pydantic", "rich", "aiohttp"}),
        ("from spliceproxy import config, control, admin", {"rich", "aiohttp"}),
    ],
    ids=["worker", "supervisor"],
)
def test_what_runs_for_long_loads_nothing_that_it_does_not_need(
    wing: str, unwanted: set[str]
) -> None:
    """What each worker would pay with memory; and rich is there for those who ask for it later."""
    program = (
        f"import sys\n{wing}\n"
        f"print(sorted({unwanted} & set(sys.modules)), 'structlog' in sys.modules)\n"
        "import rich.console\n"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (shown.stdout, shown.stderr) == ("[] True\n", "")


def test_no_arguments_show_the_help_and_are_a_usage_error(spliceproxy: Spliceproxy) -> None:
    shown = spliceproxy()
    assert shown.returncode == 2
    assert shown.stdout == ""
    assert shown.stderr == spliceproxy("--help").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rum"], "No such command 'rum'"),
        (["--frob"], "No such option '--frob'"),
        (["check"], "Missing argument 'FILE'"),
        (["run", "a.yaml", "b.yaml"], "Got unexpected extra argument (b.yaml)"),
        (["forward", ":8080"], "Missing argument 'UPSTREAM...'"),
        (["forward", "--workers", "0", ":8080", "127.0.0.1:1"], "Invalid value for '--workers'"),
        (["demo", "--seconds", "soon"], "Invalid value for '--seconds'"),
        (["sessions", "--sort", "name"], "Invalid value for '--sort'"),
        (["sessions", "--min-age", "old"], "Invalid value for '--min-age'"),
        (["sessions", "--reset"], "--reset needs a filter, or sessions"),
        (["sessions", "--reset", "--pool", "app"], "--reset asks on a terminal only; say --yes"),
        (["sessions", "0-1", "--reset", "--pool", "app"], "--reset takes sessions or filters"),
        (["explain"], "Missing option '--listener'"),
        (["explain", "a.yaml", "--live", "--listener", "web"], "--live asks the running proxy"),
        (["weight", "pool/app/a:1", "-1"], "No such option '-1'"),
        (["weight", "pool/app/a:1", "many"], "Invalid value for 'N|default'"),
        (["log-level", "loud"], "Invalid value for"),
        (["completion", "tcsh"], "Invalid value for"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, spliceproxy: Spliceproxy
) -> None:
    shown = spliceproxy(*arguments)
    assert shown.returncode == 2
    assert shown.stdout == ""
    (line,) = shown.stderr.splitlines()
    assert line.startswith(f"spliceproxy: {message}")
    assert "; see spliceproxy" in line
    assert line.endswith("--help")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["run"], ["demo"]])
def test_elsewhere_than_on_linux_one_line_says_so(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "sys.platform = 'darwin'\n"
        f"sys.argv = ['spliceproxy', *{arguments!r}]\n"
        "from spliceproxy.cli import main\n"
        "main()\n"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert shown.returncode == 1
    assert shown.stdout == ""
    assert shown.stderr == "spliceproxy: runs on Linux only, and this is darwin\n"


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        command = [sys.executable, "-m", "spliceproxy", "schema"]
        shown = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE)
    finally:
        os.close(writer)
    assert shown.returncode == 1
    assert shown.stderr == b""


def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "spliceproxy", "schema"]
        shown = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert shown.returncode == 1
    assert shown.stderr == "spliceproxy: No space left on device\n"


def test_no_colour_goes_to_a_file(spliceproxy: Spliceproxy, wrong: Path) -> None:
    for arguments in ([], ["--help"], ["rum"], ["check", wrong], ["schema"]):
        shown = spliceproxy(*arguments)
        assert "\x1b" not in shown.stdout + shown.stderr


@pytest.mark.alone
def test_help_answers_at_once() -> None:
    """Far above what it takes (50 ms), far below what loading everything would take."""
    script = shutil.which("spliceproxy", path=Path(sys.executable).parent)
    assert script is not None
    times = []
    for _ in range(5):
        start = time.monotonic()
        subprocess.run([script, "--help"], check=True, stdout=subprocess.DEVNULL)
        times.append(time.monotonic() - start)
    assert min(times) < 0.15
