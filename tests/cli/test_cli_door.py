"""`spliceproxy status`, `drain` and `undrain`, against a real proxy and against a scripted door."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from command import Spliceproxy
from harness.proxy import Proxy, running_proxy
from harness.upstreams import stall
from harness.wait import wait_until

from spliceproxy import __version__

YAML = """\
admin: {{bind: "unix:{door}"}}
listeners:
  web: {{bind: "127.0.0.1:0", pool: app}}
  six: {{bind: "127.0.0.1:0", pool: six}}
pools:
  app: {{upstreams: [127.0.0.1:9001, {{address: 127.0.0.1:9002, weight: 2}}]}}
  six: {{upstreams: ["[::1]:8080", "unix:/run/a-long-directory-name/of-an-application/in.sock"]}}
"""


def has_row(shown: str, *cells: str) -> bool:
    """Whether a line of the status begins with these cells; behind them stands what moves."""
    return any(line.split()[: len(cells)] == [*cells] for line in shown.splitlines())


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands of this test look for a door."""
    path = tmp_path / "admin.sock"
    monkeypatch.setenv("SPLICEPROXY_ADMIN", str(path))
    return path


@pytest.fixture
def proxy(door: Path) -> Iterator[Proxy]:
    with running_proxy(YAML.format(door=door)) as running:
        yield running


def test_status_shows_what_runs(proxy: Proxy, spliceproxy: Spliceproxy) -> None:
    shown = spliceproxy("status")
    assert (shown.returncode, shown.stderr) == (0, "")
    said = shown.stdout
    assert has_row(said, "spliceproxy", __version__, "pid", str(proxy.pid))
    [worker] = proxy.worker_pids()
    assert has_row(said, "0", str(worker), "ready", "0")
    [address] = proxy.addresses("web")
    assert has_row(said, "web", address, "app", "0")
    assert has_row(said, "app", "127.0.0.1:9001", "up", "0", "1", "0")
    assert has_row(said, "127.0.0.1:9002", "up", "0", "2", "0")
    assert has_row(said, "six", "[::1]:8080", "up", "0", "1", "0")


def test_status_shows_how_many_wait_for_a_pool(door: Path, spliceproxy: Spliceproxy) -> None:
    with stall() as silent:
        text = (
            f'admin: {{bind: "unix:{door}"}}\n'
            'listeners: {web: {bind: "127.0.0.1:0", pool: app}}\n'
            f'pools: {{app: {{upstreams: "{silent.address}", max_sessions: 1, queue: {{}}}}}}\n'
        )
        with running_proxy(text) as proxy, ExitStack() as stack:
            assert "waiting" not in spliceproxy("status").stdout
            for _ in range(3):
                stack.enter_context(proxy.connect("web"))
            wait_until(lambda: "app (2 waiting)" in spliceproxy("status").stdout, 4, "two waiting")


@pytest.mark.usefixtures("proxy")
def test_a_status_that_is_piped_is_not_cut_and_has_no_colours(spliceproxy: Spliceproxy) -> None:
    shown = spliceproxy("status", env={"COLUMNS": "40"}).stdout
    assert "unix:/run/a-long-directory-name/of-an-application/in.sock" in shown
    assert "\x1b" not in shown


def test_status_json_is_the_doors_own_answer(proxy: Proxy, spliceproxy: Spliceproxy) -> None:
    answer = json.loads(spliceproxy("status", "--json").stdout)
    assert answer["pid"] == proxy.pid
    assert [pool["name"] for pool in answer["pools"]] == ["app", "six"]


def test_drain_and_undrain_tell_what_came_of_it(proxy: Proxy, spliceproxy: Spliceproxy) -> None:
    target = "pool/app/127.0.0.1:9001"
    drained = spliceproxy("drain", target)
    assert (drained.returncode, drained.stdout) == (0, f"{target}: draining, 0 sessions\n")
    assert drained.stderr == ""
    said = spliceproxy("status").stdout
    assert has_row(said, "app", "127.0.0.1:9001", "draining", "0", "1", "0")
    assert has_row(said, "127.0.0.1:9002", "up", "0", "2", "0")
    assert proxy.wait_log("draining")["target"] == target
    assert spliceproxy("undrain", target).stdout == f"{target}: takes new sessions again\n"
    assert spliceproxy("undrain", target).stdout == f"{target}: was not draining\n"
    assert "draining" not in spliceproxy("status").stdout


def test_reload_tells_what_differs_or_what_is_wrong(proxy: Proxy, spliceproxy: Spliceproxy) -> None:
    text = proxy.config.read_text()
    assert spliceproxy("reload").stdout == "nothing changed\n"
    proxy.config.write_text(text.replace("weight: 2", "weight: 5"))
    said = spliceproxy("reload")
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout == "~ pool app: upstream 127.0.0.1:9002: weight 2 → 5\n"
    assert has_row(spliceproxy("status").stdout, "127.0.0.1:9002", "up", "0", "5", "0")
    proxy.config.write_text(text.replace("weight: 2", "weigth: 5"))
    wrong = spliceproxy("reload")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "weigth: unknown key; did you mean weight?" in wrong.stderr


def test_what_was_drained_stays_so_over_a_reload(proxy: Proxy, spliceproxy: Spliceproxy) -> None:
    spliceproxy("drain", "pool/app/127.0.0.1:9001")
    proxy.config.write_text(proxy.config.read_text().replace("weight: 2", "weight: 5"))
    spliceproxy("reload")
    said = spliceproxy("status").stdout
    assert has_row(said, "app", "127.0.0.1:9001", "draining", "0", "1", "0")


@pytest.mark.usefixtures("proxy")
def test_draining_the_last_upstream_of_a_pool_is_said(spliceproxy: Spliceproxy) -> None:
    spliceproxy("drain", "pool/app/127.0.0.1:9001")
    assert spliceproxy("drain", "pool/app/127.0.0.1:9002").stderr == (
        "every upstream of pool app is draining: it takes no client\n"
    )


@pytest.mark.usefixtures("proxy")
@pytest.mark.parametrize("command", ["drain", "undrain"])
def test_a_wrong_target_is_one_line_and_exit_code_1(command: str, spliceproxy: Spliceproxy) -> None:
    shown = spliceproxy(command, "pool/ap")
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr == "spliceproxy: pool/ap: there is no pool ap; did you mean app?\n"


@pytest.mark.usefixtures("door")
@pytest.mark.parametrize(
    "arguments", [("status",), ("drain", "pool/app", "--wait", "1"), ("undrain", "pool/app")]
)
def test_without_a_proxy_one_sentence_says_so(
    arguments: Sequence[str], spliceproxy: Spliceproxy, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere.sock"
    shown = spliceproxy(*arguments, "--admin", elsewhere)
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr == (
        f"spliceproxy: no spliceproxy answers at {elsewhere}; is it running? "
        "--admin names another place\n"
    )


def test_the_option_is_stronger_than_the_variable(
    proxy: Proxy, door: Path, spliceproxy: Spliceproxy
) -> None:
    env = {"SPLICEPROXY_ADMIN": "/nowhere"}
    assert spliceproxy("status", env=env).returncode == 1
    shown = spliceproxy("status", "--json", "--admin", f"unix:{door}", env=env)
    assert json.loads(shown.stdout)["pid"] == proxy.pid


class _Unix(socketserver.ThreadingUnixStreamServer):
    """A door that answers each request with the next line of a script."""

    script: list[bytes]
    asked: list[str]
    bodies: list[Any]


class _Handler(BaseHTTPRequestHandler):
    def _answer(self) -> None:
        assert isinstance(self.server, _Unix)
        said = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.bodies += [json.loads(said)] if said else []
        self.server.asked.append(f"{self.command} {self.path}")
        body = self.server.script.pop(0)
        self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + body)

    do_GET = do_POST = _answer  # noqa: N815 - the names that http.server calls

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def scripted_door(path: Path, *answers: object) -> Iterator[_Unix]:
    """A door that says `answers`, one after the other; bytes are sent as they are."""
    with _Unix(str(path), _Handler) as server:
        server.script = [
            one if isinstance(one, bytes) else json.dumps(one).encode() for one in answers
        ]
        server.asked = []
        server.bodies = []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def draining(sessions: int, name: str = "127.0.0.1:9001") -> dict[str, Any]:
    target = f"pool/app/{name}"
    return {
        "target": target,
        "upstreams": [name],
        "listeners": [],
        "changed": 1,
        "sessions": sessions,
        "left": 1,
    }


def seen(sessions: int, name: str = "127.0.0.1:9001") -> dict[str, Any]:
    """A status with `sessions`, and with others of which a wait must know nothing."""
    upstreams = [{"name": name, "sessions": sessions}, {"name": "127.0.0.1:9002", "sessions": 9}]
    return {
        "pools": [
            {"name": "other", "upstreams": [{"name": name, "sessions": 9}]},
            {"name": "app", "upstreams": upstreams},
        ]
    }


def test_drain_waits_until_the_last_session_has_ended(door: Path, spliceproxy: Spliceproxy) -> None:
    target = "pool/app/127.0.0.1:9001"
    answers = draining(3), seen(3), seen(3), seen(1), seen(0)
    with scripted_door(door, *answers) as server:
        shown = spliceproxy("drain", target, "--wait", "50")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines() == [
        f"{target}: draining, 3 sessions",
        f"{target}: 1 session",
        f"{target}: drained",
    ]
    assert server.asked == ["POST /api/v1/drain", *["GET /api/v1/status"] * 4]


def test_drain_gives_up_after_its_time(door: Path, spliceproxy: Spliceproxy) -> None:
    target = "pool/app/127.0.0.1:9001"
    with scripted_door(door, draining(2), seen(2)):
        shown = spliceproxy("drain", target, "--wait", "0")
    assert shown.returncode == 1
    assert shown.stderr == f"{target}: 2 sessions left after 0 s\n"


OLDER = {"older_sessions": 2}


def found(matching: int, *silent: int) -> dict[str, Any]:
    """What is said of the live sessions of all processes."""
    return {"matching": matching, "silent_workers": [], "silent_processes": [*silent]}


@pytest.mark.parametrize(
    ("target", "filters"),
    [
        ("pool/app/127.0.0.1:9001", "pool=app&phase=relay&upstream=127.0.0.1%3A9001&"),
        ("pool/app", "pool=app&phase=relay&"),
        ("listener/web", "listener=web&"),
        ("all", ""),
    ],
)
def test_sessions_that_an_old_process_has_are_waited_for_too(
    target: str, filters: str, door: Path, spliceproxy: Spliceproxy
) -> None:
    order = draining(3) | {"target": target}
    # One of the two is with something else, and none of those that are counted here is left.
    looks = seen(1) | OLDER, found(3), seen(0) | OLDER, found(1), seen(0) | OLDER, found(0)
    with scripted_door(door, order, *looks) as server:
        shown = spliceproxy("drain", target, "--wait", "50")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines() == [
        f"{target}: draining, 3 sessions",
        f"{target}: 1 session",
        f"{target}: drained",
    ]
    assert server.asked[2] == f"GET /api/v1/sessions?{filters}limit=1"


def test_an_old_process_that_does_not_answer_is_told(door: Path, spliceproxy: Spliceproxy) -> None:
    target = "pool/app/127.0.0.1:9001"
    order = draining(1) | {"silent_processes": [1234]}
    with scripted_door(door, order, seen(0) | OLDER, found(0, 1234)):
        shown = spliceproxy("drain", target, "--wait", "0")
    assert shown.returncode == 1
    assert shown.stderr == (
        "not reached: process 1234 of before an upgrade\n"
        f"{target}: 0 sessions (not told by process 1234 of before an upgrade) left after 0 s\n"
    )


def listeners(sessions: int, draining: bool = True) -> dict[str, Any]:
    """A status with two listeners, and a session that is of neither."""
    other = {"name": "other", "sessions": 9, "draining": False}
    web = {"name": "web", "sessions": sessions, "draining": draining}
    return {"sessions": sessions + 10, "listeners": [other, web], "pools": []}


def web_drained(sessions: int) -> dict[str, Any]:
    return {
        **draining(sessions),
        "target": "listener/web",
        "upstreams": [],
        "listeners": ["web"],
    }


def test_a_drain_with_a_time_tells_what_is_left_and_ends_with_the_last_session(
    door: Path, spliceproxy: Spliceproxy
) -> None:
    looks = [listeners(5), *[listeners(3)] * 7, listeners(0)]
    with scripted_door(door, web_drained(5), *looks) as server:
        shown = spliceproxy("drain", "listener/web", "--over", "1m")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines() == [
        "listener/web: draining, 5 sessions",
        "listener/web: 3 sessions",
        "listener/web: drained",
    ]
    assert server.bodies[0] == {"target": "listener/web", "over": 60.0}


def test_a_drain_that_somebody_calls_off_says_so(door: Path, spliceproxy: Spliceproxy) -> None:
    with scripted_door(door, web_drained(5), listeners(4), listeners(3, draining=False)):
        shown = spliceproxy("drain", "listener/web", "--over", "90")
    assert shown.returncode == 1
    assert shown.stderr == "listener/web: undrained meanwhile, 3 sessions left\n"


@pytest.mark.usefixtures("door")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--over", "soon"], '"soon" is not a time; write a number and a unit'),
        (["--over", "5x"], '"5x" is not a time; write a number and a unit'),
        (["--over", "-5"], "is not a time; write a number and a unit"),
        (["--wait", "5x"], '"5x" is not a time; write a number and a unit'),
        (["--over", "5s", "--wait", "5"], "--over ends when the sessions have; leave --wait out"),
    ],
)
def test_a_wrong_time_is_a_usage_error(
    arguments: Sequence[str], said: str, spliceproxy: Spliceproxy
) -> None:
    shown = spliceproxy("drain", "pool/app", *arguments)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert said in shown.stderr


def test_a_listener_and_all_are_drained_and_undrained(
    proxy: Proxy, spliceproxy: Spliceproxy
) -> None:
    shown = spliceproxy("drain", "listener/web", "--over", "0")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == "listener/web: draining, 0 sessions\nlistener/web: drained\n"
    said = spliceproxy("status").stdout
    assert has_row(said, "web", "draining", "app", "0")
    assert has_row(said, "six", *proxy.addresses("six"), "six", "0")
    shown = spliceproxy("drain", "all")
    assert shown.stdout == "all: draining, 0 sessions\n"
    assert shown.stderr == "every listener is draining: no client gets in\n"
    assert spliceproxy("undrain", "all").stdout == "all: takes new sessions again\n"
    assert spliceproxy("undrain", "listener/web").stdout == "listener/web: was not draining\n"
    assert "draining" not in spliceproxy("status").stdout
    wrong = spliceproxy("drain", "listener/wen")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr == (
        "spliceproxy: listener/wen: there is no listener wen; did you mean web?\n"
    )


@pytest.mark.parametrize("answer", [b"hello", b"[]", b""])
def test_what_answers_and_is_no_spliceproxy_is_told(
    answer: bytes, door: Path, spliceproxy: Spliceproxy
) -> None:
    with scripted_door(door, answer):
        shown = spliceproxy("status")
    assert shown.returncode == 1
    assert shown.stderr.startswith(f"spliceproxy: no spliceproxy answers at {door} (")
