"""A real Prometheus scrapes a real proxy, and finds what the session records say."""

from __future__ import annotations

import json
import random
import signal
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import promql, upstreams
from harness.door import request
from harness.expositions import Exposed
from harness.ports import free_port
from harness.proxy import Proxy, running_proxy
from harness.wait import wait_until
from real_programs import need, program, run

CONFIG = """\
admin: {{bind: "unix:{directory}/admin.sock"}}
metrics: {{bind: "127.0.0.1:{port}"}}
listeners:
  web: {{bind: "127.0.0.1:0", pool: app}}
pools:
  app: {{upstreams: [{upstreams}], health: off}}
"""
SCRAPES = """\
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: spliceproxy
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""
EMPTY = {
    "Certificates",
    "Connects that fail",
    "Errors by upstream",
    "Files of certificates that cannot be used",
    "Live sessions",
    "Refused by the queue",
    "TLS handshake",
    "Time in the queue",
    "Upstreams that are not up",
    "Why sessions end, but for the normal ends",
}
"""Panels of which a query finds nothing where all is well, and there is no TLS, limit or queue."""
Query = Callable[[str], dict[tuple[str, ...], float]]


@contextmanager
def prometheus(target: int, directory: Path) -> Iterator[Query]:
    """Prometheus, which scrapes that port of this machine each second. The values of a query, by
    those of its labels."""
    config, port = directory / "prometheus.yml", free_port()
    config.write_text(SCRAPES.format(port=target))
    command = [
        need("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={directory}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]

    def query(text: str) -> dict[tuple[str, ...], float]:
        words = urllib.parse.urlencode({"query": text})
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?{words}") as answer:
            found = json.load(answer)["data"]["result"]
        return {tuple(one["metric"].values()): float(one["value"][1]) for one in found}

    def ready() -> bool:
        try:
            query("up")
        except urllib.error.HTTPError:  # it listens before it is
            return False
        return True

    with program(command, directory / "prometheus.log", ("127.0.0.1", port)):
        wait_until(ready, 10, "Prometheus to be ready")
        yield query


def scrape(port: int, accept: str = "") -> tuple[bytes, str]:
    """The text of /metrics, and its content type."""
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(asked) as answer:
        return answer.read(), answer.headers["Content-Type"]


def no_data(query: Query) -> set[str]:
    """The panels of the dashboard of which a query finds nothing."""
    return {title for title, text, _ in promql.panels() if not query(text)}


def visit(proxy: Proxy, size: int) -> None:
    """One session that sends `size` bytes and gets them back."""
    with closing(proxy.connect("web")) as client:
        client.sendall(bytes(size))
        client.shutdown(socket.SHUT_WR)
        received = 0
        while data := client.recv(65536):
            received += len(data)
    assert received == size


def total(records: list[dict[str, Any]], field: str) -> int:
    return sum(record[field] for record in records)


def test_prometheus_finds_what_the_records_say_over_a_reload(tmp_path: Path, seed: int) -> None:
    chance, port = random.Random(seed), free_port()
    with upstreams.echo() as one, upstreams.echo() as other:
        text = CONFIG.format(directory=tmp_path, port=port, upstreams=one.address)
        with running_proxy(text, workers=2) as proxy, prometheus(port, tmp_path) as query:
            for _ in range(40):
                visit(proxy, chance.choice([1, 1000, 100_000, 1_000_000]))
            both = f"{one.address}, {other.address}"
            proxy.config.write_text(CONFIG.format(directory=tmp_path, port=port, upstreams=both))
            proxy.signal(signal.SIGHUP)
            proxy.wait_log("reloaded")
            for _ in range(40):
                visit(proxy, chance.choice([1, 1000, 100_000, 1_000_000]))
            records = proxy.wait_records(80)
            ended = "sum(spliceproxy_sessions_ended_total)"
            wait_until(lambda: query(ended) == {(): 80}, 20, "a scrape of all sessions")
            moved = query("sum by (direction) (spliceproxy_session_bytes_total)")
            assert moved == {
                ("up",): total(records, "bytes_up"),
                ("down",): total(records, "bytes_down"),
            }
            spliced = query('sum(spliceproxy_session_bytes_total{path="spliced"})')
            assert spliced == {(): total(records, "spliced_up") + total(records, "spliced_down")}
            by_upstream = query("sum by (upstream) (spliceproxy_sessions_ended_total)")
            assert by_upstream == Counter((record["upstream"],) for record in records)
            assert query("spliceproxy_config_last_reload_successful").popitem()[1] == 1
            assert (
                query("sum(up)") == query("sum(spliceproxy_pool_usable_upstreams) - 1") == {(): 1}
            )
            _, traffic = request(tmp_path / "admin.sock", "GET", "/api/v1/traffic")
            assert traffic["total"]["ended"] == 80
            for field in ("bytes_up", "bytes_down", "spliced_up", "spliced_down", "retries"):
                assert traffic["total"][field] == total(records, field), field
            durations = query("sum(spliceproxy_session_duration_seconds_sum)").popitem()[1]
            assert durations == pytest.approx(total(records, "duration_ms") / 1000, abs=0.001)
            assert query("sum(spliceproxy_sessions)") == {(): 0}
            wait_until(lambda: not no_data(query) - EMPTY, 20, "data in the dashboard's panels")
            assert not any(query(rule["expr"]) for rule in promql.alerts())


def test_a_session_that_lives_is_told_with_its_upstream(tmp_path: Path) -> None:
    port = free_port()
    with upstreams.echo() as upstream:
        text = CONFIG.format(directory=tmp_path, port=port, upstreams=upstream.address)
        with (
            running_proxy(text) as proxy,
            closing(proxy.connect("web")) as client,
            prometheus(port, tmp_path) as query,
        ):
            client.sendall(b"hello")
            assert client.recv(5) == b"hello"
            where = f'{{listener="web", pool="app", upstream="{upstream.address}"}}'
            live = f"sum(spliceproxy_sessions{where})"
            wait_until(lambda: query(live) == {(): 1}, 20, "the live session")
            moved = f"sum(spliceproxy_session_bytes_total{where})"
            wait_until(lambda: query(moved) == {(): 10}, 20, "its bytes")
            assert query("sum(spliceproxy_sessions)") == {(): 1}


def test_what_a_running_proxy_tells_is_well_formed(tmp_path: Path) -> None:
    port = free_port()
    with upstreams.echo() as upstream:
        text = CONFIG.format(directory=tmp_path, port=port, upstreams=upstream.address)
        with running_proxy(text) as proxy:
            visit(proxy, 1000)
            proxy.wait_records(1)
            wait_until(
                lambda: Exposed(scrape(port)[0]).sum("spliceproxy_sessions_ended_total") == 1,
                10,
                "the end of the session",
            )
            told, content_type = scrape(port)
            assert content_type == "text/plain; version=0.0.4; charset=utf-8"
            said = run([need("promtool"), "check", "metrics"], input=told, with_stderr=True)
            assert said.strip() == ""
            _, content_type = scrape(port, "application/openmetrics-text; version=1.0.0")
            assert content_type.startswith("application/openmetrics-text; version=1.0.0")
