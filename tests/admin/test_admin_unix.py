"""The operator's door: who may come in, what it tells, what it does."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from harness.door import request
from harness.proxy import Proxy, running_proxy
from harness.wait import wait_until
from structlog.testing import capture_logs

from spliceproxy import __version__, config, runtime
from spliceproxy.control import doors
from spliceproxy.control.doors import open_doors
from spliceproxy.errors import BindError

APP = """\
listeners:
  web: {{bind: "127.0.0.1:0", pool: app, max_sessions: 50}}
pools:
  app:
    upstreams: [{upstream}, {{address: 127.0.0.1:9, weight: 0}}]
admin: {{bind: "unix:{door}"}}
"""


@pytest.fixture
def door(tmp_path: Path) -> Path:
    return tmp_path / "admin.sock"


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of an upstream that accepts in the kernel only, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def proxy(door: Path, silent: str) -> Iterator[Proxy]:
    with running_proxy(APP.format(upstream=silent, door=door), workers=2) as running:
        yield running


def test_status_tells_process_workers_listeners_and_pools(
    proxy: Proxy, door: Path, silent: str
) -> None:
    with proxy.connect("web"):
        wait_until(
            lambda: request(door, "GET", "/api/v1/status")[1]["sessions"] == 1, 10, "one session"
        )
        code, status = request(door, "GET", "/api/v1/status")
        assert code == 200
        assert (status["pid"], status["version"]) == (proxy.pid, __version__)
        assert 0 < status["uptime_seconds"] < 60
        assert sorted(one["pid"] for one in status["workers"]) == sorted(proxy.worker_pids())
        assert [one["worker"] for one in status["workers"]] == [0, 1]
        assert all(one["ready"] for one in status["workers"])
        assert sum(one["sessions"] for one in status["workers"]) == 1
        assert status["listeners"] == [
            {
                "name": "web",
                "addresses": proxy.addresses("web"),
                "pool": "app",
                "pools": ["app"],
                "routes": [],
                "sessions": 1,
                "max_sessions": 50,
                "draining": False,
                "tls": False,
                "certificates": [],
                "broken_files": [],
                "failed_handshakes": 0,
            }
        ]
        [pool] = status["pools"]
        assert (pool["name"], pool["balance"]) == ("app", "round_robin")
        assert [one["name"] for one in pool["upstreams"]] == [silent, "127.0.0.1:9"]
        assert [one["weight"] for one in pool["upstreams"]] == [1, 0]


@pytest.mark.usefixtures("proxy")
def test_a_worker_that_died_has_another_pid_soon(door: Path) -> None:
    [first, second] = (one["pid"] for one in request(door, "GET", "/api/v1/status")[1]["workers"])
    os.kill(first, 9)

    def replaced() -> bool:
        workers = request(door, "GET", "/api/v1/status")[1]["workers"]
        return workers[0]["pid"] not in (None, first) and workers[0]["ready"]

    wait_until(replaced, 10, "a new worker in the status")
    assert request(door, "GET", "/api/v1/status")[1]["workers"][1]["pid"] == second


def states(door: Path) -> list[list[str]]:
    [pool] = request(door, "GET", "/api/v1/status")[1]["pools"]
    return [one["states"] for one in pool["upstreams"]]


def test_an_upstream_is_drained_and_undrained(proxy: Proxy, door: Path, silent: str) -> None:
    target = f"pool/app/{silent}"
    code, drained = request(door, "POST", "/api/v1/drain", {"target": target})
    assert code == 200
    assert drained["upstreams"] == [silent]
    assert (drained["changed"], drained["left"]) == (1, 1)
    assert states(door) == [["draining"], ["up"]]
    assert request(door, "POST", "/api/v1/drain", {"target": target})[1]["changed"] == 0
    assert states(door) == [["draining"], ["up"]]
    assert request(door, "POST", "/api/v1/undrain", {"target": target})[1]["changed"] == 1
    assert states(door) == [["up"], ["up"]]
    [line] = proxy.log("draining")
    assert line["target"] == target


@pytest.mark.usefixtures("proxy")
def test_a_pool_is_drained_with_all_its_upstreams(door: Path) -> None:
    assert request(door, "POST", "/api/v1/drain", {"target": "pool/app"})[1]["left"] == 0
    assert states(door) == [["draining"], ["draining"]]
    assert request(door, "POST", "/api/v1/undrain", {"target": "pool/app"})[1]["left"] == 2
    assert states(door) == [["up"], ["up"]]


ORDERS = [
    ({"target": "pool/ap"}, 404, "pool/ap: there is no pool ap; did you mean app?"),
    ({"target": "pool/app/127.0.0.1:8"}, 404, "has no upstream 127.0.0.1:8; did you mean"),
    ({"target": "app"}, 400, "listener/NAME or all; did you mean pool/app?"),
    ({"target": "web"}, 400, "listener/NAME or all; did you mean listener/web?"),
    ({"target": "pool/app/"}, 400, "write pool/NAME, pool/NAME/UPSTREAM, listener/NAME or all"),
    ({"target": "listener/"}, 400, "write pool/NAME, pool/NAME/UPSTREAM, listener/NAME or all"),
    ({"target": "listener/wep"}, 404, "there is no listener wep; did you mean web?"),
    ({"target": "pool/app", "over": "60s"}, 400, "over is no number of seconds"),
    ({"target": "pool/app", "over": True}, 400, "over is no number of seconds"),
    ({"target": "pool/app", "over": -1}, 400, "over is from 0 to 2592000 seconds"),
    ({"target": 7}, 400, "target is no text"),
    ({"target": "pool/app", "until": "noon"}, 400, "the body is no order"),
    (b"target=pool/app", 400, "the body is no order"),
    (b"", 400, "the body is no order"),
    (b"\xff" * 100_000, 413, "an order has 65536 bytes at the most"),
    (b"\xff" * 5_000_000, 413, "bytes at the most"),
    (b"[" * 60_000, 400, "the body is no order"),
    (b'["pool/app"]', 400, "the body is no order"),
]


def test_a_wrong_order_changes_nothing_and_says_what_would_be_right(
    proxy: Proxy, door: Path
) -> None:
    for body, expected, text in ORDERS:
        code, answer = request(door, "POST", "/api/v1/drain", body)
        assert (code, list(answer)) == (expected, ["error"]), body
        assert text in answer["error"]
    assert states(door) == [["up"], ["up"]]
    assert not proxy.log("draining")


@pytest.mark.usefixtures("proxy")
def test_unknown_paths_and_methods_are_errors_in_json(door: Path) -> None:
    assert request(door, "GET", "/nowhere") == (
        404,
        {"error": "there is no /nowhere here; try /api/v1/status"},
    )
    assert request(door, "GET", "/api/v1/drain") == (
        405,
        {"error": "/api/v1/drain does not know GET; use POST"},
    )


def test_the_door_is_for_its_owner_only_and_gone_afterwards(proxy: Proxy, door: Path) -> None:
    assert stat.S_IMODE(door.stat().st_mode) == 0o600
    assert proxy.end() == 0
    assert not door.exists()


@pytest.mark.parametrize(
    "rest",
    [
        b"",
        b"POST /api/v1/",
        b"POST /api/v1/drain HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{",
    ],
)
def test_a_client_who_stays_does_not_hold_up_the_end(rest: bytes, proxy: Proxy, door: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(str(door))
        client.sendall(b"GET /api/v1/status HTTP/1.1\r\nHost: x\r\n\r\n" + rest)
        assert client.recv(12) == b"HTTP/1.1 200"
        proxy.terminate()
        assert proxy.wait(5) == 0


@pytest.mark.parametrize("said", [b"hello\r\n\r\n", b"GET /api/v1/status HTTP/1.1\r\n\r\n"])
def test_what_is_not_good_http_is_refused_without_a_word_in_the_log(
    said: bytes, proxy: Proxy, door: Path
) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.settimeout(10)
        client.connect(str(door))
        client.sendall(said)
        assert client.recv(12) == b"HTTP/1.0 400"
    assert request(door, "GET", "/api/v1/status")[0] == 200
    assert not [line for line in proxy.log() if line["level"] != "info"]


def test_the_door_answers_while_sessions_come_to_their_end(proxy: Proxy, door: Path) -> None:
    with proxy.connect("web"):
        wait_until(lambda: request(door, "GET", "/api/v1/status")[1]["sessions"], 10, "a session")
        proxy.terminate()
        wait_until(
            lambda: request(door, "GET", "/api/v1/status")[1]["listeners"][0]["addresses"] == [],
            10,
            "no listening socket",
        )
        assert request(door, "GET", "/api/v1/status")[1]["sessions"] == 1


def test_the_file_of_a_dead_proxy_is_replaced(door: Path, silent: str) -> None:
    with running_proxy(APP.format(upstream=silent, door=door), expect_exit=None) as first:
        first.process.kill()
        first.wait()
    assert door.is_socket()
    with running_proxy(APP.format(upstream=silent, door=door)) as second:
        assert request(door, "GET", "/api/v1/status")[1]["pid"] == second.pid


def test_the_door_of_a_living_proxy_is_a_start_error(
    proxy: Proxy, door: Path, tmp_path: Path
) -> None:
    file = tmp_path / "second.yaml"
    file.write_text(APP.format(upstream="127.0.0.1:8", door=door))
    ended = subprocess.run(
        [sys.executable, "-m", "spliceproxy", "run", str(file)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        f"spliceproxy: admin.bind: unix:{door}: in use by spliceproxy (pid {proxy.pid})"
    )
    assert request(door, "GET", "/api/v1/status")[1]["pid"] == proxy.pid


def test_off_is_no_door(silent: str) -> None:
    with running_proxy(
        f'listeners: {{web: {{bind: "127.0.0.1:0", pool: app}}}}\n'
        f"pools: {{app: {{upstreams: {silent}}}}}\nadmin: off\n"
    ) as proxy:
        assert not proxy.log("door open")
        assert not proxy.log("no door for status and drain")


@pytest.mark.alone
def test_a_status_of_a_thousand_upstreams_takes_less_than_a_second(door: Path) -> None:
    upstreams = ", ".join(f"127.0.{n // 250}.{n % 250 + 1}:9000" for n in range(1000))
    text = APP.replace("[{upstream}, {{address: 127.0.0.1:9, weight: 0}}]", "[{upstream}]")
    with running_proxy(text.format(upstream=upstreams, door=door)):
        began = time.monotonic()
        status = request(door, "GET", "/api/v1/status")[1]
        assert time.monotonic() - began < 1
        assert len(status["pools"][0]["upstreams"]) == 1000
        drained = request(door, "POST", "/api/v1/drain", {"target": "pool/app"})[1]
        assert drained["changed"] == 1000


def with_admin(admin: str) -> config.Config:
    return config.loads(
        f"admin: {admin}\n"
        'listeners: {web: {bind: ":8080", pool: app}}\npools: {app: {upstreams: 127.0.0.1:9001}}\n',
        "test.yaml",
        {},
    )


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "admin.sock"
    with pytest.raises(BindError) as caught, open_doors(with_admin(f"{{bind: 'unix:{path}'}}")):
        pass
    assert str(caught.value) == (
        f"admin.bind: unix:{path}: the directory {path.parent} does not exist"
    )


def test_a_file_that_is_no_socket_is_left_alone(door: Path) -> None:
    door.write_text("precious")
    with (
        pytest.raises(BindError, match="a file that is no socket is in the way"),
        open_doors(with_admin(f"{{bind: 'unix:{door}'}}")),
    ):
        pass
    assert door.read_text() == "precious"


def test_nobody_else_may_come_in_at_any_moment(door: Path) -> None:
    before = os.umask(0)
    try:
        with open_doors(with_admin(f"{{bind: 'unix:{door}'}}")):
            assert stat.S_IMODE(door.stat().st_mode) == 0o600
    finally:
        os.umask(before)


@pytest.fixture
def default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "spliceproxy" / "admin.sock"
    monkeypatch.setattr(doors, "default_admin_path", lambda: path)
    return path


def test_the_default_door_has_its_directory_made(default: Path) -> None:
    with open_doors(with_admin("{}")) as opened:
        assert [str(door.place) for door in opened] == [f"unix:{default}"]
        assert default.is_socket()
    assert not default.exists()


def test_a_second_proxy_at_the_default_door_is_only_warned(default: Path) -> None:
    with open_doors(with_admin("{}")), capture_logs() as lines:
        with open_doors(with_admin("{}")) as second:
            assert not second.all
        assert default.is_socket()
    [line] = lines
    assert (line["log_level"], line["path"]) == ("warning", str(default))
    assert f"(pid {os.getpid()})" in line["why"]


def test_a_default_door_that_cannot_be_made_is_one_line_in_the_log(default: Path) -> None:
    default.parent.write_text("a file where the directory should be")
    with capture_logs() as lines, open_doors(with_admin("{}")) as opened:
        assert not opened.all
    [line] = lines
    assert line["log_level"] == "info"
    assert str(default) in line["why"]


@pytest.mark.parametrize(
    ("uid", "directory", "expected"),
    [
        (0, "/run/user/0", "/run/spliceproxy/admin.sock"),
        (1000, "/run/user/1000", "/run/user/1000/spliceproxy/admin.sock"),
        (1000, "", None),
        (1000, "relative", None),
    ],
)
def test_the_default_path_is_roots_or_the_users_own(
    uid: int, directory: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
    assert runtime.default_admin_path() == (Path(expected) if expected else None)
