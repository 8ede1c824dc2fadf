"""The units in deploy/systemd: systemd accepts them, and the proxy lives within them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness.fds import children
from harness.proxy import connect
from harness.upstreams import echo
from harness.wait import wait_until
from units import SYSTEMD, Unit

from spliceproxy.config import load

ROOT = Path(__file__).parents[2]
README = (ROOT / "deploy" / "README.md").read_text()
SERVICE = SYSTEMD / "spliceproxy.service"
SOCKETS = sorted(SYSTEMD.glob("*.socket"))
CONFIG = load(SYSTEMD / "spliceproxy.yaml", {})


@pytest.fixture(autouse=True)
def _systemd() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", "--no-pager", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    """With another program in place of ours, which is not installed here."""
    for path in (SERVICE, *SOCKETS):
        text = path.read_text().replace("/opt/spliceproxy/bin/spliceproxy", "/bin/true")
        (tmp_path / path.name).write_text(text)
    shown = analyze("verify", "--man=no", *sorted(tmp_path.iterdir()))
    ours = [line for line in shown.stderr.splitlines() if "spliceproxy" in line]
    assert (shown.returncode, ours) == (0, []), shown.stderr


def test_the_exposure_is_as_the_readme_says() -> None:
    """Other versions of systemd weigh a little differently."""
    shown = analyze("security", "--offline=true", SERVICE)
    score = re.search(r"Overall exposure level for spliceproxy.service: ([\d.]+)", shown.stdout)
    said = re.search(r"gives the service ([\d.]+)", README)
    assert score, shown.stdout
    assert said
    print(f"exposure {score[1]}, in deploy/README.md {said[1]}")
    assert abs(float(score[1]) - float(said[1])) <= 0.3


def own_namespaces() -> list[str]:
    """The command in front that makes a network and mounts for one process."""
    spaces = ["unshare", "--net", "--mount", "--map-root-user"]
    if subprocess.run([*spaces, "true"], capture_output=True).returncode:
        pytest.skip("no namespaces may be made here")
    return spaces


def in_namespaces(program: str) -> str:
    """Run a program beside this one where every port is free; what it prints."""
    paths = [ROOT / "tests", ROOT / "tests" / "cli", ROOT]
    result = subprocess.run(
        [*own_namespaces(), sys.executable, str(Path(__file__).with_name(program))],
        capture_output=True,
        text=True,
        timeout=90,
        env={**os.environ, "PYTHONPATH": ":".join(map(str, paths))},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_lists_certificates_an_upgrade_and_a_drain_work_under_the_restrictions_of_its_service() -> (
    None
):
    in_namespaces("change_unit.py")


def test_the_proxy_serves_under_the_restrictions_of_its_service() -> None:
    seen = json.loads(in_namespaces("serve_unit.py"))
    done = [record for record in seen["records"] if record["why"] == "done"]
    assert sorted(record["listener"] for record in done) == ["local", "web", "web", "web"]
    assert all(record["spliced_up"] and record["spliced_down"] for record in done)
    # The one worker that was killed on purpose.
    assert [line["event"] for line in seen["warnings"]] == ["worker died"]


FORBIDDEN = {
    "a write outside its directories": ("open('/etc/hosts', 'a')", "Read-only file system"),
    "memory to write and execute": (
        "import mmap; mmap.mmap(-1, 4096, prot=7)",
        "Operation not permitted",
    ),
    "another address family": (
        "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "Address family not supported",
    ),
    "another system call": ("import os; os.chroot('/')", ""),
    "another capability": (
        "import socket; socket.socket().setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 1)",
        "Operation not permitted",
    ),
}


@pytest.mark.parametrize(("code", "told"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_what_the_service_forbids_is_forbidden_in_the_test_above(code: str, told: str) -> None:
    result = confined(sys.executable, "-c", code)
    assert told in result.stderr
    assert result.returncode == (1 if told else -signal.SIGSYS), result.stderr


def confined(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command under the restrictions of the service."""
    prepare = "mount -t tmpfs t /run; mount -t tmpfs t /var/log; mkdir /run/$0 /var/log/$0"
    return subprocess.run(
        [
            *own_namespaces(),
            *("sh", "-c", f'set -e; {prepare}; exec "$@"', "spliceproxy"),
            *(sys.executable, str(Path(__file__).with_name("confined.py")), str(SERVICE)),
            *command,
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_host_name_is_looked_up_under_the_restrictions_of_the_service() -> None:
    """getaddrinfo(3) asks for AF_NETLINK first, which it does not get."""
    code = "import socket; print(socket.getaddrinfo('localhost', 80)[0][4][1])"
    result = confined(sys.executable, "-c", code)
    assert (result.returncode, result.stdout) == (0, "80\n"), result.stderr


def test_sessions_may_end_before_systemd_kills() -> None:
    drain = CONFIG.timeouts.drain
    assert drain is not None
    assert int(Unit(SERVICE).one("TimeoutStopSec")) >= drain + 5


def test_reload_waits_with_newer_systemd_and_sends_one_signal() -> None:
    drop_in = Unit(SYSTEMD / "spliceproxy.service.d" / "notify-reload.conf")
    assert drop_in.one("Type") == "notify-reload"
    assert drop_in.all("ExecReload") == [""]


def test_each_socket_unit_is_for_a_listener_of_the_configuration() -> None:
    assert len(SOCKETS) == 2
    for path in SOCKETS:
        unit = Unit(path)
        listener = CONFIG.listeners[unit.one("FileDescriptorName")]
        assert unit.one("Service") == SERVICE.name
        assert int(unit.one("Backlog")) == listener.tcp.backlog
        assert unit.one("ListenStream").startswith("/") == listener.bind[0].is_unix


@contextmanager
def activator(tmp_path: Path, address: str, upstream: str) -> Iterator[subprocess.Popen[bytes]]:
    """systemd's own program that opens a socket, and starts the proxy for the first client."""
    text = (SYSTEMD / "spliceproxy.yaml").read_text()
    text = re.sub(r"upstreams: .*", f"upstreams: {upstream}", text)
    text = text.replace("/run/spliceproxy/", f"{tmp_path}/")
    config = tmp_path / "app.yaml"
    config.write_text(f"workers: 2\n{text}")
    passed = [f"--setenv={name}" for name in ("PATH", "PYTHONPATH") if name in os.environ]
    command = ["systemd-socket-activate", f"--listen={address}", "--fdname=web", *passed]
    command += [sys.executable, "-m", "spliceproxy", "run", str(config)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_socket_that_systemd_opened_serves_the_listener_of_its_name(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    log = tmp_path / "log"
    host, port = address.split(":")
    with echo("v4") as upstream, activator(tmp_path, address, upstream.address) as process:
        wait_until(lambda: b"Listening on" in log.read_bytes(), 15, "the socket")
        with connect((host, int(port))) as client:
            client.sendall(b"first")
            assert client.recv(100) == b"first"
        told = [line for line in log.read_text().splitlines() if line.startswith("{")]
        events = [json.loads(line) for line in told]
        listening = {(e["listener"], e["address"]) for e in events if e["event"] == "listening"}
        assert ("web", address) in listening
        assert len(children(process.pid)) == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
