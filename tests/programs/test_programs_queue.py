"""A queue under real load: what few places cost, and a pool that is away for a moment."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from harness.door import request
from harness.proxy import Proxy, running_proxy
from harness.wait import wait_until
from real_programs import need, nginx

QUEUE = "queue: {size: 500, timeout: 20s, when: full_or_down}"


def load(proxy: Proxy, seconds: int, clients: int = 64) -> subprocess.Popen[str]:
    """wrk with a new connection for each request."""
    url = f"http://127.0.0.1:{proxy.port('web')}/fine"
    command = [need("wrk"), "-c", str(clients), "-t", "1", "-d", f"{seconds}s", "--timeout", "20s"]
    command += ["--latency", "-H", "Connection: close", url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def failures(said: str) -> int:
    """Requests that failed, as wrk tells them."""
    errors = re.search(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said
    )
    other = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    return sum(int(n) for found in (errors, other) if found for n in found.groups())


def requests(said: str) -> int:
    return int(re.findall(r"(\d+) requests in", said)[0])


@pytest.mark.parametrize("queue", [QUEUE, "queue: off"])
def test_sixteen_times_as_many_clients_as_places(queue: str, tmp_path: Path) -> None:
    with nginx(tmp_path) as addresses:
        upstream = f"{{address: '{addresses['v4']}', max_sessions: 4}}"
        yaml = (
            "listeners: {web: {bind: '127.0.0.1:0', pool: app}}\n"
            f"pools: {{app: {{upstreams: [{upstream}], {queue}}}}}\n"
        )
        with running_proxy(yaml, workers=2) as proxy:
            with load(proxy, 3) as wrk:
                said = wrk.communicate(timeout=30)[0]
            print(said)
            served = Counter(r["worker"] for r in proxy.records() if r["why"] == "done")
            waits = sorted(r["queue_ms"] for r in proxy.records() if r["queue_ms"] is not None)
            failed = failures(said)
            print(f"{queue}: {requests(said)} requests, {failed} failed; sessions {served}")
            if queue != QUEUE:
                assert failed > 100
                assert waits == []
                return
            print(f"waited: half {waits[len(waits) // 2]} ms, at most {waits[-1]} ms")
            assert failed == 0
            assert requests(said) > 500
            # Who stops in the middle is wrk, at its end.
            assert {r["why"] for r in proxy.records()} <= {"done", "client_reset"}
            assert len(waits) > requests(said) / 2
            assert set(served) == {0, 1}


def test_a_pool_that_is_drained_for_a_moment_fails_no_request(tmp_path: Path) -> None:
    door = tmp_path / "door"
    with nginx(tmp_path) as addresses:
        yaml = (
            f"admin: {{bind: 'unix:{door}'}}\n"
            "listeners: {web: {bind: '127.0.0.1:0', pool: app}}\n"
            f"pools: {{app: {{upstreams: '{addresses['v4']}', {QUEUE}}}}}\n"
        )
        with running_proxy(yaml, workers=2) as proxy:

            def waiting() -> int:
                [pool] = request(door, "GET", "/api/v1/status")[1]["pools"]
                return int(pool["waiting"])

            with load(proxy, 5, clients=32) as wrk:
                for _ in range(3):
                    before = len(proxy.records())
                    wait_until(lambda b=before: len(proxy.records()) > b + 300, 10, "load")
                    request(door, "POST", "/api/v1/drain", {"target": "pool/app"})
                    wait_until(lambda: waiting() == 32, 10, "all clients in the queue")
                    request(door, "POST", "/api/v1/undrain", {"target": "pool/app"})
                    wait_until(lambda: waiting() == 0, 10, "all clients served")
                said = wrk.communicate(timeout=30)[0]
            print(said)
            assert failures(said) == 0
            assert {r["why"] for r in proxy.records()} <= {"done", "client_reset"}
