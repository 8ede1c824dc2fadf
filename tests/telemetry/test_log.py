"""telemetry/log.py: lines on standard error that never block the program and never end it.

Each program here is a process of its own, since standard error is one per process.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from harness.fds import same_fds
from harness.wait import wait_until

HEAD = """
import logging, os, sys, structlog
from spliceproxy.telemetry import log
log.set_up("info", FORMAT)
logger = structlog.get_logger()
"""

FLOOD = """
for number in range(3000):
    logger.info("flood", number=number, text="x" * 100)
print("done", flush=True)
sys.stdin.readline()
logger.info("after")
"""


def run(body: str, format: str = "json", **kwargs: object) -> subprocess.CompletedProcess[str]:
    """Run `body` after the set-up; standard error is a pipe unless `kwargs` say otherwise."""
    return subprocess.run(
        [sys.executable, "-c", f"FORMAT = {format!r}\n{HEAD}\n{body}"],
        **{"stderr": subprocess.PIPE, "text": True, "timeout": 20, **kwargs},  # type: ignore[call-overload]
    )


def test_json_has_time_level_event_and_then_the_fields() -> None:
    done = run('logger.warning("worker died", worker=1, pid=77, reason="SIGKILL")')
    [line] = done.stderr.splitlines()
    event = json.loads(line)
    assert list(event) == ["time", "level", "event", "worker", "pid", "reason"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["time"])
    assert event["level"] == "warning"
    assert event["event"] == "worker died"


def test_the_level_holds_back_what_is_below() -> None:
    done = run('logger.debug("no"); logger.info("yes")')
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()] == ["yes"]


def test_what_json_cannot_say_is_said_as_text() -> None:
    done = run('logger.info("odd", path="/\\udcff", big=2**70, kind=ValueError("x"), data=b"b")')
    event = json.loads(done.stderr)
    assert event["path"] == "/\udcff"
    assert event["big"] == 2**70
    assert event["kind"] == "x"


def test_an_exception_is_one_line_of_json() -> None:
    done = run('try: 1/0\nexcept Exception: logger.exception("oops")')
    [line] = done.stderr.splitlines()
    assert json.loads(line)["exception"].endswith("ZeroDivisionError: division by zero")


def test_libraries_speak_through_the_same_door() -> None:
    done = run(
        'logging.getLogger("asyncio").info("chatter")\n'
        'logging.getLogger("asyncio").warning("slow: %s", "callback")\n'
        'logging.getLogger("asyncio").error("broken %d", "format")\n'
    )
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(e["level"], e["event"], e["logger"]) for e in events] == [
        ("warning", "slow: callback", "asyncio"),
        ("error", "broken %d", "asyncio"),
    ]


def test_console_is_a_plain_line_where_there_is_no_terminal() -> None:
    done = run('logger.info("listening", listener="web")', "console")
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} \[info\] listening listener=web\n", done.stderr)


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_auto_is_console_on_a_terminal_in_colour_unless_forbidden(
    environment: dict[str, str], coloured: bool
) -> None:
    here, there = pty.openpty()
    plain = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM")}
    run('logger.info("listening")', "auto", stderr=there, env={**plain, **environment})
    text = os.read(here, 4096).decode()
    os.close(here)
    os.close(there)
    assert "listening" in text
    assert ("\x1b[" in text) is coloured


def test_auto_is_json_elsewhere() -> None:
    assert json.loads(run('logger.info("x")', "auto").stderr)["event"] == "x"


def test_set_up_again_changes_loggers_that_exist_and_leaks_no_fd() -> None:
    done = run(
        "bound = logger.bind(worker=1)\n"
        'before = len(os.listdir("/proc/self/fd"))\n'
        "for _ in range(100): log.set_up('warning', 'json')\n"
        'assert len(os.listdir("/proc/self/fd")) == before\n'
        'logger.info("no"); logger.warning("yes"); bound.error("bound")\n'
    )
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [event["event"] for event in events] == ["yes", "bound"]


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "2> >(true)"])
def test_a_closed_or_full_standard_error_ends_nothing(redirection: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    body = 'for _ in range(100): logger.info("x" * 1000)\nprint("done")'
    program.write_text(f"FORMAT = 'json'\n{HEAD}\n{body}")
    done = subprocess.run(
        ["bash", "-c", f"exec {sys.executable} {program} {redirection}"],
        stdout=subprocess.PIPE,
        timeout=20,
    )
    assert (done.returncode, done.stdout) == (0, b"done\n")


def _flood(reader: int, writer: int, first: str = "") -> list[dict[str, object]]:
    """Let a process log 3,000 lines that nobody reads, then read them; `first` it runs before."""
    with subprocess.Popen(
        [sys.executable, "-c", f"FORMAT = 'json'\n{HEAD}\n{first}\n{FLOOD}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=writer,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if not select.select([process.stdout], [], [], 15)[0]:
            process.kill()
        assert process.stdout.readline() == b"done\n", "a log line blocked the program"
        os.set_blocking(reader, False)
        data = bytearray(_read(reader))
        process.stdin.write(b"\n")
        process.stdin.flush()
        wait_until(lambda: data.extend(_read(reader)) or b'"after"' in data, 10, "the last line")
        assert process.wait(10) == 0
    return [json.loads(line) for line in data.splitlines()]


def _read(fd: int) -> bytes:
    data = bytearray()
    while True:
        try:
            more = os.read(fd, 65536)
        except BlockingIOError:
            return bytes(data)
        if not more:
            return bytes(data)
        data += more


def _check_flood(lines: list[dict[str, object]]) -> None:
    flood = [line for line in lines if line["event"] == "flood"]
    assert 0 < len(flood) < 3000
    assert [line["number"] for line in flood] == list(range(len(flood)))
    lost = [line for line in lines if line["event"] == "log lines lost"]
    assert [line["lines"] for line in lost] == [3000 - len(flood)]
    assert lines[-1]["event"] == "after"


def test_an_unread_pipe_loses_lines_and_not_time_and_the_loss_is_told() -> None:
    with same_fds():
        reader, writer = os.pipe()
        flags = fcntl.fcntl(writer, fcntl.F_GETFL)
        lines = _flood(reader, writer)
        assert fcntl.fcntl(writer, fcntl.F_GETFL) == flags  # it is not ours alone
        os.close(reader)
        os.close(writer)
    _check_flood(lines)


def test_the_unread_pipe_of_another_user_loses_lines_and_not_time() -> None:
    """It cannot be opened anew: poll comes first."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    reader, writer = os.pipe()
    lines = _flood(reader, writer, "os.setuid(65534); log.set_up('info', FORMAT)")
    os.close(reader)
    os.close(writer)
    _check_flood(lines)


def test_an_unread_socket_loses_lines_and_not_time() -> None:
    """Standard error of a systemd service is a stream socket."""
    here, there = socket.socketpair()
    with here, there:
        lines = _flood(here.fileno(), there.fileno())
    _check_flood(lines)


def test_lines_of_two_processes_never_mix() -> None:
    body = "for n in range(500): logger.info(sys.argv[1] * 1500, n=n, who=sys.argv[1])"
    reader, writer = os.pipe()
    command = [sys.executable, "-c", f"FORMAT = 'json'\n{HEAD}\n{body}"]
    both = [subprocess.Popen([*command, who], stderr=writer) for who in "ab"]
    os.close(writer)
    with open(reader, "rb") as file:
        lines = [json.loads(line) for line in file]
    assert [process.wait(10) for process in both] == [0, 0]
    for line in lines:
        if line["event"] != "log lines lost":
            assert set(line["event"]) == {line["who"]}
    assert len(lines) > 10


def test_standard_fds_that_are_closed_become_dev_null() -> None:
    program = (
        "import os, sys\n"
        "from spliceproxy.telemetry.log import hold_standard_fds\n"
        "hold_standard_fds()\n"
        "here, there = os.pipe()\n"
        "os._exit(0 if here > 2 and all(os.readlink(f'/proc/self/fd/{n}') == '/dev/null'"
        " and os.get_inheritable(n) for n in (0, 1, 2)) else 1)\n"
    )
    done = subprocess.run(
        ["bash", "-c", f'exec {sys.executable} -c "$0" <&- >&- 2>&-', program], timeout=20
    )
    assert done.returncode == 0
