"""The harness itself, where it could be wrong without a sound."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from harness import fds, load, upstreams
from harness.proxy import WITHOUT_CAPABILITIES, Proxy, connect, connect_name, running_proxy
from harness.wait import wait_until

FAMILIES = pytest.mark.parametrize("family", upstreams.FAMILIES)


@pytest.fixture(autouse=True)
def _no_fd_is_left() -> Iterator[None]:
    with fds.same_fds():
        yield


def test_wait_until_returns_the_first_true_value_and_says_what_did_not_come() -> None:
    values = iter((0, "", 7))
    assert wait_until(lambda: next(values), 5, "a seven") == 7
    with pytest.raises(AssertionError, match=r"not within 0\.01 s: a goat \(last: None\)"):
        wait_until(lambda: None, 0.01, "a goat")


def test_a_stream_follows_from_its_seed_and_every_block_differs() -> None:
    size = 3 * load.BLOCK + 17
    data = load.stream_bytes(size, 5)
    assert len(data) == size
    assert data == load.stream_bytes(size, 5) != load.stream_bytes(size, 6)
    assert hashlib.sha256(data).hexdigest() == load.digest(size, 5)
    starts = {data[at : at + 16] for at in range(0, size, load.BLOCK)}
    assert len(starts) == 4
    assert load.stream_bytes(0, 1) == b""


def test_pump_and_drain_agree_on_the_digest_whatever_the_pieces(seed: int) -> None:
    here, there = socket.socketpair()
    found: list[tuple[int, str]] = []
    reader = threading.Thread(target=lambda: found.append(load.drain_digest(there)))
    with here, there:
        reader.start()
        sent = load.pump(here, 5_000_000, seed, random.Random(seed))
        here.shutdown(socket.SHUT_WR)
        reader.join(20)
    assert found == [(5_000_000, sent)]
    assert sent == load.digest(5_000_000, seed)


def test_drain_keeps_to_its_rate() -> None:
    here, there = socket.socketpair()

    def write() -> None:
        load.pump(here, 500_000, 1)
        here.shutdown(socket.SHUT_WR)

    writer = threading.Thread(target=write)
    with here, there:
        writer.start()
        began = time.monotonic()
        assert load.drain_digest(there, rate=2_000_000)[0] == 500_000
        assert time.monotonic() - began > 0.2
        writer.join(5)


@FAMILIES
def test_echo_answers_and_passes_the_end_on(family: str) -> None:
    with upstreams.echo(family) as upstream, connect(upstream.name) as client:
        client.sendall(b"abc")
        assert load.read_exactly(client, 3) == b"abc"
        client.shutdown(socket.SHUT_WR)
        assert load.read_to_end(client) == b""
        wait_until(lambda: upstream.results == [3], 5, "the result")


@FAMILIES
def test_sink_answers_the_digest_after_the_end(family: str) -> None:
    with upstreams.sink(family) as upstream, connect(upstream.name) as client:
        sent = load.pump(client, 300_000, 1)
        client.shutdown(socket.SHUT_WR)
        assert load.read_to_end(client).decode() == sent
        wait_until(lambda: upstream.results == [(300_000, sent)], 5, "the result")


@FAMILIES
def test_source_and_exchange_send_the_stream(family: str) -> None:
    expected = (3_000_000, load.digest(3_000_000, 2))
    with upstreams.source(3_000_000, 2, family) as upstream, connect(upstream.name) as client:
        assert load.drain_digest(client) == expected
    with upstreams.exchange(3_000_000, 2, family) as upstream, connect(upstream.name) as client:
        client.sendall(b"up")
        client.shutdown(socket.SHUT_WR)
        assert load.drain_digest(client) == expected
        up = (2, hashlib.sha256(b"up").hexdigest())
        wait_until(lambda: upstream.results == [up], 5, "the result")


@FAMILIES
def test_half_close_sends_its_end_first_and_reads_on(family: str) -> None:
    with upstreams.half_close(family) as upstream, connect(upstream.name) as client:
        assert load.read_to_end(client) == b"enough\n"
        sent = load.pump(client, 300_000, 1)
        client.shutdown(socket.SHUT_WR)
        wait_until(lambda: upstream.results == [(300_000, sent)], 5, "the result")


@FAMILIES
def test_stall_neither_reads_nor_writes(family: str) -> None:
    with upstreams.stall(family) as upstream, connect(upstream.name, 0.2) as client:
        with pytest.raises(TimeoutError):
            client.recv(1)
        with pytest.raises(TimeoutError):
            load.pump(client, 100_000_000, 1)
        assert upstream.open_connections == 1


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_resets_resets_after_what_it_was_told_to_read(family: str) -> None:
    with upstreams.resets(family, after=3) as upstream, connect(upstream.name) as client:
        client.sendall(b"ab")
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(10)
        client.sendall(b"c")
        with pytest.raises(ConnectionResetError):
            client.recv(1)


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_sends_then_resets_delivers_all_of_the_stream_first(family: str) -> None:
    with (
        upstreams.sends_then_resets(100_000, 3, family) as upstream,
        connect(upstream.name) as client,
    ):
        wait_until(lambda: upstream.results, 5, "the reset")
        assert load.read_exactly(client, 100_000) == load.stream_bytes(100_000, 3)
        with pytest.raises(ConnectionResetError):
            client.recv(1)


@FAMILIES
def test_trickle_sends_in_pieces(family: str) -> None:
    with (
        upstreams.trickle(6, 1, family, piece=2, pause=0.05) as upstream,
        connect(upstream.name) as client,
    ):
        assert len(client.recv(100)) == 2
        assert len(load.read_to_end(client)) == 4


@FAMILIES
def test_refuse_refuses_and_keeps_its_address(family: str) -> None:
    with upstreams.refuse(family) as upstream:
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                connect(upstream.name)


@FAMILIES
def test_blackhole_never_answers(family: str) -> None:
    with upstreams.blackhole(family) as upstream, pytest.raises((TimeoutError, BlockingIOError)):
        connect(upstream.name, timeout=0.3)


@FAMILIES
def test_an_upstream_dies_and_comes_back_at_its_address(family: str) -> None:
    with upstreams.named("a", family) as upstream:
        address = upstream.address
        for _ in range(2):
            with connect(upstream.name) as client:
                assert load.read_to_end(client) == b"a"
            upstream.stop()
            with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
                connect(upstream.name)
            upstream.start()
        assert upstream.address == address
        assert upstream.accepted == 2


def test_same_fds_notices_one_that_is_left() -> None:
    fd = -1
    with (
        pytest.raises(AssertionError, match=r"fds differ: more: .*/dev/null"),
        fds.same_fds(timeout=0.05),
    ):
        fd = os.open(os.devnull, os.O_RDONLY)
    os.close(fd)


BUSY = """
import sys, time
block = bytearray(b"x" * 50_000_000)
until = time.process_time() + 0.3
while time.process_time() < until: pass
for _ in range(100): time.sleep(0.0001)
print("done", flush=True)
sys.stdin.read()
"""


def test_what_proc_says_of_a_process_is_true() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        pid = process.pid
        assert 0.3 <= fds.cpu_seconds(pid) < 2
        assert 50_000_000 < fds.rss_bytes(pid) < 100_000_000
        assert fds.context_switches(pid) >= 100
        assert set(fds.fd_kinds(pid)) >= {"pipe"}
        assert pid in fds.children(os.getpid())
        assert fds.alive(pid)
    assert not fds.alive(pid)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("0.0.0.0:80", ("127.0.0.1", 80)),
        ("[::]:80", ("::1", 80)),
        ("[::1]:80", ("::1", 80)),
        ("unix:/run/a", "/run/a"),
        ("unix:@a", "\0a"),
    ],
)
def test_addresses_of_the_log_can_be_connected_to(address: str, name: object) -> None:
    assert connect_name(address) == name


FAKE = """
import json, os, signal, socket, sys, time
mode = os.environ.get("MODE", "")
if mode == "dies":
    sys.exit("no way")
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3 if mode == "fails" else 0))
if "NOTIFY_SOCKET" in os.environ:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
if mode == "traceback":
    print("Traceback (most recent call last):", file=sys.stderr)
print('{"session": "1"}', flush=True)
for event in ({"event": "listening", "listener": "web", "address": "[::]:99"}, {"event": "ready"}):
    print(json.dumps(event), file=sys.stderr, flush=True)
while True:
    signal.pause()
"""


def _fake(mode: str = "", **more: Any) -> AbstractContextManager[Proxy]:
    return running_proxy(
        "listeners: {}",
        command=[sys.executable, "-c", FAKE],
        env={"MODE": mode},
        **more,
    )


def test_a_proxy_is_asked_for_what_it_said_and_ended_well() -> None:
    with _fake(notify=True) as proxy:
        assert proxy.addresses("web") == ["[::]:99"]
        assert proxy.address("web") == ("::1", 99)
        assert proxy.wait_records(1) == [{"session": "1"}]
        assert proxy.notifications() == ["READY=1"]
        top = "admin: off\nhealth: off\nworkers: 1\n"
        assert proxy.config.read_text() == f"{top}listeners: {{}}"
        assert proxy.worker_pids() == []
    assert not fds.alive(proxy.pid)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("dies", "ended with 1 before it was ready\nno way"),
        ("fails", "exit code 3"),
        ("traceback", "Traceback"),
    ],
)
def test_a_proxy_that_ends_badly_fails_the_test(mode: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message), _fake(mode):
        pass


def test_a_proxy_that_fails_on_purpose_may_say_so() -> None:
    with _fake("fails", expect_exit=3):
        pass


def test_a_stubborn_proxy_is_killed_and_fails_the_test() -> None:
    with pytest.raises(AssertionError, match="neither SIGTERM nor a second one"):  # noqa: SIM117
        with _fake("stubborn") as proxy:
            proxy.stop_patience = (0.1, 0.1)
    assert not fds.alive(proxy.pid)


def test_without_capabilities_root_has_none() -> None:
    command = [*WITHOUT_CAPABILITIES, "grep", "CapEff", "/proc/self/status"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[1], 16) == 0
