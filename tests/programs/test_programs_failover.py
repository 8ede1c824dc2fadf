"""Upstreams that die, hang and come back under load, and those that somebody drains."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness.proxy import Proxy, running_proxy
from harness.upstreams import echo, named
from harness.wait import wait_until
from real_programs import free_port, need, nginx, program

HEALTH = "health: {check: tcp, interval: 100ms, timeout: 300ms, rise: 1, fall: 2}"


def answer(proxy: Proxy) -> str:
    with proxy.connect("web") as client:
        return client.makefile("rb").read().decode()


@pytest.mark.parametrize("balance", ["round_robin", "least_sessions", "random", "power_of_two"])
def test_an_upstream_that_is_down_gets_no_session_until_it_is_back(balance: str) -> None:
    with named("one") as one, named("two") as two:
        yaml = (
            f"{HEALTH}\n"
            "listeners: {web: {bind: '127.0.0.1:0', pool: app}}\n"
            f"pools: {{app: {{upstreams: [{one.address}, {two.address}], balance: {balance}, "
            "eject: off, retries: 0}}\n"
        )
        with running_proxy(yaml, workers=2) as proxy:
            wait_until(lambda: {answer(proxy) for _ in range(8)} == {"one", "two"}, 10, "both")
            one.stop()
            down = proxy.wait_log("upstream down")
            assert down["upstream"] == one.address
            assert {answer(proxy) for _ in range(40)} == {"two"}
            one.start()
            proxy.wait_log("upstream up")
            wait_until(lambda: {answer(proxy) for _ in range(8)} == {"one", "two"}, 10, "both")
            assert len(proxy.log("upstream down")) == 1


def test_higher_tiers_serve_while_the_first_is_down() -> None:
    with named("main") as main, named("backup") as backup:
        yaml = (
            f"{HEALTH}\n"
            "listeners: {web: {bind: '127.0.0.1:0', pool: app}}\n"
            f"pools: {{app: {{upstreams: [{main.address}, "
            f"{{address: {backup.address}, tier: 1}}]}}}}\n"
        )
        with running_proxy(yaml) as proxy:
            assert {answer(proxy) for _ in range(10)} == {"main"}
            main.stop()
            proxy.wait_log("upstream down")
            assert {answer(proxy) for _ in range(10)} == {"backup"}
            main.start()
            proxy.wait_log("upstream up")
            assert {answer(proxy) for _ in range(10)} == {"main"}


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGSTOP])
def test_an_nginx_that_dies_or_hangs_under_wrk_fails_no_connect(
    ending: signal.Signals, tmp_path: Path
) -> None:
    """A SIGSTOP needs a check that wants an answer, and requests under way are lost with it."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with nginx(tmp_path / "a") as first:
        port = free_port()
        page = tmp_path / "page.py"
        page.write_text(PAGE)
        with program([sys.executable, page, port], tmp_path / "log") as victim:
            yaml = (
                "health: {check: http, path: /fine, interval: 100ms, timeout: 300ms, fall: 2}\n"
                "listeners: {web: {bind: '127.0.0.1:0', pool: app}}\n"
                f"pools: {{app: {{upstreams: ['{first['v4']}', '127.0.0.1:{port}']}}}}\n"
            )
            with running_proxy(yaml, workers=2) as proxy:
                url = f"http://127.0.0.1:{proxy.port('web')}/fine"
                command = [need("wrk"), "-c", "16", "-t", "1", "-d", "4s", "--timeout", "1s"]
                command += ["-H", "Connection: close", url]
                with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
                    wait_until(lambda: len(proxy.records()) > 500, 10, "load")
                    began = time.monotonic()
                    os.kill(victim.pid, ending)
                    down = proxy.wait_log("upstream down")
                    print(f"{ending.name}: down after {time.monotonic() - began:.3f} s")
                    said = load.communicate(timeout=30)[0]
                if ending == signal.SIGSTOP:
                    os.kill(victim.pid, signal.SIGCONT)
                print(said)
                assert down["upstream"] == f"127.0.0.1:{port}"
                failed = [r for r in proxy.records() if r["phase"] == "connect"]
                assert failed == []
                # Each of wrk's connections that has a request at a stopped process waits for it.
                least = 400 if ending == signal.SIGSTOP else 1000
                assert int(re.findall(r"(\d+) requests in", said)[0]) > least


def test_a_drained_upstream_keeps_its_session_and_gets_no_other(tmp_path: Path) -> None:
    door = tmp_path / "door"
    with echo() as old, named("new") as new:
        yaml = (
            f"admin: {{bind: 'unix:{door}'}}\n"
            "listeners: {web: {bind: '127.0.0.1:0', pool: app}}\n"
            f"pools: {{app: {{upstreams: [{old.address}, {{address: {new.address}, weight: 0}}]}}}}"
        )
        with running_proxy(yaml) as proxy, proxy.connect("web") as client:
            client.sendall(b"before")
            assert client.recv(100) == b"before"
            proxy.config.write_text(proxy.config.read_text().replace("weight: 0", "weight: 1"))
            told = command(door, "reload")
            assert f"upstream {new.address}: weight 0 → 1" in told.stdout
            drained = command(door, "drain", f"pool/app/{old.address}")
            assert drained.stdout.endswith("draining, 1 session\n")
            assert {answer(proxy) for _ in range(10)} == {"new"}
            client.sendall(b"after")
            assert client.recv(100) == b"after"
            client.close()
            waited = command(door, "drain", f"pool/app/{old.address}", "--wait", "10")
            assert waited.stdout.endswith("drained\n")


def command(door: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "spliceproxy", *arguments, "--admin", str(door)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )


PAGE = """
import http.server, sys
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer.request_queue_size = 1024
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Page).serve_forever()
"""
