"""Requests under way at an upstream that is killed again and again, with `replay` and without."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from harness.proxy import running_proxy
from real_programs import free_port, need, nginx, program, run

SERVER = Path(__file__).with_name("dying_server.py")
LIFETIME = 0.15
"""Seconds between two SIGKILLs: long enough for a new process to answer a few requests."""


def failures(directory: Path, replay: str) -> tuple[int, int, int]:
    """Requests in all, failed ones, and sessions that got another upstream, under wrk."""
    directory.mkdir()
    port = free_port()
    with (
        nginx(directory) as healthy,
        program([sys.executable, SERVER, port, LIFETIME], directory / "log", ("127.0.0.1", port)),
    ):
        yaml = (
            "listeners: {web: {bind: '127.0.0.1:0', pool: app}}\n"
            f"pools: {{app: {{upstreams: ['127.0.0.1:{port}', '{healthy['v4']}'], eject: off, "
            f"replay: {replay}}}}}\n"
        )
        with running_proxy(yaml, workers=2) as proxy:
            url = f"http://127.0.0.1:{proxy.port('web')}/fine"
            close = ["-H", "Connection: close", "--timeout", "10s"]
            said = run([need("wrk"), "-c", 24, "-t", 1, "-d", "4s", *close, url])
            replaced = sum(record["retries"] > 0 for record in proxy.records())
    [total] = re.findall(r"(\d+) requests in", said)
    errors = re.findall(r"Socket errors: connect (\d+), read (\d+), write (\d+)", said)
    failed = sum(map(int, errors[0])) if errors else 0
    print(f"replay {replay}: {total} requests, {failed} failed, {replaced} with another upstream")
    print(said)
    assert "Non-2xx" not in said
    return int(total), failed, replaced


def test_no_request_fails_at_an_upstream_that_dies_before_its_answer(tmp_path: Path) -> None:
    total, failed, replaced = failures(tmp_path / "on", "16KiB")
    assert failed == 0
    assert replaced > 0
    assert total > 100


def test_without_replay_the_requests_under_way_fail(tmp_path: Path) -> None:
    _total, failed, replaced = failures(tmp_path / "off", "off")
    assert failed > 0, "the upstream of the other test does no harm: it proves nothing"
    assert replaced == 0
