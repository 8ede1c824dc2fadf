"""Bytes in bulk through TLS, both ways at once: once, in order, in bounded memory."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness.fds import cpu_seconds, rss_bytes
from harness.load import digest
from harness.proxy import running_proxy
from harness.serving import Upstream, serving
from harness.tls import VERSIONS, Authority, TlsPeer
from harness.upstreams import exchange
from harness.wait import wait_until
from test_programs_bulk import watch_memory

MIB = 1024 * 1024
MEMORY_GROWTH = 8 * MIB
SIZE = 1024 * MIB
NAME = "www.example.com"


@contextmanager
def tls_exchange(
    authority: Authority, certificate: Path, version: str, seed: int
) -> Iterator[Upstream]:
    """As `upstreams.exchange`, with TLS."""
    context = authority.server(certificate, version)

    def handler(sock: socket.socket, _upstream: Upstream) -> tuple[int, str]:
        sock.settimeout(60)
        with TlsPeer(sock.dup(), context) as peer:
            return peer.trade(SIZE, seed)

    with serving("v4", handler) as upstream:
        yield upstream


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("way", ["ended", "passed through", "ended and begun again"])
def test_one_gib_each_way_at_once(way: str, version: str, tmp_path: Path, seed: int) -> None:
    authority = Authority(tmp_path)
    certificate = authority.certificate(NAME)
    ends = f"tls: {{certificates: {certificate}}}"
    begins = f", tls: {{ca: {authority.file}, name: {NAME}}}" if "again" in way else ""
    listener, serves = {
        "ended": (ends, exchange(SIZE, seed + 1)),
        "passed through": ("routes: []", tls_exchange(authority, certificate, version, seed + 1)),
        "ended and begun again": (ends, tls_exchange(authority, certificate, version, seed + 1)),
    }[way]
    with (
        serves as upstream,
        running_proxy(
            f"listeners: {{web: {{bind: '127.0.0.1:0', {listener}, pool: app}}}}\n"
            f"pools: {{app: {{upstreams: '{upstream.address}'{begins}}}}}\n"
        ) as proxy,
    ):
        [worker] = proxy.worker_pids()
        peer = TlsPeer(proxy.connect("web", timeout=60), authority.client(version), NAME)
        with peer, ThreadPoolExecutor(1) as threads:
            before, cpu, began = rss_bytes(worker), cpu_seconds(worker), time.monotonic()
            work: Future[object] = threads.submit(peer.trade, SIZE, seed)
            highest = watch_memory(worker, work, 120)
            came = work.result()
        seconds, cpu = time.monotonic() - began, cpu_seconds(worker) - cpu
        [record] = proxy.wait_records(1)
        wait_until(lambda: upstream.results, 10, "the upstream's result")
    print(f"2 GiB in {seconds:.1f} s, of which the worker's CPU {cpu:.1f} s")
    print(f"worker: {before / MIB:.1f} MiB before, {highest / MIB:.1f} MiB at the highest")
    assert came == (SIZE, digest(SIZE, seed + 1))
    assert upstream.results == [(SIZE, digest(SIZE, seed))]
    assert (record["why"], record["how"], record["tls_error"]) == ("done", "fin", None), record
    if way == "passed through":
        assert record["tls_version"] is None
    else:
        assert (record["bytes_up"], record["bytes_down"]) == (SIZE, SIZE)
        assert record["tls_version"] == f"TLSv{version}"
    assert highest - before <= MEMORY_GROWTH
