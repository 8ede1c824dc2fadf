"""The admin API by TCP: who may come in where, and what a start without tokens says."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness.door import Where, ask, bearer, request, tcp_doors, write_token
from harness.proxy import Proxy, running_proxy

READ, WRITE = "reading-reading-reading", "writing-writing-writing"
YAML = """\
admin:
  bind: {bind}
  tokens: {{{tokens}}}
  hosts: proxy.example.com
metrics: {{bind: "127.0.0.1:0"}}
listeners:
  web: {{bind: "127.0.0.1:0", pool: app}}
pools:
  app: {{upstreams: 127.0.0.1:9001}}
"""


@dataclass
class Served:
    """A proxy, and where it is asked."""

    proxy: Proxy
    unix: Path
    tcp: list[tuple[str, int]]
    """In the order of `admin.bind`."""


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    found = {}
    for name, token in (("read", READ), ("write", WRITE)):
        found[name] = tmp_path / f"{name}.token"
        found[name].touch(0o600)
        found[name].write_text(f"{token}\n")
    return found


def yaml(directory: Path, *addresses: str, **tokens: Path) -> str:
    bind = ", ".join(f'"{address}"' for address in (f"unix:{directory}/admin.sock", *addresses))
    named = ", ".join(f"{name}: 'file:{path}'" for name, path in tokens.items())
    return YAML.format(bind=f"[{bind}]", tokens=named)


@pytest.fixture
def served(tmp_path: Path, files: dict[str, Path]) -> Iterator[Served]:
    text = yaml(tmp_path, "127.0.0.1:0", "[::1]:0", "0.0.0.0:0", **files)
    with running_proxy(text) as proxy:
        yield Served(proxy, tmp_path / "admin.sock", tcp_doors(proxy))


def test_on_a_loopback_address_reading_is_free_and_orders_want_the_token(served: Served) -> None:
    for where in served.tcp[:2]:
        code, status = request(where, "GET", "/api/v1/status")
        assert (code, status["pid"], status["writable"]) == (200, served.proxy.pid, False)
        assert request(where, "POST", "/api/v1/reload")[0] == 401
        assert request(where, "POST", "/api/v1/reload", headers=bearer(READ))[0] == 401
        assert request(where, "POST", "/api/v1/reload", headers=bearer(WRITE))[0] == 200
        assert request(where, "GET", "/api/v1/status", headers=bearer(WRITE))[1]["writable"]


def test_elsewhere_reading_wants_a_token_wherever_the_request_comes_from(served: Served) -> None:
    where = "127.0.0.1", served.tcp[2][1]
    assert request(where, "GET", "/api/v1/status")[0] == 401
    assert request(where, "GET", "/api/v1/nowhere")[0] == 401
    code, status = request(where, "GET", "/api/v1/status", headers=bearer(READ))
    assert (code, status["writable"]) == (200, False)
    assert request(where, "GET", "/api/v1/status", headers=bearer(WRITE))[1]["writable"]
    assert request(where, "POST", "/api/v1/reload", headers=bearer(READ))[0] == 401
    assert request(where, "POST", "/api/v1/reload", headers=bearer(WRITE))[0] == 200
    assert request(where, "GET", "/healthz")[0] == 200


def test_at_the_unix_socket_nothing_is_asked(served: Served) -> None:
    assert request(served.unix, "GET", "/api/v1/status")[1]["writable"]
    assert request(served.unix, "POST", "/api/v1/reload")[0] == 200
    code, told = request(served.unix, "GET", "/api/v1/token")
    assert code == 200
    port = served.tcp[2][1]
    assert told == {
        "write": WRITE,
        "urls": [
            f"http://127.0.0.1:{served.tcp[0][1]}/",
            f"http://[::1]:{served.tcp[1][1]}/",
            f"http://127.0.0.1:{port}/",
            f"http://{socket.gethostname()}:{port}/",
        ],
    }


def test_only_the_unix_socket_tells_the_token(served: Served) -> None:
    for where in (served.tcp[0], ("127.0.0.1", served.tcp[2][1])):
        assert request(where, "GET", "/api/v1/token", headers=bearer(WRITE))[0] == 404


def test_names_of_this_machine_are_those_that_are_configured(served: Served) -> None:
    def status(host: str) -> int:
        return request(served.tcp[0], "GET", "/api/v1/status", headers={"Host": host})[0]

    assert status(f"proxy.example.com:{served.tcp[0][1]}") == 200
    assert status(socket.gethostname()) == 200
    assert status("evil.example") == 403


def test_a_token_that_changes_holds_for_the_next_request(
    served: Served, files: dict[str, Path]
) -> None:
    where = "127.0.0.1", served.tcp[2][1]
    files["write"].write_text("another-another-another")
    assert request(where, "POST", "/api/v1/reload", headers=bearer(WRITE))[0] == 401
    another = bearer("another-another-another")
    assert request(where, "POST", "/api/v1/reload", headers=another)[0] == 200
    files["write"].unlink()
    assert request(where, "POST", "/api/v1/reload", headers=another)[0] == 200
    assert served.proxy.log("a token cannot be read: the last one holds")
    for token in (READ, WRITE, "another-another-another"):
        assert token not in served.proxy.stderr


def test_without_a_file_the_token_is_made_at_the_start(tmp_path: Path) -> None:
    with running_proxy(yaml(tmp_path, "127.0.0.1:0")) as proxy:
        [where] = tcp_doors(proxy)
        token = write_token(tmp_path / "admin.sock")
        assert request(where, "POST", "/api/v1/reload")[0] == 401
        assert request(where, "POST", "/api/v1/reload", headers=bearer(token))[0] == 200
        assert token not in proxy.stderr


def test_metrics_have_a_door_for_themselves_and_for_health(served: Served) -> None:
    [where] = tcp_doors(served.proxy, metrics=True)
    elsewhere = {"Host": "prometheus.example"}
    assert request(where, "GET", "/healthz", headers=elsewhere) == (200, {"status": "ok"})
    assert request(where, "GET", "/readyz", headers=elsewhere) == (200, {"status": "ready"})
    for target in ("/", "/api/v1/status", "/api/v1/token"):
        code, answer = request(where, "GET", target, headers=bearer(WRITE))
        assert (code, answer["error"]) == (404, f"there is no {target} here; try /metrics")
    assert request(where, "POST", "/api/v1/reload", headers=bearer(WRITE))[0] == 404


def refused_start(directory: Path, text: str) -> str:
    """What a proxy that cannot start says."""
    file = directory / "bad.yaml"
    file.write_text(text)
    command = [sys.executable, "-m", "spliceproxy", "run", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert ended.returncode in (1, 78), ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr.splitlines()[-1] if ended.returncode == 1 else ended.stderr


def test_an_address_that_others_can_reach_wants_a_token(tmp_path: Path) -> None:
    said = refused_start(tmp_path, yaml(tmp_path, "0.0.0.0:9900"))
    assert "admin.bind[1]: other machines can reach this" in said
    assert not (tmp_path / "admin.sock").exists()


def test_a_token_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.token"
    assert refused_start(tmp_path, yaml(tmp_path, "127.0.0.1:0", write=path)) == (
        f"spliceproxy: admin.tokens.write: {path}: No such file or directory"
    )
    assert not (tmp_path / "admin.sock").exists()


def test_check_reads_the_tokens_too(tmp_path: Path) -> None:
    token = tmp_path / "write.token"
    token.write_text("short")
    file = tmp_path / "app.yaml"
    file.write_text(yaml(tmp_path, write=token))
    command = [sys.executable, "-m", "spliceproxy", "check", str(file)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (said.returncode, said.stdout) == (1, "")
    assert "admin.tokens.write: " in said.stderr
    token.write_text(WRITE)
    token.chmod(0o644)
    said = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (said.returncode, len(said.stderr.splitlines())) == (0, 1)
    assert "everybody on this machine may read it" in said.stderr


def test_an_address_that_is_taken_is_named_with_who_has_it(served: Served, tmp_path: Path) -> None:
    directory = tmp_path / "second"
    directory.mkdir()
    port = served.tcp[0][1]
    assert refused_start(directory, yaml(directory, f"127.0.0.1:{port}")) == (
        f"spliceproxy: admin.bind: 127.0.0.1:{port}: in use by spliceproxy (pid {served.proxy.pid})"
    )
    assert not (directory / "admin.sock").exists()
    assert ask(served.tcp[0], "GET", "/healthz").status == 200


def test_localhost_is_every_loopback_address(tmp_path: Path) -> None:
    with running_proxy(yaml(tmp_path, "localhost:0")) as proxy:
        doors: list[Where] = [*tcp_doors(proxy)]
        assert [host for host, _port in tcp_doors(proxy)] == ["127.0.0.1", "::1"]
        assert [ask(where, "GET", "/api/v1/status").status for where in doors] == [200, 200]
