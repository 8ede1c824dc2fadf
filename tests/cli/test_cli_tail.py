"""`spliceproxy tail`: records and events as they come, over restarts, to readers that leave."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from command import Spliceproxy
from fake_admin import FakeAdmin
from harness.proxy import running_proxy
from harness.upstreams import named
from harness.wait import wait_until
from tmux import quoted, terminal

COMMAND = (sys.executable, "-m", "spliceproxy", "tail")


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeAdmin]:
    with FakeAdmin(tmp_path / "admin.sock") as running:
        yield running


class Tail:
    """The command as it runs, and what it said so far."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        self.process = process
        self._directory = directory

    @property
    def lines(self) -> list[str]:
        return (self._directory / "tail.out").read_text().splitlines()

    @property
    def errors(self) -> list[str]:
        return (self._directory / "tail.err").read_text().splitlines()

    def wait_lines(self, number: int) -> list[str]:
        wait_until(lambda: len(self.lines) >= number, 10, f"{number} lines")
        return self.lines


@contextmanager
def tailing(fake: FakeAdmin, *options: str, out: int | IO[bytes] | None = None) -> Iterator[Tail]:
    """The command, once it listens, until the block ends."""
    directory = fake.path.parent
    with (directory / "tail.out").open("wb") as file, (directory / "tail.err").open("wb") as errors:
        before = fake.opened
        process = subprocess.Popen(
            [*COMMAND, "--admin", str(fake.path), *options],
            stdin=subprocess.DEVNULL,
            stdout=file if out is None else out,
            stderr=errors,
            env={**os.environ, "TZ": "XXX-2"},
        )
        try:
            wait_until(lambda: fake.opened > before, 15, "it listens")
            yield Tail(process, directory)
        finally:
            process.kill()
            process.wait()


def test_records_are_lines_as_the_proxy_itself_writes_them(fake: FakeAdmin) -> None:
    with tailing(fake) as tail:
        for number in range(5):
            fake.tell("record", fake.house.record(number))
        lines = [line.partition(" ")[2] for line in tail.wait_lines(5)]
    assert lines[0] == "web → 10.0.0.1:80  192.0.2.1:44430  12ms  ↑ 0B ↓ 0B  done"
    assert lines[2].endswith("client_reset (reset by client)")
    assert lines[4].endswith("connect_timeout (reset by proxy, in connect)")
    assert fake.asked[-1][1] == "/api/v1/stream?records=all&events=off"


def test_filters_are_the_proxys_own(fake: FakeAdmin) -> None:
    options = (
        "--errors --events --listener web --pool app --upstream 10.0.0.1:80 --client 10.0.0.0/8 "
        "--route routes[0] --sni a.example.com --why idle_timeout"
    )
    with tailing(fake, *options.split()):
        _, path, query = "", *fake.asked[-1][1].split("?")
    assert path == "/api/v1/stream"
    assert set(query.split("&")) == {
        "records=errors", "events=on", "listener=web", "pool=app", "upstream=10.0.0.1%3A80",
        "client=10.0.0.0%2F8", "route=routes%5B0%5D", "sni=a.example.com", "why=idle_timeout",
    }  # fmt: skip


def test_events_are_lines_of_the_log_and_cannot_paint(fake: FakeAdmin) -> None:
    event = fake.house.event(0) | {"reason": "\x1b[31mred", "lost": 3}
    with tailing(fake, "--events") as tail:
        fake.tell("event", event)
        [line] = tail.wait_lines(1)
    assert line == (
        "11:00:00.000 warning upstream down  pool=app  upstream=10.0.0.3:80  "
        'reason="\\u001b[31mred"  lost=3'
    )


def test_json_is_what_was_told_a_line_each(fake: FakeAdmin) -> None:
    record, event = fake.house.record(1), fake.house.event(0)
    with tailing(fake, "--json", "--events") as tail:
        fake.tell("record", record)
        fake.tell("event", event)
        assert [json.loads(line) for line in tail.wait_lines(2)] == [record, event]


def test_on_a_terminal_records_stand_in_columns(fake: FakeAdmin) -> None:
    with terminal(fake.path.parent) as shell:
        shell.type(quoted(*COMMAND, "--admin", fake.path))
        shell.press("Enter")
        wait_until(lambda: fake.opened, 15, "it listens")
        for number in (2, 0, 1):  # the widest one first
            fake.tell("record", fake.house.record(number))
        shown = shell.wait(lambda now: now.count("↓") == 3, "three records")
    found = [line for line in shown.splitlines() if "→" in line]
    assert len(found) == 3
    assert len({line.index("↓") for line in found}) == 1


def test_how_many_were_lost_is_told_beside_them(fake: FakeAdmin) -> None:
    with tailing(fake, "--json", "--events") as tail:
        fake.tell("lost", {"records": 12})
        fake.tell("lost", {"events": 1})
        fake.tell("record", fake.house.record(1))
        tail.wait_lines(1)
        assert [line[9:] for line in tail.errors] == [
            "12 records lost: too many at once",
            "1 event lost: too many at once",
        ]


def test_it_waits_for_a_proxy_that_went_away(fake: FakeAdmin) -> None:
    with tailing(fake) as tail:
        opened = fake.opened
        fake.go_away()
        wait_until(lambda: tail.errors, 10, "the news")
        fake.come_back()
        wait_until(lambda: fake.opened > opened, 10, "a new stream")
        fake.tell("record", fake.house.record(1))
        tail.wait_lines(1)
        assert [line[9:] for line in tail.errors] == [
            "the proxy is away; waiting for it",
            "connected again; what ended meanwhile is not shown",
        ]


def test_ctrl_c_ends_it_without_a_word(fake: FakeAdmin) -> None:
    with tailing(fake) as tail:
        tail.process.send_signal(signal.SIGINT)
        assert tail.process.wait(10) == 130
        assert "".join(tail.lines + tail.errors) == ""


def test_ctrl_c_ends_it_also_where_no_read_is_interrupted_by_it(fake: FakeAdmin) -> None:
    """Where it comes right before one; here another thread gets it (tgkill(2))."""
    with tailing(fake) as tail:
        pid = tail.process.pid
        [other] = {int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()} - {pid}
        assert ctypes.CDLL(None).tgkill(pid, other, signal.SIGINT) == 0
        assert tail.process.wait(10) == 130
        assert "".join(tail.lines + tail.errors) == ""


def test_it_ends_when_its_reader_has_gone_though_nothing_is_told(fake: FakeAdmin) -> None:
    reader, writer = os.pipe()
    with tailing(fake, out=writer) as tail:
        os.close(writer)
        os.close(reader)
        assert tail.process.wait(10) == 0
        assert tail.errors == []


def test_it_ends_when_its_reader_goes_while_it_tells(fake: FakeAdmin) -> None:
    head = subprocess.Popen(["head", "-n", "2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert head.stdin is not None
    with tailing(fake, out=head.stdin) as tail:
        head.stdin.close()
        for number in range(50):
            fake.tell("record", fake.house.record(number))
        assert tail.process.wait(10) in (0, 1)
        assert tail.errors == []
    assert head.stdout is not None
    assert head.stdout.read().count(b"\n") == 2
    head.stdout.close()
    head.wait()


def test_a_wrong_filter_is_an_error(tmp_path: Path, spliceproxy: Spliceproxy) -> None:
    door = tmp_path / "real.sock"
    with named("one") as one:
        text = (
            f'admin: {{bind: "unix:{door}"}}\n'
            'listeners: {web: {bind: "127.0.0.1:0", pool: app}}\n'
            f'pools: {{app: {{upstreams: "{one.address}"}}}}\n'
        )
        with running_proxy(text):
            shown = spliceproxy("tail", "--client", "10.0.0.0/99", "--admin", door)
    assert (shown.returncode, shown.stdout) == (1, "")
    assert "10.0.0.0/99" in shown.stderr


def test_the_records_of_a_real_proxy_are_told(tmp_path: Path) -> None:
    door = tmp_path / "real.sock"
    with named("one") as one:
        text = (
            f'admin: {{bind: "unix:{door}"}}\n'
            "listeners:\n"
            '  web: {bind: "127.0.0.1:0", pool: app}\n'
            '  other: {bind: "127.0.0.1:0", pool: app}\n'
            f'pools: {{app: {{upstreams: "{one.address}"}}}}\n'
        )
        with running_proxy(text, workers=2) as proxy:
            command = [*COMMAND, "--json", "--listener", "web", "--admin", str(door)]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None

                def ends_one() -> bool:
                    for listener in ("other", "web"):
                        with proxy.connect(listener) as client:
                            assert client.recv(10) == b"one"
                    return bool(select.select([process.stdout], [], [], 0.1)[0])

                try:
                    wait_until(ends_one, 15, "a record")
                    told = json.loads(process.stdout.readline())
                finally:
                    process.kill()
            wait_until(lambda: told in proxy.records(), 10, "the same record")
            assert told["listener"] == "web"
