"""`spliceproxy top` in a real terminal: what is drawn, what each key does, and that the terminal is
given back."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import Spliceproxy
from fake_admin import FakeAdmin
from fake_house import House
from harness.fds import children
from harness.proxy import running_proxy
from harness.upstreams import echo
from harness.wait import wait_until
from tmux import Terminal, quoted, terminal

COMMAND = (sys.executable, "-m", "spliceproxy", "top")


class Clock:
    """Seconds since the epoch, which move by `step` with each look."""

    def __init__(self) -> None:
        self.now = 1_790_000_000.0
        self.step = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fake(tmp_path: Path, clock: Clock) -> Iterator[FakeAdmin]:
    with FakeAdmin(tmp_path / "admin.sock", House(clock)) as running:
        yield running


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Terminal]:
    with terminal(tmp_path) as shown:
        yield shown


def start(shell: Terminal, fake: FakeAdmin, *options: str) -> str:
    """Run it in the shell, and return its first screen."""
    shell.type(quoted(*COMMAND, "--interval", "0.2", "--admin", fake.path, *options) + "; echo $?")
    shell.press("Enter")
    return shell.wait_for("q quit")


def names(screen: str) -> list[str]:
    """The first column of the table."""
    lines = screen.splitlines()
    title = next(n for n, line in enumerate(lines) if ", by " in line)
    return [line.split()[0] for line in lines[title + 2 : -1] if line]


def sort_by(shell: Terminal, column: str) -> str:
    """Press > until the table is sorted so."""
    while f", by {column}" not in (screen := shell.screen()):
        title = screen.splitlines()[6]
        shell.press(">")
        shell.wait(lambda now, title=title: now.splitlines()[6] != title, "another order")
    return screen


def top_pid(shell: Terminal) -> int:
    [pid] = children(shell.pid)
    return pid


def test_the_screen_has_totals_workers_throughput_and_a_table(
    shell: Terminal, fake: FakeAdmin
) -> None:
    lines = start(shell, fake).splitlines()
    assert len(lines) == 24
    assert lines[0].startswith("spliceproxy 0.1.0  pid 4711  up 1d 3h  ready ")
    assert re.search(r" \d\d:\d\d:\d\d$", lines[0])
    assert lines[1].startswith("328 sessions   ended ")
    assert re.fullmatch(r"↑ [0-9.]+MiB/s +[▁-█]{40,} peak [0-9.]+MiB/s", lines[2])
    assert re.fullmatch(r"↓ [0-9.]+MiB/s +[▁-█]{40,} peak [0-9.]+MiB/s", lines[3])
    assert lines[4] == "worker 0  cpu 31% lag 0.40ms   1  cpu 92% lag 12ms"
    assert lines[6] == "8 upstreams, by ↓/s"
    assert lines[7].split()[:3] == ["upstream", "state", "sessions"]
    assert lines[-1].startswith("l listeners  p pools  u upstreams  s sessions")
    assert all(len(line) <= 80 for line in lines)


def test_keys_choose_the_view(shell: Terminal, fake: FakeAdmin) -> None:
    start(shell, fake)
    for key, title, name in (
        ("l", "2 listeners, by ↓/s", "postgres"),
        ("p", "3 pools, by ↓/s", "canary"),
        ("s", "40 sessions, 1 to 15, by ↓/s", "192.0.2.7:44430"),
        ("u", "8 upstreams, by ↓/s", "10.0.0.3:80"),
    ):
        shell.press(key)
        assert name in shell.wait_for(title)


def test_rows_are_sorted_by_the_column_that_was_chosen(shell: Terminal, fake: FakeAdmin) -> None:
    start(shell, fake, "--view", "pools")
    shell.press("Right")
    shell.wait_for("by ended/s")
    assert names(sort_by(shell, "pool")) == ["app", "canary", "db"]
    shell.press("r")
    assert names(shell.wait_for("by pool turned around")) == ["db", "canary", "app"]
    shell.press("<")
    shell.wait_for("by p99 turned around")


def test_sessions_are_sorted_and_filtered_by_the_proxy(shell: Terminal, fake: FakeAdmin) -> None:
    start(shell, fake, "--view", "sessions")

    def asked_for(text: str) -> bool:
        return any(text in path for _, path, _ in fake.asked)

    assert asked_for("/api/v1/sessions?sort=rate&limit=200")
    shell.press(">", "r")
    wait_until(lambda: asked_for("sort=-rtt"), 10, "the other order is asked for")
    shell.press("/")
    shell.type("pool=canary 192.0.2.1")
    shell.press("Enter")
    screen = shell.wait_for("with pool=canary 192.0.2.1")
    wait_until(lambda: asked_for("pool=canary"), 10, "the filter is asked for")
    screen = shell.wait(lambda now: "10.0.0.1:80" not in now, "the answer")
    assert all("192.0.2.1" in line for line in screen.splitlines() if "10.0.0.20:9000" in line)
    shell.press("/")
    shell.type(" phase=route")
    shell.press("Enter")
    shell.wait_for("0 sessions")


def test_a_filter_is_seen_while_it_is_typed_and_dropped_by_escape(
    shell: Terminal, fake: FakeAdmin
) -> None:
    start(shell, fake)
    shell.press("/")
    shell.type("10.0.1")
    assert names(shell.wait_for("2 upstreams, by ↓/s  /10.0.1█")) == [
        "10.0.1.1:5432",
        "10.0.1.2:5432",
    ]
    shell.type("q9")  # these are letters now
    shell.wait_for("0 upstreams")
    shell.press("BSpace", "BSpace", "Enter")
    shell.wait_for("2 upstreams, by ↓/s  with 10.0.1 (Esc: all)")
    shell.press("Escape")
    shell.wait_for("8 upstreams")


def test_a_pause_stops_the_numbers_and_the_questions(
    shell: Terminal, fake: FakeAdmin, clock: Clock
) -> None:
    clock.step = 0.5
    start(shell, fake)
    before = shell.screen()
    shell.wait(lambda now: now.splitlines()[2:] != before.splitlines()[2:], "other numbers")
    shell.press("Space")
    stands = shell.wait_for("paused at ")
    asked = len(fake.asked)
    shell.press("Down", "Up")
    shell.press("?")
    shell.wait_for("stand still, and go on")
    shell.press("x")
    again = shell.wait(lambda now: "upstreams, by" in now, "the table")
    assert again.splitlines()[6:] == stands.splitlines()[6:]
    assert len(fake.asked) - asked <= 3  # what was under way
    shell.press("Space")
    shell.wait(lambda now: "paused" not in now, "it goes on")
    wait_until(lambda: len(fake.asked) > asked + 6, 10, "questions")


def test_five_hundred_upstreams_are_scrolled_through(shell: Terminal, fake: FakeAdmin) -> None:
    fake.house.upstreams["app"] = [f"10.1.{n // 250}.{n % 250}:80" for n in range(500)]
    start(shell, fake)
    sort_by(shell, "upstream")
    screen = shell.wait_for("504 upstreams, 1 to 15, by upstream")
    assert len(names(screen)) == 15
    first = names(screen)
    shell.press("NPage")
    assert names(shell.wait_for("16 to 30"))[0] not in first
    shell.press("End")
    assert names(shell.wait_for("490 to 504"))[-1].startswith("unix:")
    shell.press("Up")
    shell.wait_for("489 to 503")
    shell.press("Home")
    assert names(shell.wait_for("1 to 15")) == first


def test_another_size_is_drawn_at_once(shell: Terminal, fake: FakeAdmin) -> None:
    start(shell, fake)
    shell.resize(160, 50)
    foot = re.compile(r"\nl listeners .* space pause  \? help  q quit$")
    lines = shell.wait(lambda now: foot.search(now.rstrip()), "the foot").splitlines()
    assert len(lines) == 50
    assert "connect p50     p99" in lines[7]
    shell.resize(40, 10)
    screen = shell.wait(lambda now: now.splitlines()[-1].startswith("l listeners"), "the foot")
    assert len(screen.splitlines()) == 10
    assert all(len(line) <= 40 for line in screen.splitlines())


def test_it_says_so_when_the_proxy_is_away_and_goes_on_when_it_is_back(
    shell: Terminal, fake: FakeAdmin
) -> None:
    start(shell, fake)
    fake.go_away()
    screen = shell.wait_for("no answer for ")
    assert "8 upstreams" in screen
    assert screen.splitlines()[5].startswith(f"no spliceproxy answers at {fake.path}"[:80])
    fake.house.not_ready = ["pool app has no upstream that can be used"]
    fake.come_back()
    shell.wait(lambda now: "no answer" not in now, "it is back")
    shell.wait_for("pool app has no upstream")


@pytest.mark.parametrize(("key", "code"), [("q", "0"), ("C-c", "0")])
def test_the_terminal_is_given_back(key: str, code: str, shell: Terminal, fake: FakeAdmin) -> None:
    shell.type("echo what was here before")
    shell.press("Enter")
    before = shell.wait_for("\nwhat was here before")
    start(shell, fake)
    assert "before" not in shell.screen()
    shell.press(key)
    after = shell.wait(lambda now: now.rstrip().endswith(f"\n{code}\n$"), "the shell")
    assert before.rstrip().rstrip("$") in after
    shell.type("stty -a")
    shell.press("Enter")
    shell.wait(lambda now: " echo " in now and " icanon" in now, "a terminal that echoes")
    assert shell._tmux("display-message", "-p", "-t", "0", "#{cursor_flag}").strip() == "1"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_given_back_after_a_signal(
    number: signal.Signals, shell: Terminal, fake: FakeAdmin
) -> None:
    start(shell, fake)
    os.kill(top_pid(shell), number)
    shell.wait(lambda now: f"\n{128 + number}\n$" in now, "the shell")
    assert "l listeners" not in shell.screen()
    shell.type("stty -a")
    shell.press("Enter")
    shell.wait(lambda now: " echo " in now and " icanon" in now, "a terminal that echoes")


def test_it_is_suspended_and_goes_on(tmp_path: Path, fake: FakeAdmin) -> None:
    with terminal(tmp_path) as shell:
        shell.type("set -m")
        shell.press("Enter")
        start(shell, fake)
        shell.press("C-z")
        shell.wait(lambda now: "l listeners" not in now and now.rstrip().endswith("$"), "the shell")
        shell.type("fg")
        shell.press("Enter")
        shell.wait_for("q quit")
        shell.press("p")
        shell.wait_for("3 pools")


def test_a_mistake_gives_the_terminal_back_and_is_told(shell: Terminal, fake: FakeAdmin) -> None:
    start(shell, fake)
    fake.answers["/api/v1/traffic"] = {}
    shell.wait(lambda now: "KeyError" in now and now.rstrip().endswith("$"), "what went wrong")
    assert "l listeners" not in shell.screen()


def test_without_colours_nothing_but_attributes_is_sent(tmp_path: Path, fake: FakeAdmin) -> None:
    with terminal(tmp_path, env={"NO_COLOR": "1"}) as shell:
        start(shell, fake)
        drawn = shell.screen("-e")
        assert not re.search(r"\x1b\[[0-9;]*(3[0-7]|4[0-7]|38|48)m", drawn)
    with terminal(tmp_path) as shell:
        start(shell, fake)
        assert re.search(r"\x1b\[[0-9;]*3[0-7]m", shell.screen("-e"))


def test_elsewhere_than_in_a_terminal_it_is_told_once(
    fake: FakeAdmin, spliceproxy: Spliceproxy
) -> None:
    shown = spliceproxy("top", "--view", "pools", "--admin", fake.path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "\x1b" not in shown.stdout
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("spliceproxy 0.1.0  pid 4711")
    assert {line.split()[0] for line in lines[-3:]} == {"app", "canary", "db"}
    assert len([path for _, path, _ in fake.asked if path == "/api/v1/status"]) == 1


def test_nobody_at_the_start_is_an_error(tmp_path: Path, spliceproxy: Spliceproxy) -> None:
    shown = spliceproxy("top", "--admin", tmp_path / "nobody")
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.startswith(f"spliceproxy: no spliceproxy answers at {tmp_path}/nobody;")


def test_a_real_proxy_is_watched_over_its_end(tmp_path: Path, shell: Terminal) -> None:
    door = tmp_path / "real.sock"
    with echo() as upstream:
        text = (
            f'admin: {{bind: "unix:{door}"}}\n'
            'listeners: {web: {bind: "127.0.0.1:0", pool: app}}\n'
            f'pools: {{app: {{upstreams: "{upstream.address}"}}}}\n'
        )
        with running_proxy(text, workers=2) as proxy, proxy.connect("web") as client:
            host, port = client.getsockname()
            shell.type(quoted(*COMMAND, "--interval", "0.2", "--admin", door))
            shell.press("Enter")
            screen = shell.wait_for("1 upstream, by ↓/s")
            assert names(screen) == [upstream.address]
            shell.wait_for("1 session   ended 0/s")
            shell.press("s")
            shell.wait_for(f"{host}:{port}")
            shell.press("l")
            shell.wait_for("1 listener, by ↓/s")
            client.close()
            shell.wait_for("0 sessions   ended ")
        shell.wait_for("no answer for ")
        shell.press("q")
