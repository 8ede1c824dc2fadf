"""PROXY headers to upstreams: what they tell, when they come, and what the record counts."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from harness.fds import open_fds
from harness.load import drain_digest, pump, read_exactly, read_to_end
from harness.proxy_header import take_header
from harness.serving import FAMILIES, Upstream, reset, serving
from harness.wait import wait_until
from session_support import check_record, name_of, one_record, proxy_yaml, running_proxy

SIZE = 2 << 20
BINDS = ["127.0.0.1:0", "[::1]:0"]
DATA_SEGMENTS_IN = slice(152, 156)
"""tcpi_data_segs_in, linux/tcp.h."""


@contextmanager
def reader(family: str = "v4") -> Iterator[Upstream]:
    """Takes the header, answers, and reads to the end. Results: header, all that followed."""

    def handler(sock: socket.socket, _upstream: Upstream) -> Any:
        header = take_header(sock)
        sock.sendall(b"answer")
        return header, read_to_end(sock)

    with serving(family, handler) as upstream:
        yield upstream


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("mode", ["adaptive", "splice"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("client", [0, 1, 2, 3])
def test_the_upstream_hears_of_the_client_and_the_record_counts_the_clients_bytes_alone(
    version: str, mode: str, family: str, client: int, tmp_path: Any
) -> None:
    binds = [*BINDS, f"unix:{tmp_path}/web.sock", "0.0.0.0:0"]
    with (
        reader(family) as upstream,
        running_proxy(
            proxy_yaml(upstream.address, bind=binds, pool={"send_proxy": version})
            + f"relay: {{mode: {mode}}}\n"
        ) as proxy,
        proxy.connect("web", client) as sock,
    ):
        names = None, None
        if client != 2:
            names = sock.getsockname()[:2], sock.getpeername()[:2]
        peer, local = name_of(sock) if names[0] else "unix:", name_of_peer(sock)
        assert sock.recv(100) == b"answer"  # before the client said anything
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100) == b""
        record = one_record(proxy)
        [(header, data)] = wait_until(lambda: upstream.results, 10, "the upstream's end")
    assert data == b"hello"
    assert (header.source, header.destination) == names
    assert header.version == int(version[1])
    if version == "v2" and client != 2:
        assert header.tlvs.unique_id == record["session"].encode()
    elif version == "v2":
        # The session's id is there too; a reader may only pass over it.
        assert header.local
        assert header.length == 16 + 3 + len(record["session"])
    spliced = {key: record[key] for key in ("spliced_up", "spliced_down")}
    if mode == "splice":
        assert spliced == {"spliced_up": 5, "spliced_down": 6}
    check_record(
        record,
        peer=peer,
        local=local,
        upstream=upstream.address,
        bytes_up=5,
        bytes_down=6,
        closed_by="client",
        how="fin",
        why="done",
        **spliced,
    )


def name_of_peer(sock: socket.socket) -> str:
    name = sock.getpeername()
    if isinstance(name, tuple):
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
    return f"unix:{os.fsdecode(name)}"


def test_it_leaves_in_one_segment_with_bytes_that_are_there_already() -> None:
    segments: list[int] = []

    def handler(sock: socket.socket, _upstream: Upstream) -> bytes:
        header = take_header(sock)
        data = read_exactly(sock, 7)
        told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
        segments.append(int.from_bytes(told[DATA_SEGMENTS_IN], "little"))
        assert header.version == 2
        return data

    with (
        serving("v4", handler) as upstream,
        running_proxy(proxy_yaml(upstream.address, pool={"send_proxy": "v2"})) as proxy,
    ):
        [pid] = proxy.worker_pids()
        os.kill(pid, signal.SIGSTOP)
        with proxy.connect("web") as sock:
            sock.sendall(b"request")
            os.kill(pid, signal.SIGCONT)
            assert sock.recv(1) == b""
        wait_until(lambda: upstream.results, 10, "the upstream's end")
    assert upstream.results == [b"request"]
    assert segments == [1]


@pytest.mark.parametrize("ending", ["fin", "urgent"])
def test_what_brings_no_bytes_does_not_hold_it_back(ending: str) -> None:
    """MSG_MORE would, for 200 ms."""
    came: list[float] = []

    def handler(sock: socket.socket, _upstream: Upstream) -> int:
        took = take_header(sock).length
        came.append(time.monotonic())
        return took

    with (
        serving("v4", handler) as upstream,
        running_proxy(proxy_yaml(upstream.address, pool={"send_proxy": "v1"})) as proxy,
    ):
        [pid] = proxy.worker_pids()
        waits = []
        for number in range(5):
            os.kill(pid, signal.SIGSTOP)
            with proxy.connect("web") as sock:
                if ending == "fin":
                    sock.shutdown(socket.SHUT_WR)
                else:
                    sock.send(b"!", socket.MSG_OOB)
                began = time.monotonic()
                os.kill(pid, signal.SIGCONT)
                wait_until(lambda n=number: len(came) > n, 10, "the header")  # type: ignore[misc]
                waits.append(came[-1] - began)
        assert min(waits) < 0.15, waits


@pytest.mark.parametrize("ending", ["fin", "reset"])
def test_each_upstream_that_replaces_another_one_gets_the_same_header(ending: str) -> None:
    headers: list[Any] = []

    def quitter(sock: socket.socket, _upstream: Upstream) -> None:
        headers.append(take_header(sock))
        assert read_exactly(sock, 7) == b"request"
        if ending == "reset":
            reset(sock)

    def server(sock: socket.socket, _upstream: Upstream) -> bytes:
        headers.append(take_header(sock))
        data = read_exactly(sock, 7)
        sock.sendall(b"answer")
        return data + read_to_end(sock)

    with (
        serving("v4", quitter) as one,
        serving("unix", quitter) as two,
        serving("v6", server) as three,
        running_proxy(
            proxy_yaml(
                *({"address": up.address, "tier": n} for n, up in enumerate((one, two, three))),
                pool={"send_proxy": "v2", "replay": "7B", "eject": "off"},
            )
        ) as proxy,
        proxy.connect("web") as sock,
    ):
        sock.sendall(b"request")
        assert sock.recv(100) == b"answer"
        sock.sendall(b" and more")
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100) == b""
        record = one_record(proxy)
        assert wait_until(lambda: three.results, 10, "the end") == [b"request and more"]
        source = sock.getsockname()
    assert record["retries"] == 2
    assert record["bytes_up"] == 16
    assert {(h.source, h.tlvs.unique_id) for h in headers} == {(source, record["session"].encode())}
    assert len(headers) == 3


@pytest.mark.parametrize("mode", ["adaptive", "splice"])
@pytest.mark.parametrize("replay", ["off", "16KiB"])
def test_every_byte_arrives_behind_it_through_a_tiny_send_buffer(
    mode: str, replay: str, seed: int
) -> None:
    print(f"seed: {seed}")

    def handler(sock: socket.socket, _upstream: Upstream) -> Any:
        return take_header(sock).source, drain_digest(sock)

    keys = {"send_proxy": "v2", "replay": replay, "tcp": {"buffers": {"send": "4KiB"}}}
    with (
        serving("v4", handler) as upstream,
        running_proxy(proxy_yaml(upstream.address, pool=keys, relay={"mode": mode})) as proxy,
        proxy.connect("web") as sock,
    ):
        name = sock.getsockname()
        sent = pump(sock, SIZE, seed, random.Random(seed))
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
        [(source, received)] = wait_until(lambda: upstream.results, 10, "the upstream's end")
        assert received == (SIZE, sent)
        assert source == name
        assert one_record(proxy)["bytes_up"] == SIZE


def test_who_waited_in_the_queue_is_announced_when_it_is_connected() -> None:
    with (
        reader() as upstream,
        running_proxy(
            proxy_yaml(
                {"address": upstream.address, "max_sessions": 1},
                pool={"send_proxy": "v1", "queue": {"timeout": "30s"}},
            )
        ) as proxy,
        proxy.connect("web") as first,
    ):
        assert first.recv(100) == b"answer"
        with proxy.connect("web") as second:
            second.sendall(b"waited")
            first.close()
            assert second.recv(100) == b"answer"
            second.shutdown(socket.SHUT_WR)
            assert second.recv(100) == b""
            name = second.getsockname()
        wait_until(lambda: len(upstream.results) == 2, 10, "both ends")
    assert [data for header, data in upstream.results if header.source == name] == [b"waited"]


def test_sessions_leave_no_fd_behind() -> None:
    with (
        reader() as upstream,
        running_proxy(proxy_yaml(upstream.address, pool={"send_proxy": "v2"})) as proxy,
    ):
        [pid] = proxy.worker_pids()

        def visit() -> None:
            with proxy.connect("web") as sock:
                assert sock.recv(100) == b"answer"

        visit()
        proxy.wait_records(1)
        before = len(open_fds(pid))
        for _ in range(50):
            visit()
        records = proxy.wait_records(51)
        wait_until(lambda: len(open_fds(pid)) <= before, 10, "the fds of before")
        told = wait_until(lambda: len(upstream.results) == 51 and upstream.results, 10, "all ends")
    ids = {header.tlvs.unique_id.decode() for header, _ in told}
    assert ids == {record["session"] for record in records}
    assert len(ids) == 51
