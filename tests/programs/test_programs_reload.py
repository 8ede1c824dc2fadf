"""Reloads under load: nobody is refused, and no session ends for it."""

from __future__ import annotations

import re
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness.proxy import Proxy, running_proxy
from harness.talkers import TALKERS, talkers
from harness.upstreams import echo
from harness.wait import wait_until
from real_programs import need, nginx

RELOADS = 50


def reload(proxy: Proxy, text: str) -> None:
    before = len(proxy.log("reloaded"))
    proxy.config.write_text(text)
    proxy.signal(signal.SIGHUP)
    wait_until(lambda: len(proxy.log("reloaded")) > before, 20, "reloaded")


@pytest.mark.parametrize("workers", [1, 2])
def test_fifty_reloads_under_wrk_cost_no_request_and_no_session(
    workers: int, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        origin = stack.enter_context(nginx(tmp_path))
        voice = stack.enter_context(echo())

        def text(number: int) -> str:
            """Web and talk stay; a listener, a pool and upstreams come and go around them."""
            odd = number % 2
            second = f", '{origin['v6']}'" if odd else ""
            more = f"  more{number}: {{bind: '127.0.0.1:0', pool: more}}\n" if odd else ""
            pool = f"  more: {{upstreams: '{origin['v4']}'}}\n" if odd else ""
            return (
                f"workers: {workers}\nadmin: off\n"
                "listeners:\n"
                "  web: {bind: '127.0.0.1:0', pool: nginx}\n"
                f"  talk: {{bind: '127.0.0.1:0', pool: voice}}\n{more}"
                "pools:\n"
                f"  nginx: {{upstreams: ['{origin['v4']}'{second}]}}\n"
                f"  voice: {{upstreams: {voice.address}, retries: {number % 3}}}\n{pool}"
            )

        proxy = stack.enter_context(running_proxy(text(0), workers=workers))
        crowd = stack.enter_context(talkers(proxy.address("talk")))
        url = f"http://127.0.0.1:{proxy.port('web')}/fine"
        command = [need("wrk"), "-c", "64", "-t", "1", "-d", "300s", "-H", "Connection: close", url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
            for number in range(1, RELOADS + 1):
                reload(proxy, text(number))
                assert load.poll() is None, "wrk ended before the reloads did"
            load.send_signal(signal.SIGINT)  # it tells what it has counted so far
            said = load.communicate(timeout=30)[0]
        for one in crowd:
            one.leave()
        rounds = [one.rounds for one in crowd]
        print(f"{said}\n{sum(rounds)} rounds of {TALKERS} sessions")
        assert [one.trouble for one in crowd] == [""] * TALKERS
        assert min(rounds) > 0
        assert "Socket errors" not in said
        assert "Non-2xx" not in said
        assert int(re.findall(r"(\d+) requests in", said)[0]) > 1000
        slowest = max(line["milliseconds"] for line in proxy.log("reloaded"))
        print(f"the slowest reload took {slowest} ms")
