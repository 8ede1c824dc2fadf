"""`spliceproxy demo`: the story, with real numbers, and that nothing is left of it."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.wait import wait_until

# Takes the terminal on standard input as its controlling terminal, then becomes the command.
_ON_TERMINAL = (
    "import fcntl, os, sys, termios;"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


class Demo:
    """A running demo, in a session of its own; its output grows while it runs."""

    def __init__(self, place: Path, *arguments: str, terminal: bool = False) -> None:
        self.place = place
        ours, theirs = pty.openpty() if terminal else os.pipe()
        self._ours = ours
        self._output = bytearray()
        command = ["-m", "spliceproxy", "demo", *arguments]
        environment = {**os.environ, "TMPDIR": str(place), "COLUMNS": "100", "TERM": "xterm"}
        self.process = subprocess.Popen(
            [sys.executable, *(["-c", _ON_TERMINAL] if terminal else []), *command],
            stdin=theirs if terminal else subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def output(self) -> str:
        return self._output.decode(errors="replace").replace("\r\n", "\n")

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.output or self.process.poll() is not None, 30, f"{text!r}")
        assert text in self.output

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def family(self) -> dict[int, str]:
        """The processes below the demo's, by pid, each with its command line."""
        found: dict[int, str] = {}
        waiting = [self.process.pid]
        while waiting:
            pid = waiting.pop()
            for path in Path(f"/proc/{pid}/task").glob("*/children"):
                for child in map(int, path.read_text().split()):
                    command = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ")
                    found[child] = command.decode()
                    waiting.append(child)
        return found

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        os.close(self._ours)

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._ours, 65536)
            except OSError:  # EIO: nobody has the terminal open any more
                return
            if not data:
                return
            self._output += data


@pytest.fixture
def start_demo(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    """Starts a demo whose temporary directory is in `tmp_path`; ends it for sure."""
    demos: list[Demo] = []

    def start(*arguments: str, terminal: bool = False) -> Demo:
        demos.append(Demo(tmp_path, *arguments, terminal=terminal))
        return demos[-1]

    yield start
    for demo in demos:
        demo.close()


def assert_nothing_is_left(demo: Demo, family: dict[int, str]) -> None:
    assert list(demo.place.iterdir()) == []
    assert [pid for pid in family if Path(f"/proc/{pid}").exists()] == []


def test_the_story_is_told_with_real_numbers(start_demo: Callable[..., Demo]) -> None:
    demo = start_demo("--seconds", "5")
    demo.wait_for("a, b and c serve.")
    family = demo.family()
    assert sum("demo.upstream" in command for command in family.values()) == 3
    assert sum("spliceproxy run" in command for command in family.values()) == 1
    assert demo.process.wait(30) == 0
    story = demo.output
    assert_nothing_is_left(demo, family)

    assert "b stopped: 0 failed requests." in story
    assert "b serves again: 0 failed requests." in story
    assert re.search(r"In all a answered \d+, b answered \d+, c answered \d+; 0 failed\.", story)
    stopped = next(line for line in story.splitlines() if "b stopped:" in line)
    assert "a answered" in stopped
    assert "b answered" not in stopped
    again = next(line for line in story.splitlines() if "b serves again:" in line)
    assert "b answered" in again
    passed_on = re.search(r"(\d+) sessions were sent to b first", stopped)
    assert passed_on is not None
    assert int(passed_on[1]) > 0
    assert '"retries": 1' in story
    assert "\x1b" not in story


def test_what_the_demo_says_to_try_works(start_demo: Callable[..., Demo]) -> None:
    demo = start_demo()
    demo.wait_for("a, b and c serve.")
    (curl,) = re.findall(r"^    (curl \S+)$", demo.output, re.MULTILINE)
    answer = subprocess.run([*curl.split(), "-s"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"hello from [abc]\n", answer.stdout)
    (file,) = re.findall(r"^  (/\S+/demo.yaml)$", demo.output, re.MULTILINE)
    checked = [sys.executable, "-m", "spliceproxy", "check", file]
    assert subprocess.run(checked, capture_output=True).returncode == 0
    demo.process.terminate()
    assert demo.process.wait(15) == 0


def test_ctrl_c_on_a_terminal_leaves_nothing_behind(start_demo: Callable[..., Demo]) -> None:
    demo = start_demo(terminal=True)
    demo.wait_for("requests/s  ")
    assert "\x1b[" in demo.output
    family = demo.family()
    assert len(family) >= 5
    demo.type(b"\x03")
    assert demo.process.wait(15) == 0
    demo.wait_for("The end.")
    assert "Traceback" not in demo.output
    assert_nothing_is_left(demo, family)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_whole_group_leaves_nothing_behind(
    number: signal.Signals, start_demo: Callable[..., Demo]
) -> None:
    demo = start_demo()
    demo.wait_for("a, b and c serve.")
    family = demo.family()
    os.killpg(demo.process.pid, number)
    assert demo.process.wait(15) == 0
    assert_nothing_is_left(demo, family)


def test_a_signal_before_the_proxy_is_ready_leaves_nothing_behind(
    start_demo: Callable[..., Demo],
) -> None:
    demo = start_demo()
    wait_until(lambda: list(demo.place.glob("*/sessions.jsonl")) != [], 15, "the proxy starts")
    family = demo.family()
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(15) == 0
    assert_nothing_is_left(demo, family)


def test_two_demos_run_side_by_side(start_demo: Callable[..., Demo]) -> None:
    demos = [start_demo(), start_demo()]
    for demo in demos:
        demo.wait_for("a, b and c serve.")
    ports = [re.findall(r"^    curl http://127.0.0.1:(\d+)/$", demo.output, re.M) for demo in demos]
    assert ports[0] != ports[1]
    for demo in demos:
        demo.process.terminate()
        assert demo.process.wait(15) == 0


def test_a_proxy_that_dies_ends_the_demo_with_one_line(start_demo: Callable[..., Demo]) -> None:
    demo = start_demo()
    demo.wait_for("a, b and c serve.")
    family = demo.family()
    (proxy,) = [pid for pid, command in family.items() if "spliceproxy run" in command]
    os.kill(proxy, signal.SIGKILL)
    assert demo.process.wait(15) == 1
    assert demo.output.splitlines()[-1].startswith("spliceproxy: demo: the proxy ended with -9")
    upstreams = {pid: command for pid, command in family.items() if "demo.upstream" in command}
    assert_nothing_is_left(demo, upstreams)


def test_no_process_outlives_a_demo_that_is_killed(start_demo: Callable[..., Demo]) -> None:
    demo = start_demo()
    demo.wait_for("a, b and c serve.")
    family = demo.family()
    demo.process.kill()
    wait_until(
        lambda: not any(Path(f"/proc/{pid}").exists() for pid in family), 15, "all processes end"
    )
