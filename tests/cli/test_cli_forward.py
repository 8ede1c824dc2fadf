"""`spliceproxy forward`: a proxy without a file."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from command import Spliceproxy, running
from harness.upstreams import named

from spliceproxy import config
from spliceproxy.cli.forward import forward_yaml

YAML = """\
workers: 2
listeners:
  forward: {bind: "127.0.0.1:8080", pool: forward}
pools:
  forward:
    upstreams: ["10.0.0.1:80", "unix:/run/app.sock"]
"""


def test_print_shows_a_configuration_that_run_would_take(
    spliceproxy: Spliceproxy, tmp_path: Path
) -> None:
    arguments = ["127.0.0.1:8080", "10.0.0.1:80", "unix:/run/app.sock"]
    shown = spliceproxy("forward", "--print", "--workers", "2", *arguments)
    assert shown.returncode == 0
    assert shown.stdout == YAML
    (tmp_path / "forward.yaml").write_text(shown.stdout)
    assert spliceproxy("check", "forward.yaml").returncode == 0


@pytest.mark.parametrize(
    "address",
    ["unix:/tmp/a b", "unix:/tmp/${HOME}", "unix:/tmp/$x", "unix:/tmp/ü#{}[],:\"'", "unix:@a\\n"],
)
def test_an_address_means_exactly_its_characters(address: str) -> None:
    loaded = config.loads(forward_yaml("127.0.0.1:1", [address]), "forward", env={})
    (upstream,) = loaded.pools["forward"].upstreams
    assert str(upstream.address) == address


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (["8080x", "127.0.0.1:1"], "8080x"),
        ([":8080", "127.0.0.1"], "127.0.0.1"),
        ([":8080", "127.0.0.1:1", "127.0.0.1:1"], "127.0.0.1:1"),
    ],
)
def test_a_wrong_address_is_a_usage_error_that_names_it(
    arguments: list[str], wrong: str, spliceproxy: Spliceproxy
) -> None:
    shown = spliceproxy("forward", *arguments)
    assert shown.returncode == 2
    (line,) = shown.stderr.splitlines()
    assert line.startswith("spliceproxy: forward: ")
    assert wrong in line


def test_forward_carries_clients_to_each_upstream_in_turn(tmp_path: Path) -> None:
    path = tmp_path / "in.sock"
    with named("a") as a, named("b") as b:
        arguments = ["--workers", "1", f"unix:{path}", a.address, b.address]
        with running(tmp_path / "log", "forward", *arguments) as proxy:
            answers = [_ask(path) for _ in range(4)]
            proxy.terminate()
            assert proxy.wait(15) == 0
    assert sorted(answers) == [b"a", b"a", b"b", b"b"]
    assert answers[0] != answers[1]


def _ask(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        return b"".join(iter(lambda: client.recv(4096), b"")).strip()
