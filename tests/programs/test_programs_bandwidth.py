"""iperf3 through a listener with `bandwidth`: both directions at their own rates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness.proxy import running_proxy
from harness.wait import wait_until
from real_programs import free_port, need, program, run

MIB = 1024 * 1024
SECONDS = 6


@pytest.mark.alone
def test_iperf3_measures_the_rates_of_both_directions(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    web = "{bind: '127.0.0.1:0', pool: app, bandwidth: {up: 8MiB/s, down: 24MiB/s}}"
    text = f"listeners: {{web: {web}}}\npools: {{app: {{upstreams: '127.0.0.1:{port}'}}}}\n"
    with program([need("iperf3"), "-s", "-p", port, "--forceflush"], log):
        wait_until(lambda: b"listening" in log.read_bytes(), 10, "iperf3's server")
        with running_proxy(text) as proxy:
            command = [need("iperf3"), "-c", "127.0.0.1", "-p", proxy.port("web"), "-J"]
            # The first second is left out: it holds what goes into empty buffers.
            told = json.loads(run([*command, "-O", 1, "-t", SECONDS, "--bidir"], 60))
            proxy.wait_records(3)
    end = told["end"]
    up = end["sum_received"]["bits_per_second"] / 8 / MIB
    down = end["sum_received_bidir_reverse"]["bits_per_second"] / 8 / MIB
    print(f"up {up:.2f} MiB/s, down {down:.2f} MiB/s")
    assert 7.2 < up < 8.8
    assert 21.6 < down < 26.4
