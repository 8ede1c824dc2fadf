"""Real programs for tests: found or skipped, started, and ended for sure."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness.ports import free_port
from harness.proxy import Name, connect
from harness.wait import wait_until

PEERS = Path(__file__).with_name("peer_process.py")
"""Upstreams and clients that need a process of their own."""


def need(program: str) -> str:
    """The path of a program; a test that lacks it is skipped."""
    found = shutil.which(program, path="/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def need_fds(number: int) -> None:
    """Let this process, and those that it starts, have `number` fds, or skip the test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < number:
        pytest.skip(f"the hard limit of open files is {hard}, and {number} are needed")
    if soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))


def run(
    command: Sequence[object],
    timeout: float = 60,
    *,
    with_stderr: bool = False,
    **options: object,
) -> str:
    """Run a program to its end; its standard output, and error where wanted. It must succeed."""
    done = subprocess.run(  # type: ignore[call-overload]
        [str(word) for word in command],
        capture_output=True,
        timeout=timeout,
        **options,
    )
    said = f"{done.stdout.decode()}\n{done.stderr.decode()}"
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{said}"
    return said if with_stderr else str(done.stdout.decode())


@contextmanager
def program(
    command: Sequence[object], log: Path, ready: Name | None = None, cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A program as long as the block lasts; first, somebody must accept at `ready`. It runs in
    `cwd`, or here."""
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
        ) as process,
    ):
        try:
            if ready is not None:
                wait_until(
                    lambda: _accepts(ready) or process.poll() is not None, 15, f"{command[0]}"
                )
                assert process.poll() is None, log.read_text()
            yield process
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def _accepts(name: Name) -> bool:
    try:
        connect(name, 1).close()
    except OSError:
        return False
    return True


@contextmanager
def peer(role: str, *arguments: str | int) -> Iterator[str]:
    """An upstream in a process of its own (see peer_process.py); its address."""
    with subprocess.Popen(
        [sys.executable, str(PEERS), role, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def web(upstream: str, bind: str | Sequence[str] = "127.0.0.1:0", more: str = "") -> str:
    """The configuration of one listener `web` in front of one upstream."""
    binds = [bind] if isinstance(bind, str) else bind
    quoted = ", ".join(f'"{address}"' for address in binds)
    return (
        f"{more}\n"
        f"listeners:\n  web: {{bind: [{quoted}], pool: app}}\n"
        f'pools:\n  app: {{upstreams: "{upstream}"}}\n'
    )


def bind_text(family: str, directory: Path, name: str = "web") -> str:
    """Where a listener of that family listens."""
    return {"v4": "127.0.0.1:0", "v6": "[::1]:0", "unix": f"unix:{directory}/{name}.sock"}[family]


_NGINX = """
{user}
daemon off;
master_process off;
pid {directory}/pid;
error_log {directory}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log {directory}/access.log;
  client_body_temp_path {directory}/body;
  client_max_body_size 0;
  keepalive_requests 1000000;
  root {directory};
  server {{
    listen 127.0.0.1:{v4} backlog=4096;
    listen [::1]:{v6} backlog=4096;
    listen unix:{directory}/nginx.sock;
    location = /fine {{ return 200 "fine\\n"; }}
  }}
}}
"""


@contextmanager
def nginx(directory: Path) -> Iterator[dict[str, str]]:
    """nginx that serves the files of a directory; its address by family.

    `/fine` is a short answer of its own, `access.log` has a line for each request.
    """
    path = need("nginx")
    ports = {family: free_port(family) for family in ("v4", "v6")}
    config = directory / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(_NGINX.format(directory=directory, user=user, **ports))
    command = [path, "-p", directory, "-c", config]
    with program(command, directory / "nginx.log", ("127.0.0.1", ports["v4"])):
        yield {
            "v4": f"127.0.0.1:{ports['v4']}",
            "v6": f"[::1]:{ports['v6']}",
            "unix": f"unix:{directory}/nginx.sock",
        }
