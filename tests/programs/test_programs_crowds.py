"""Crowds that say nothing, or half of what they should: others hardly notice, and all are gone.

Two proxies stand side by side, and the crowd comes to one of them. Requests through both are timed
in turn, so that what else this machine does weighs on both alike; of each proxy the middle one of
its turns' p99 counts. Still a measurement may fail for no fault of the proxy: there are `ROUNDS`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest
from bench.pauses import Clients
from harness.fds import fd_kinds, rss_bytes
from harness.proxy import Proxy, running_proxy
from harness.wait import wait_until
from real_programs import need_fds, nginx, peer, run

CROWD = 10_000
ROUNDS = 3
PREREAD = 15.0
"""Seconds after which the crowd must go; longer than the load beside it takes."""
TURNS = 5
TURN = 0.7
"""Seconds that the requests of one turn through one proxy take."""
FLOOR_US = 500.0
"""Microseconds by which a p99 may be worse, whatever the quiet one is: a scheduler's turn."""
PER_CLIENT = 2048
"""Bytes of worker memory for each one of the crowd, at the most."""
PAUSE_MS = 25.0
"""Milliseconds of a worker's processor time that a client may wait while the crowd ends."""

HELLO = Path(__file__).parents[1] / "wire" / "data" / "chrome.bin"
CONFIG = """
workers: 2
timeouts: {{preread: {preread:g}s}}
listeners:
  crowd:
    bind: 127.0.0.1:0
    routes: [{{sni: www.example.com, pool: app}}, {{protocol: http, pool: app}}]
  web: {{bind: 127.0.0.1:0, pool: echo}}
pools:
  app: {{upstreams: {app}}}
  echo: {{upstreams: {echo}}}
"""


@dataclass(frozen=True)
class Kind:
    """What each one of a crowd sends, and what its record says of its end."""

    words: bytes
    end: tuple[str, str]
    """`phase` and `why`."""


KINDS = {
    "silent": Kind(b"", ("route", "no_route")),
    "half-a-hello": Kind(
        HELLO.read_bytes()[: HELLO.stat().st_size // 2], ("preread", "preread_timeout")
    ),
}


Latencies = dict[str, float]
"""p99 in microseconds, by kind: of requests on `lasting` sessions, and on a `new` one each."""


def latencies(*proxies: Proxy) -> list[Latencies]:
    """Of requests through each of them, in turn."""
    ports = [proxy.port("crowd") for proxy in proxies]
    script = Path(__file__).with_name("visitors.py")
    found = json.loads(run([sys.executable, script, TURNS, TURN, "/fine", *ports]))
    return [{kind: median(turns) for kind, turns in found[str(port)].items()} for port in ports]


def bears(quiet: Latencies, beside: Latencies) -> bool:
    """Whether those `beside` a crowd are within twice the quiet ones."""
    return all(beside[kind] <= max(2 * p99, p99 + FLOOR_US) for kind, p99 in quiet.items())


def text(found: Latencies) -> str:
    return ", ".join(f"{kind} {p99:.0f} µs" for kind, p99 in found.items())


@contextmanager
def crowd(proxy: Proxy, kind: Kind) -> Iterator[subprocess.Popen[str]]:
    """A crowd in a process of its own; it is there at the beginning of the block."""
    command = [sys.executable, str(Path(__file__).with_name("crowd.py"))]
    command += ["127.0.0.1", str(proxy.port("crowd")), str(CROWD), kind.words.hex()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            print(process.stdout.readline().strip(), "seconds after its beginning")
            yield process
        finally:
            process.kill()


def ends(process: subprocess.Popen[str]) -> tuple[float, float]:
    """When the first and the last one of the crowd were ended, seconds after its beginning."""
    output, _ = process.communicate(timeout=PREREAD + 30)
    found = json.loads(output)
    return found["first"], found["last"]


@pytest.mark.parametrize("name", KINDS)
def test_ten_thousand_hardly_disturb_the_others_and_are_gone_in_time(
    name: str, tmp_path: Path
) -> None:
    need_fds(2 * CROWD)
    with nginx(tmp_path) as web, peer("echo", "v4") as echo:
        config = CONFIG.format(preread=PREREAD, app=web["v4"], echo=echo)
        with running_proxy(config) as quiet, running_proxy(config) as proxy:
            latencies(quiet, proxy)  # what memory is taken once is taken
            for number in range(1, ROUNDS + 1):
                if round_of(quiet, proxy, KINDS[name], number):
                    return
    raise AssertionError("others were disturbed in every round")


def round_of(quiet: Proxy, proxy: Proxy, kind: Kind, number: int) -> bool:
    """A crowd comes to `proxy` and goes. Returns whether others hardly noticed that."""
    workers = proxy.worker_pids()
    memory, fds = [rss_bytes(pid) for pid in workers], [fd_kinds(pid) for pid in workers]
    with crowd(proxy, kind) as process:
        each = (sum(map(rss_bytes, workers)) - sum(memory)) / CROWD
        more = sum((fd_kinds(pid) for pid in workers), Counter()) - sum(fds, Counter())
        without, beside = latencies(quiet, proxy)
        clients = Clients(proxy)
        clients.start()
        first, last = ends(process)
        waits = clients.look()
        clients.end()
    print(f"round {number}: p99 without a crowd: {text(without)}; beside it: {text(beside)}")
    print(f"{each:.0f} bytes of worker memory each; gone after {first:.2f} to {last:.2f} s")
    print(
        f"longest wait of {waits.number} while they ended: {waits.clock:.1f} ms, of which", end=" "
    )
    print(f"{waits.processor:.1f} ms were processor time of a worker")
    assert more == {"socket": CROWD}
    assert each <= PER_CLIENT
    assert first >= PREREAD
    assert last <= PREREAD + 5
    wait_until(lambda: [fd_kinds(pid) for pid in workers] == fds, 10, "the same fds as before")
    wait_until(lambda: told(proxy)[kind.end] == CROWD * number, 10, "a record for each")
    return bears(without, beside) and waits.processor <= PAUSE_MS


def told(proxy: Proxy) -> Counter[tuple[str, str]]:
    """How many sessions that were silent for so long ended in which phase, and why."""
    silent = (one for one in proxy.records() if one["duration_ms"] >= PREREAD * 1000)
    return Counter((one["phase"], one["why"]) for one in silent)
