"""Upgrades under load: nobody is refused, no session ends for it, and no byte is lost."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness.generations import generations
from harness.load import digest, drain_digest
from harness.proxy import connect
from harness.talkers import TALKERS, talkers
from harness.upstreams import echo, source
from real_programs import need, nginx

UPGRADES = 5
BULK = 160 * 1024 * 1024
RATE = 10 * 1024 * 1024
"""Bytes per second: the download lasts longer than all upgrades."""


@pytest.mark.parametrize("workers", [1, 2])
def test_upgrades_under_wrk_cost_no_request_no_session_and_no_byte(
    workers: int, tmp_path: Path, seed: int
) -> None:
    with ExitStack() as stack:
        (tmp_path / "nginx").mkdir()
        origin = stack.enter_context(nginx(tmp_path / "nginx"))
        voice = stack.enter_context(echo())
        bulk = stack.enter_context(source(BULK, seed))
        text = (
            "listeners:\n"
            "  web: {bind: '127.0.0.1:0', pool: nginx}\n"
            f"  file: {{bind: 'unix:{tmp_path / 'web.sock'}', pool: voice}}\n"
            "  talk: {bind: '127.0.0.1:0', pool: voice}\n"
            "  bulk: {bind: '127.0.0.1:0', pool: bulk}\n"
            "pools:\n"
            f"  nginx: {{upstreams: ['{origin['v4']}']}}\n"
            f"  voice: {{upstreams: {voice.address}}}\n"
            f"  bulk: {{upstreams: {bulk.address}}}\n"
        )
        proxy = stack.enter_context(generations(text, tmp_path, workers=workers))
        first = proxy.proxy
        crowd = [*stack.enter_context(talkers(first.address("talk")))]
        crowd += stack.enter_context(talkers(first.address("file")))
        received: list[tuple[int, str]] = []
        download = stack.enter_context(connect(first.address("bulk")))
        reader = threading.Thread(
            target=lambda: received.append(drain_digest(download, RATE)), daemon=True
        )
        reader.start()
        url = f"http://127.0.0.1:{first.port('web')}/fine"
        command = [need("wrk"), "-c", "32", "-t", "1", "-d", "300s", "--timeout", "20s"]
        loads = [
            stack.enter_context(
                subprocess.Popen(
                    [*command, *close, url],
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for close in (("-H", "Connection: close"), ())
        ]
        for _ in range(UPGRADES):
            proxy.upgrade()
            crowd += stack.enter_context(talkers(first.address("talk")))
        assert all(load.poll() is None for load in loads), "wrk ended before the upgrades did"
        for load in loads:
            load.send_signal(signal.SIGINT)  # its result comes now
            said = load.communicate(timeout=60)[0]
            print(said)
            assert "Socket errors" not in said
            assert "Non-2xx" not in said
            assert int(re.findall(r"(\d+) requests in", said)[0]) > 1000
        reader.join(60)
        assert received == [(BULK, digest(BULK, seed))]
        for one in crowd:
            one.leave()
        rounds = [one.rounds for one in crowd]
        print(f"{sum(rounds)} rounds of {len(crowd)} sessions")
        assert [one.trouble for one in crowd] == [""] * TALKERS * (2 + UPGRADES)
        assert min(rounds) > 0
        download.close()
        proxy.wait_alone()
        whys = {record["why"] for record in first.records()}
        assert whys <= {"done", "client_reset"}, whys
