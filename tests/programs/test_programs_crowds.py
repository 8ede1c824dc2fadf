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
import trustme
from bench.pauses import Clients
from harness.fds import fd_kinds, rss_bytes
from harness.proxy import Proxy, running_proxy
from harness.wait import wait_until
from real_programs import need_fds, nginx, peer, run

CROWD = 10_000
ROUNDS = 3
TIME = 20.0
"""Seconds after which each one of the crowd must go. Before, they come, and others are timed."""
TURNS = 5
TURN = 0.7
"""Seconds that the requests of one turn through one proxy take."""
FLOOR_US = 500.0
"""Microseconds by which a p99 may be worse, whatever the quiet one is: a scheduler's turn."""
PAUSE_MS = 25.0
"""Milliseconds of a worker's processor time that a client may wait while the crowd ends."""

HELLO = (Path(__file__).parents[1] / "wire" / "data" / "chrome.bin").read_bytes()
ROUTES = "routes: [{sni: www.example.com, pool: app}, {protocol: http, pool: app}]"
CONFIG = """
workers: 2
timeouts: {{preread: {time:g}s, handshake: {time:g}s}}
listeners:
  crowd: {{bind: "127.0.0.1:0", {how}}}
  web: {{bind: "127.0.0.1:0", pool: echo}}
pools:
  app: {{upstreams: {app}}}
  echo: {{upstreams: {echo}}}
"""


@dataclass(frozen=True)
class Kind:
    """A kind of crowd, and of the others, whom the same listener serves."""

    words: bytes
    """What each one of the crowd sends."""
    end: tuple[str, str]
    """`phase` and `why` of its record."""
    memory: int
    """Bytes of worker memory for it, at the most."""
    tls: bool = False
    """Whether the others speak TLS, which ends at the listener."""
    pause: float = 0.002
    """Seconds between two requests of the others."""


KINDS = {
    "silent": Kind(b"", ("route", "no_route"), 2048),
    "half-a-hello": Kind(HELLO[: len(HELLO) // 2], ("preread", "preread_timeout"), 2048),
    "half-a-handshake": Kind(HELLO, ("tls", "tls_handshake"), 64 * 1024, True, 0.01),
}

Latencies = dict[str, list[float]]
"""p99 of each turn, in microseconds: of requests on `lasting` sessions, and on a `new` one each."""


def latencies(kind: Kind, *proxies: Proxy) -> list[Latencies]:
    """Of requests through each of them, in turn."""
    script = Path(__file__).with_name("visitors.py")
    scheme = "https" if kind.tls else "http"
    urls = [f"{scheme}://127.0.0.1:{proxy.port('crowd')}/fine" for proxy in proxies]
    found: list[Latencies] = json.loads(
        run([sys.executable, script, TURNS, TURN, kind.pause, *urls])
    )
    return found


def bears(quiet: Latencies, beside: Latencies) -> bool:
    """Whether those `beside` a crowd are within twice the quiet ones."""
    usual = {name: median(turns) for name, turns in quiet.items()}
    return all(median(beside[name]) <= max(2 * p99, p99 + FLOOR_US) for name, p99 in usual.items())


def text(found: Latencies) -> str:
    return ", ".join(
        f"{name} {median(turns):.0f} µs ({min(turns):.0f} to {max(turns):.0f})"
        for name, turns in found.items()
    )


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
    output, _ = process.communicate(timeout=TIME + 60)
    found = json.loads(output)
    return found["first"], found["last"]


def configuration(kind: Kind, directory: Path, app: str, echo: str) -> str:
    """Certificates, where they are needed, are made in the directory."""
    how = ROUTES
    if kind.tls:
        pem = directory / "www.pem"
        certificate = trustme.CA().issue_cert("www.example.com", key_type=trustme.KeyType.ECDSA)
        certificate.private_key_and_cert_chain_pem.write_to_path(pem)
        how = f"pool: app, tls: {{certificates: {pem}}}"
    return CONFIG.format(time=TIME, how=how, app=app, echo=echo)


@pytest.mark.alone
@pytest.mark.parametrize("name", KINDS)
def test_ten_thousand_hardly_disturb_the_others_and_are_gone_in_time(
    name: str, tmp_path: Path
) -> None:
    need_fds(2 * CROWD)
    kind = KINDS[name]
    with nginx(tmp_path) as web, peer("echo", "v4") as echo:
        config = configuration(kind, tmp_path, web["v4"], echo)
        with running_proxy(config) as quiet, running_proxy(config) as proxy:
            latencies(kind, quiet, proxy)  # what memory is taken once is taken
            for number in range(1, ROUNDS + 1):
                if round_of(quiet, proxy, kind, number):
                    return
    raise AssertionError("others were disturbed in every round")


def round_of(quiet: Proxy, proxy: Proxy, kind: Kind, number: int) -> bool:
    """A crowd comes to `proxy` and goes. Returns whether others hardly noticed that."""
    workers = proxy.worker_pids()
    memory, fds = [rss_bytes(pid) for pid in workers], [fd_kinds(pid) for pid in workers]
    with crowd(proxy, kind) as process:
        without, beside = latencies(kind, quiet, proxy)
        each = (sum(map(rss_bytes, workers)) - sum(memory)) / CROWD
        more = sum((fd_kinds(pid) for pid in workers), Counter()) - sum(fds, Counter())
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
    assert each <= kind.memory
    assert first >= TIME
    assert last <= TIME + 10
    wait_until(lambda: [fd_kinds(pid) for pid in workers] == fds, 10, "the same fds as before")
    wait_until(lambda: told(proxy)[kind.end] == CROWD * number, 10, "a record for each")
    return bears(without, beside) and waits.processor <= PAUSE_MS


def told(proxy: Proxy) -> Counter[tuple[str, str]]:
    """How many sessions that were silent for so long ended in which phase, and why."""
    silent = (one for one in proxy.records() if one["duration_ms"] >= TIME * 1000)
    return Counter((one["phase"], one["why"]) for one in silent)
