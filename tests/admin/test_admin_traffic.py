"""What the doors of a running proxy tell of its traffic."""

from __future__ import annotations

import signal
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from harness import upstreams
from harness.door import request
from harness.expositions import Exposed
from harness.ports import free_port
from harness.proxy import Proxy, running_proxy
from harness.wait import wait_until

APP = """\
listeners:
  web: {{bind: "127.0.0.1:0", pool: app}}
pools:
  app: {{upstreams: [{upstream}], health: off}}
admin: {{bind: "unix:{door}"}}
metrics: {{bind: "127.0.0.1:{port}", upstreams: {upstreams}}}
"""


class Running:
    """A proxy, its doors, and its one upstream."""

    def __init__(self, proxy: Proxy, door: Path, port: int, upstream: str) -> None:
        self.proxy = proxy
        self.upstream = upstream
        self._door = door
        self._port = port

    def get(self, path: str) -> Any:
        status, found = request(self._door, "GET", f"/api/v1{path}")
        assert status == 200, found
        return found

    def scrape(self) -> Exposed:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics") as answer:
            return Exposed(answer.read())

    def echo(self, *, times: int) -> None:
        """So many sessions that send ten bytes and get them back, and their ends counted."""
        for _ in range(times):
            with closing(self.proxy.connect("web")) as client:
                client.sendall(b"0123456789")
                client.shutdown(socket.SHUT_WR)
                while client.recv(100):
                    pass
        wait_until(
            lambda: self.get("/traffic")["total"]["ended"] == times, 10, "the ends of all sessions"
        )


@pytest.fixture(params=["on"])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    door, port = tmp_path / "admin.sock", free_port()
    with upstreams.echo() as upstream:
        text = APP.format(upstream=upstream.address, door=door, port=port, upstreams=request.param)
        with running_proxy(text, workers=2) as proxy:
            yield Running(proxy, door, port, upstream.address)


def test_every_list_tells_the_traffic_of_what_is_in_it(running: Running) -> None:
    running.echo(times=5)
    [listener] = running.get("/listeners")["listeners"]
    [pool] = running.get("/pools")["pools"]
    [upstream] = running.get("/upstreams")["upstreams"]
    for found in (listener, pool, pool["upstreams"][0], upstream):
        traffic = found["traffic"]
        assert (traffic["ended"], traffic["bytes_up"], traffic["bytes_down"]) == (5, 50, 50)
        assert traffic["connect_ms"]["count"] == 5
    assert running.get("/listeners/web")["traffic"]["ended"] == 5
    assert running.get("/pools/app")["traffic"]["ended"] == 5
    assert (upstream["pool"], upstream["name"]) == ("app", running.upstream)


def test_traffic_and_history_agree_with_metrics(running: Running) -> None:
    running.echo(times=5)
    traffic, exposed = running.get("/traffic"), running.scrape()
    assert traffic["total"]["ended"] == exposed.sum("spliceproxy_sessions_ended_total") == 5
    moved = exposed.by("spliceproxy_session_bytes_total", "direction")
    assert moved == {("up",): 50, ("down",): 50}
    [edge] = [edge for edge in traffic["edges"] if edge["upstream"]]
    assert (edge["listener"], edge["pool"], edge["upstream"]) == ("web", "app", running.upstream)
    assert sum(worker["records"] for worker in traffic["workers"]) == 5
    assert all(worker["memory_bytes"] > 2**20 for worker in traffic["workers"])
    history = running.get("/history")
    assert history["times"]
    assert len(history["total"]["sessions"]) == len(history["times"])


def test_a_file_that_is_wrong_is_a_reload_that_failed(running: Running) -> None:
    well = "spliceproxy_config_last_reload_successful"
    assert running.scrape().sum(well) == 1
    good = running.proxy.config.read_text()
    running.proxy.config.write_text("listeners: nonsense")
    running.proxy.signal(signal.SIGHUP)
    running.proxy.wait_log("not reloaded: nothing has changed")
    wait_until(lambda: running.scrape().sum(well) == 0, 10, "a failed reload in the metrics")
    running.proxy.config.write_text(good)
    running.proxy.signal(signal.SIGHUP)
    wait_until(lambda: running.scrape().sum(well) == 1, 10, "a good one")


@pytest.mark.parametrize("running", ["off"], indirect=True)
def test_without_upstreams_metrics_tell_of_pools(running: Running) -> None:
    running.echo(times=2)
    exposed = running.scrape()
    assert exposed.by("spliceproxy_sessions_ended_total", "pool", "upstream") == {("app", ""): 2}
    assert running.upstream.encode() not in exposed.text
