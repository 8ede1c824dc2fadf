"""Health checks of real programs: none of them logs an error, and their death is found out."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest
from harness.health import rig, run
from harness.serving import FAMILIES
from real_programs import free_port, need, nginx, program

asked: list[int] = []
"""The port of each question of `connections`."""
QUICK: dict[str, object] = {"interval": "100ms", "timeout": "300ms"}


@pytest.mark.alone
@pytest.mark.parametrize("family", FAMILIES)
def test_nginx_is_checked_by_http_and_logs_no_error(family: str, seed: int, tmp_path: Path) -> None:
    async def test() -> None:
        async with rig(seed) as it:
            with nginx(tmp_path) as addresses:
                access = tmp_path / "access.log"
                before = access.read_bytes().count(b"\n")
                health = {**QUICK, "check": "http", "path": "/fine", "expect": "fine\n$$"}
                it.apply(health, addresses[family])
                await it.wait(lambda: access.read_bytes().count(b"\n") >= before + 5, "five checks")
                assert it.lines == []
                assert '"GET /fine HTTP/1.1" 200' in access.read_text().splitlines()[-1]
                it.apply({**health, "path": "/missing"}, addresses[family])
                line = await it.wait_log("upstream down")
                assert line["reason"] == "status 404"
                errors = (tmp_path / "error.log").read_text().splitlines()
                assert all("/missing" in error for error in errors)

    run(test)


def connections(port: int, before: int = 0) -> int:
    """How many connections a redis-server has accepted, without those of this function and
    `before`."""
    with socket.create_connection(("127.0.0.1", port), 5) as sock, sock.makefile("rb") as lines:
        sock.sendall(b"INFO stats\r\nQUIT\r\n")
        said = lines.read().decode()
    total = next(line for line in said.splitlines() if line.startswith("total_connections"))
    asked.append(port)
    return int(total.partition(":")[2]) - asked.count(port) - before


def test_a_redis_that_is_stopped_killed_and_started_again_is_followed(
    seed: int, tmp_path: Path
) -> None:
    async def test() -> None:
        port = free_port()
        command = [need("redis-server"), "--port", port, "--bind", "127.0.0.1", "--save", ""]
        log, name = tmp_path / "redis.log", f"127.0.0.1:{port}"
        async with rig(seed) as it:
            with program(command, log, ("127.0.0.1", port)) as redis:
                before = connections(port)
                it.apply({**QUICK, "check": "redis"}, name)
                await it.wait(lambda: connections(port, before) >= 3, "three checks")
                began = time.monotonic()
                os.kill(redis.pid, signal.SIGSTOP)
                line = await it.wait_log("upstream down")
                stopped = time.monotonic() - began
                assert line["reason"] == "timeout after 0.3 s"
                began = time.monotonic()
                os.kill(redis.pid, signal.SIGCONT)
                await it.wait_log("upstream up", reason='answered "+PONG"')
                back = time.monotonic() - began
                began = time.monotonic()
                redis.kill()
                line = await it.wait_log("upstream down", count=2)
                killed = time.monotonic() - began
                assert line["reason"] in ("connection refused", "connection reset")
                print(
                    f"found: SIGSTOP {stopped:.2f} s, SIGCONT {back:.2f} s, SIGKILL {killed:.2f} s"
                )
            with program(command, log, ("127.0.0.1", port)):
                await it.wait_log("upstream up", count=2)
            assert len(it.lines) >= 4

    run(test)
