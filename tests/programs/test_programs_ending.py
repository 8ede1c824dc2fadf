"""Sessions that are ended on purpose, and listeners that are drained, under real programs' load."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from harness.door import request
from harness.fds import same_fds
from harness.proxy import running_proxy
from harness.upstreams import Upstream, echo
from harness.wait import wait_until
from real_programs import free_port, need, nginx, program

QUICK = "interval: 100ms, timeout: 300ms, rise: 1, fall: 2"


@contextmanager
def redis(port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [need("redis-server"), "--port", port, "--bind", "127.0.0.1", "--save", ""]
    with program(command, log, ("127.0.0.1", port)) as process:
        yield process


def ping(client: socket.socket) -> bool:
    client.sendall(b"PING\r\n")
    return client.recv(100) == b"+PONG\r\n"


def reset_within(clients: list[socket.socket], seconds: float) -> float:
    """Seconds until every client was reset."""
    began = time.monotonic()

    def gone(client: socket.socket) -> bool:
        client.settimeout(0.001)
        try:
            assert client.recv(1) != b"", "FIN in place of a reset"
        except TimeoutError:
            return False
        except ConnectionResetError:
            return True
        return False

    left = list(clients)

    def all_gone() -> bool:
        left[:] = [client for client in left if not gone(client)]
        return not left

    wait_until(all_gone, seconds, "a reset for each client")
    return time.monotonic() - began


@pytest.mark.alone
@pytest.mark.parametrize("workers", [1, 2])
def test_the_sessions_of_a_redis_that_hangs_are_reset_and_go_on_elsewhere(
    workers: int, tmp_path: Path
) -> None:
    first, second = free_port(), free_port()
    yaml = (
        "listeners: {web: {bind: '127.0.0.1:0', pool: app}}\n"
        f"pools: {{app: {{upstreams: ['127.0.0.1:{first}', {{address: '127.0.0.1:{second}', "
        f"tier: 1}}], health: {{check: redis, {QUICK}}}, on_down: reset}}}}\n"
    )
    with (
        redis(first, tmp_path / "1") as victim,
        redis(second, tmp_path / "2"),
        running_proxy(yaml, workers=workers) as proxy,
        ExitStack() as stack,
    ):
        clients = [stack.enter_context(proxy.connect("web")) for _ in range(40)]
        assert all(ping(client) for client in clients)
        began = time.monotonic()
        os.kill(victim.pid, signal.SIGSTOP)
        try:
            down = proxy.wait_log("upstream down")
            detected = time.monotonic() - began
            reset_within(clients, 5)
            with proxy.connect("web") as again:
                assert ping(again)
        finally:
            os.kill(victim.pid, signal.SIGCONT)
        records = proxy.wait_records(41)
        ended = [one for one in records if one["upstream"] == f"127.0.0.1:{first}"]
        assert [one["why"] for one in ended] == ["upstream_down"] * 40
        late = max(_seconds(one["start"]) + one["duration_ms"] / 1000 for one in ended)
        late -= _seconds(down["time"])
        print(f"down after {detected:.3f} s, the last of 40 ended {late * 1000:.0f} ms later")
        assert late < 0.1


def test_by_default_the_sessions_of_a_redis_that_hangs_stay_and_hear_it_again(
    tmp_path: Path,
) -> None:
    port = free_port()
    yaml = (
        "listeners: {web: {bind: '127.0.0.1:0', pool: app}}\n"
        f"pools: {{app: {{upstreams: '127.0.0.1:{port}', health: {{check: redis, {QUICK}}}}}}}\n"
    )
    with (
        redis(port, tmp_path / "1") as victim,
        running_proxy(yaml) as proxy,
        proxy.connect("web") as client,
    ):
        assert ping(client)
        os.kill(victim.pid, signal.SIGSTOP)
        try:
            proxy.wait_log("upstream down")
            client.sendall(b"PING\r\n")
        finally:
            os.kill(victim.pid, signal.SIGCONT)
        assert client.recv(100) == b"+PONG\r\n"
        proxy.wait_log("upstream up")
        assert ping(client)


def test_sessions_of_the_backup_are_reset_when_the_first_is_back(tmp_path: Path) -> None:
    first, second = free_port(), free_port()
    yaml = (
        "listeners: {web: {bind: '127.0.0.1:0', pool: app}}\n"
        f"pools: {{app: {{upstreams: ['127.0.0.1:{first}', {{address: '127.0.0.1:{second}', "
        f"tier: 1}}], health: {{check: redis, {QUICK}}}, on_failback: reset}}}}\n"
    )
    with redis(second, tmp_path / "2"), running_proxy(yaml, workers=2) as proxy:
        proxy.wait_log("upstream down")
        with proxy.connect("web") as client:
            assert ping(client)
            with redis(first, tmp_path / "1"):
                reset_within([client], 10)
                [record] = proxy.wait_records(1)
                assert (record["why"], record["how"]) == ("failback", "reset")
                assert record["upstream"] == f"127.0.0.1:{second}"
                with proxy.connect("web") as again:
                    assert ping(again)
                assert proxy.wait_records(2)[1]["upstream"] == f"127.0.0.1:{first}"


@pytest.mark.parametrize("policy", ["reset", "keep"])
def test_a_reload_ends_the_sessions_of_a_removed_upstream_where_the_pool_says_so(
    policy: str,
) -> None:
    with echo() as old, echo() as new:

        def text(*upstreams: Upstream) -> str:
            names = ", ".join(one.address for one in upstreams)
            return (
                "listeners: {web: {bind: '127.0.0.1:0', pool: app}}\n"
                f"pools: {{app: {{upstreams: [{names}], on_remove: {policy}}}}}\n"
            )

        with running_proxy(text(old, new)) as proxy, ExitStack() as stack:
            clients = [stack.enter_context(proxy.connect("web")) for _ in range(10)]
            for client in clients:
                client.sendall(b"hello")
                assert client.recv(100) == b"hello"
            mine = [(one.accepted, one) for one in (old, new)]
            assert [number for number, _ in mine] == [5, 5]
            head = proxy.config.read_text().splitlines()[:3]
            proxy.config.write_text("\n".join([*head, text(new)]))
            proxy.signal(signal.SIGHUP)
            proxy.wait_log("reloaded")
            expected = 5 if policy == "reset" else 0
            wait_until(lambda: old.open_connections == 5 - expected, 10, "the removed ones' end")
            alive = 0
            for client in clients:
                with suppress(ConnectionResetError):
                    client.sendall(b"again")
                    alive += client.recv(100) == b"again"
            assert alive == 10 - expected
            if expected:
                assert {one["why"] for one in proxy.wait_records(5)} == {"removed"}


@pytest.mark.alone
def test_a_drain_of_an_nginx_under_wrk_ends_its_keepalive_sessions_within_the_time(
    tmp_path: Path,
) -> None:
    """wrk reconnects: its clients go on at the other nginx."""
    door = tmp_path / "door"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with nginx(tmp_path / "a") as one, nginx(tmp_path / "b") as two:
        yaml = (
            f"admin: {{bind: 'unix:{door}'}}\n"
            "listeners: {web: {bind: '127.0.0.1:0', pool: app}}\n"
            f"pools: {{app: {{upstreams: ['{one['v4']}', '{two['v4']}']}}}}\n"
        )
        with running_proxy(yaml, workers=2) as proxy:
            url = f"http://127.0.0.1:{proxy.port('web')}/fine"
            command = [need("wrk"), "-c", "40", "-t", "1", "-d", "300s", url]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
                wait_until(lambda: _access(tmp_path / "a") > 100, 10, "load")
                began = time.monotonic()
                said = drain(door, f"pool/app/{one['v4']}", "--over", "2s")
                lasted = time.monotonic() - began
                after = _access(tmp_path / "a")
                load.send_signal(signal.SIGINT)
                out = load.communicate(timeout=30)[0]
            print(said, out, f"drained after {lasted:.2f} s")
            # Half of 40, but each of two workers has a round of its own.
            assert re.search(r": draining, (1[5-9]|2[0-5]) sessions$", said.splitlines()[0])
            assert said.splitlines()[-1].endswith("drained")
            assert 1 < lasted < 4
            assert _access(tmp_path / "a") == after, "no request at the drained one"
            drained = [record for record in proxy.records() if record["why"] == "drained"]
            assert 15 <= len(drained) <= 25
            assert {record["upstream"] for record in drained} == {one["v4"]}
            assert "Non-2xx" not in out


@pytest.mark.parametrize("workers", [1, 2])
def test_a_listener_drained_and_undrained_under_wrk_resets_nobody(
    workers: int, tmp_path: Path
) -> None:
    """Who was accepted is served to the end; the others are refused, as by a machine that is
    gone, and never reset."""
    door = tmp_path / "door"
    with nginx(tmp_path) as origin:
        yaml = (
            f"admin: {{bind: 'unix:{door}'}}\n"
            "listeners: {web: {bind: '127.0.0.1:0', pool: app}}\n"
            f"pools: {{app: {{upstreams: '{origin['v4']}'}}}}\n"
        )
        with running_proxy(yaml, workers=workers) as proxy, same_fds(proxy.pid):
            url = f"http://127.0.0.1:{proxy.port('web')}/fine"
            command = [need("wrk"), "-c", "16", "-t", "1", "-d", "300s", "--timeout", "3s"]
            command += ["-H", "Connection: close", url]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
                for target in ("listener/web", "all", "listener/web"):
                    seen = len(proxy.records())
                    wait_until(lambda n=seen: len(proxy.records()) > n + 200, 10, "load")
                    drain(door, target)
                    wait_until(lambda: _status(door)["sessions"] == 0, 10, "no session")
                    command_line(door, "undrain", target)
                load.send_signal(signal.SIGINT)
                out = load.communicate(timeout=30)[0]
            print(out)
            assert int(re.findall(r"(\d+) requests in", out)[0]) > 600
            assert "Non-2xx" not in out
            # wrk takes a connect that is refused for an error of write; a reset is one of read.
            [(read, timeout)] = re.findall(r"read (\d+), write \d+, timeout (\d+)", out)
            assert (read, timeout) == ("0", "0")
            whys = {record["why"] for record in proxy.records()}
            assert whys <= {"done", "client_reset"}, whys


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


def _access(directory: Path) -> int:
    return (directory / "access.log").read_bytes().count(b"\n")


def _status(door: Path) -> dict[str, Any]:
    return request(door, "GET", "/api/v1/status")[1]


def drain(door: Path, *arguments: str) -> str:
    return command_line(door, "drain", *arguments)


def command_line(door: Path, *arguments: str) -> str:
    """What `spliceproxy ARGUMENTS` says; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "spliceproxy", *arguments, "--admin", str(door)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
