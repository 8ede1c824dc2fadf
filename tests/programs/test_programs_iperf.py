"""iperf3 through the proxy: one stream and eight, up, down, and both at once."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from harness.proxy import Proxy, running_proxy
from harness.wait import wait_until
from real_programs import free_port, need, program, run, web

DIRECTIONS = {"up": [], "down": ["-R"], "both": ["--bidir"]}
COOKIE = 37
"""Bytes by which each stream tells the server which test it belongs to (iperf_util.h)."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an iperf3 server on all addresses."""
    port = free_port()
    log = tmp_path_factory.mktemp("iperf3") / "log"
    with program([need("iperf3"), "-s", "-p", port, "--forceflush"], log):
        wait_until(lambda: b"listening" in log.read_bytes(), 10, "iperf3's server")
        yield port


@pytest.mark.parametrize("mode", ["adaptive", "splice", "copy"])
def test_iperf3_in_every_mode(server: int, mode: str) -> None:
    config = web(f"127.0.0.1:{server}", more=f"relay: {{mode: {mode}}}")
    with running_proxy(config) as proxy:
        _measure(proxy, "127.0.0.1", "both", 1)


@pytest.mark.parametrize("streams", [1, 8])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_iperf3(server: int, host: str, direction: str, streams: int) -> None:
    # iperf3 takes the first stream that reaches its server for the one that goes up. Two workers
    # are free to connect in another order than the client did.
    workers = 1 if direction == "both" else 2
    with running_proxy(web(f"{host}:{server}", f"{host}:0"), workers=workers) as proxy:
        _measure(proxy, host, direction, streams)


def _measure(proxy: Proxy, host: str, direction: str, streams: int) -> None:
    """One second of iperf3: it must be content, and the records must know its bytes."""
    command = [need("iperf3"), "-c", host.strip("[]"), "-p", proxy.port("web"), "-J", "-t", 1]
    told = json.loads(run([*command, "-P", streams, *DIRECTIONS[direction]], 30))
    assert "error" not in told
    sessions = streams * (2 if direction == "both" else 1)
    records = proxy.wait_records(sessions + 1)  # one more: the connection that controls
    assert len(records) == sessions + 1
    assert {record["phase"] for record in records} == {"relay"}
    end = told["end"]
    sums = [end["sum_received"]]
    if direction == "both":
        sums.append(end["sum_received_bidir_reverse"])
    for total in sums:
        print(f"{direction}, {streams} streams: {total['bits_per_second'] / 1e9:.1f} Gbit/s")
        assert total["bytes"] > 0
    # What the receivers counted was delivered; what came after iperf3's last look, they did not
    # count.
    received = sum(total["bytes"] for total in sums)
    relayed = sum(record["bytes_up"] + record["bytes_down"] for record in records)
    assert relayed >= received + sessions * COOKIE
