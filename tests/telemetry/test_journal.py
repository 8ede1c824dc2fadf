"""telemetry/journal.py: lines for systemd's journal, where standard error leads there.

A socket in place of the journal, and JOURNAL_STREAM as systemd.exec(5) has it.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from spliceproxy.telemetry.journal import leads_to_journal, with_priority

HEAD = """
import structlog
from spliceproxy.telemetry import log
log.set_up("debug", FORMAT)
logger = structlog.get_logger()
"""
EACH_LEVEL = """
logger.debug("looking", name="x")
logger.info("listening", listener="web")
logger.warning("upstream down", upstream="10.0.0.1:80", reason="no answer")
logger.error("worker died")
"""


def stream_of(fd: int) -> str:
    """JOURNAL_STREAM for a journal behind `fd`."""
    there = os.fstat(fd)
    return f"{there.st_dev}:{there.st_ino}"


def logged(body: str, format: str = "auto", stream: str | None = None) -> list[str]:
    """The lines on the socket that is standard error; it is the journal's unless `stream` says
    something else."""
    here, there = socket.socketpair()
    with here:
        with there:
            stream = stream_of(there.fileno()) if stream is None else stream
            environment = {**os.environ, "JOURNAL_STREAM": stream, "TERM": "xterm"}
            subprocess.run(
                [sys.executable, "-c", f"FORMAT = {format!r}\n{HEAD}\n{body}"],
                stderr=there,
                env=environment,
                timeout=20,
                check=True,
            )
        return here.makefile().read().splitlines()


@pytest.mark.parametrize("format", ["auto", "console"])
def test_lines_for_the_journal_have_a_priority_and_neither_time_nor_colour(format: str) -> None:
    assert logged(EACH_LEVEL, format) == [
        "<7>looking name=x",
        "<6>listening listener=web",
        "<4>upstream down upstream=10.0.0.1:80 reason='no answer'",
        "<3>worker died",
    ]


def test_json_for_the_journal_has_a_priority_before_all_that_it_has_elsewhere() -> None:
    lines = logged(EACH_LEVEL, "json")
    assert [line[:3] for line in lines] == ["<7>", "<6>", "<4>", "<3>"]
    down = json.loads(lines[2][3:])
    assert list(down) == ["time", "level", "event", "upstream", "reason"]
    assert down["level"] == "warning"


def test_each_line_of_a_traceback_is_an_error_to_the_journal() -> None:
    lines = logged('try: 1/0\nexcept Exception: logger.exception("oops")')
    assert lines[0] == "<3>oops"
    assert lines[-1] == "<3>ZeroDivisionError: division by zero"
    assert len(lines) > 3
    assert all(line.startswith("<3>") for line in lines)


def test_nobody_chooses_his_own_priority_by_a_line_of_his_own() -> None:
    lines = logged('logger.info("odd\\n<0>panic", name="a\\n<0>b")')
    assert all(line.startswith("<6>") for line in lines), lines


@pytest.mark.parametrize("stream", ["", "1:2", "nonsense", "8:x:9"])
def test_a_standard_error_that_is_not_the_journals_gets_none_of_it(stream: str) -> None:
    line = logged('logger.info("x")', "auto", stream)[0]
    assert json.loads(line)["event"] == "x"
    line = logged('logger.info("x")', "console", stream)[0]
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} \[info\] x", line)


def test_lines_that_were_lost_are_a_warning_to_the_journal() -> None:
    here, there = socket.socketpair()
    with here, there:
        environment = {**os.environ, "JOURNAL_STREAM": stream_of(there.fileno())}
        body = (
            'import sys\nfor _ in range(3000): logger.info("x" * 200)\n'
            'print("full", flush=True)\nsys.stdin.readline()\nlogger.info("after")'
        )
        with subprocess.Popen(
            [sys.executable, "-c", f"FORMAT = 'auto'\n{HEAD}\n{body}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=there,
            env=environment,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == b"full\n"
            there.close()
            here.setblocking(False)
            lines = _read(here)
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.wait(10) == 0
        lines += _read(here)
    text = lines.decode().splitlines()
    assert 0 < len(text) < 3000
    assert re.fullmatch(r"<4>log lines lost: \d+", text[-2])
    assert text[-1] == "<6>after"


def _read(sock: socket.socket) -> bytes:
    """What is there."""
    data = b""
    try:
        while more := sock.recv(65536):
            data += more
    except BlockingIOError:
        pass
    return data


def test_a_closed_fd_and_a_missing_variable_lead_nowhere(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        fd = file.fileno()
        assert leads_to_journal(fd, {"JOURNAL_STREAM": stream_of(fd)})
        assert not leads_to_journal(fd, {})
        variable = {"JOURNAL_STREAM": stream_of(fd)}
    assert not leads_to_journal(fd, variable)


def test_a_priority_stands_before_each_line() -> None:
    assert with_priority("warning", b"a\nb\n") == b"<4>a\n<4>b\n"
    assert with_priority("info", b"a\n") == b"<6>a\n"
