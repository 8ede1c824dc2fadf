"""PROXY headers of clients: whose they are, how they come in pieces, what is left behind."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
from harness import upstreams
from harness.fds import cpu_seconds, same_fds
from harness.proxy import Proxy
from harness.wait import wait_until
from session_support import (
    board_of,
    check_record,
    exchange,
    name_of,
    one_record,
    proxy_yaml,
    read_until_reset,
    running_proxy,
    send_one_by_one,
)

from spliceproxy.telemetry.board import SESSIONS
from spliceproxy.wire.proxy_protocol import LOCAL_V2, UNKNOWN_V1, Tlvs, build_v1, build_v2
from spliceproxy.wire.proxy_values import PROXY, SIGNATURE, START, UNIX, UNIX_BLOCK

SEED = random.randrange(2**32)
V4, LOCAL4 = ("203.0.113.7", 51234), ("192.0.2.10", 443)
V6, LOCAL6 = ("2001:db8::7", 51234), ("2001:db8::10", 443)
LOOPBACK = ["127.0.0.0/8", "::1"]
TLVS = Tlvs(authority="www.example.com", unique_id=b"u" * 100, crc32c=True)
UNIX_V2 = (
    SIGNATURE
    + START.pack(PROXY, UNIX, UNIX_BLOCK.size)
    + UNIX_BLOCK.pack(b"/run/x.sock", b"/run/y.sock")
)
HEADERS = {
    "v1": (build_v1(V4, LOCAL4), "203.0.113.7:51234"),
    "v1-tcp6": (build_v1(V6, LOCAL6), "[2001:db8::7]:51234"),
    "v1-unknown": (UNKNOWN_V1, None),
    "v2": (build_v2(V4, LOCAL4), "203.0.113.7:51234"),
    "v2-tcp6": (build_v2(V6, LOCAL6), "[2001:db8::7]:51234"),
    "v2-unix": (UNIX_V2, "unix:/run/x.sock"),
    "v2-local": (LOCAL_V2, None),
    "v2-tlvs": (build_v2(V4, LOCAL4, TLVS), "203.0.113.7:51234"),
}


@contextmanager
def expecting(upstream: object, *, others: str = "plain", **more: Any) -> Iterator[Proxy]:
    """A proxy that expects headers from this machine."""
    accept = {"from": LOOPBACK, "others": others}
    listener = {"accept_proxy": accept, **more.pop("listener", {})}
    with running_proxy(proxy_yaml(upstream, listener=listener, **more)) as proxy:
        yield proxy


@pytest.mark.parametrize("kind", HEADERS)
def test_the_announced_client_is_the_client_and_only_its_bytes_go_on(kind: str) -> None:
    header, said = HEADERS[kind]
    with upstreams.echo() as upstream, expecting(upstream.address) as proxy:
        with proxy.connect("web") as client:
            peer = name_of(client)
            client.sendall(header + b"hello")
            got = b""
            while len(got) < 5:
                got += client.recv(100)
            assert got == b"hello"
            assert exchange(client, b"more") == b"more"
        record = one_record(proxy)
        assert (record["client"], record["peer"]) == (said or peer, peer)
        assert (record["why"], record["phase"], record["bytes_up"]) == ("done", "relay", 9)


@pytest.mark.parametrize("kind", ["v1", "v2-tlvs"])
def test_a_header_may_be_cut_anywhere(kind: str) -> None:
    header, said = HEADERS[kind]
    with upstreams.echo() as upstream, expecting(upstream.address) as proxy:
        for cut in range(1, len(header) + 1):
            with proxy.connect("web") as client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client.sendall(header[:cut])
                client.sendall(header[cut:] + b"x" * cut)
                assert client.recv(cut, socket.MSG_WAITALL) == b"x" * cut
        records = proxy.wait_records(len(header))
    assert {record["client"] for record in records} == {said}
    assert sum(record["bytes_up"] for record in records) == sum(range(1, len(header) + 1))


def test_bytes_sent_one_by_one_make_few_wakes() -> None:
    header = build_v2(V4, LOCAL4, Tlvs(others=((0xE0, bytes(3000)),)))
    with upstreams.echo() as upstream, expecting(upstream.address) as proxy:
        [worker] = proxy.worker_pids()
        with proxy.connect("web") as client:
            assert send_one_by_one(client, header, worker) < 15
            assert exchange(client, b"hello") == b"hello"
        assert one_record(proxy)["client"] == "203.0.113.7:51234"


def test_who_comes_from_elsewhere_has_no_header_whatever_it_sends() -> None:
    header = HEADERS["v1"][0]
    listener = {"accept_proxy": {"from": "192.0.2.0/24"}}
    with (
        upstreams.echo() as upstream,
        running_proxy(proxy_yaml(upstream.address, listener=listener)) as proxy,
    ):
        with proxy.connect("web") as client:
            assert exchange(client, header) == header
            peer = name_of(client)
        assert one_record(proxy)["client"] == peer


def test_who_comes_from_elsewhere_is_refused_where_the_listener_says_so() -> None:
    listener = {"accept_proxy": {"from": "192.0.2.0/24", "others": "refuse"}}
    with (
        upstreams.echo() as upstream,
        running_proxy(proxy_yaml(upstream.address, listener=listener)) as proxy,
    ):
        with proxy.connect("web") as client:
            assert read_until_reset(client) == b""
        check_record(
            one_record(proxy),
            phase="accept", pool=None, upstream=None,
            closed_by="proxy", how="reset", why="access_denied",
        )  # fmt: skip
        assert upstream.results == []


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\n\r\n", b"PROXY TCP4 1.2.3.4 5.6.7.8 9\r\n", HEADERS["v2"][0][:20]]
)
def test_a_malformed_header_is_refused(said: bytes) -> None:
    with upstreams.echo() as upstream, expecting(upstream.address) as proxy:
        with proxy.connect("web") as client:
            client.sendall(said)
            with suppress(OSError):  # a header that is wrong from its first byte has ended it
                client.shutdown(socket.SHUT_WR)
            assert read_until_reset(client) == b""
        check_record(
            one_record(proxy),
            phase="proxy", pool=None, upstream=None,
            closed_by="proxy", how="reset", why="bad_proxy_header",
        )  # fmt: skip
        assert upstream.results == []


def test_a_silent_client_is_refused_when_its_time_is_over() -> None:
    times = {"timeouts": {"preread": "300ms"}}
    with upstreams.echo() as upstream, expecting(upstream.address, listener=times) as proxy:
        with proxy.connect("web") as client:
            assert read_until_reset(client) == b""
        record = one_record(proxy)
        assert (record["why"], record["phase"]) == ("preread_timeout", "proxy")
        assert 250 < record["duration_ms"] < 3000


def test_header_and_fin_in_one_go_are_a_session_without_bytes() -> None:
    with upstreams.echo() as upstream, expecting(upstream.address) as proxy:
        with proxy.connect("web") as client:
            client.sendall(HEADERS["v2"][0])
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
        record = one_record(proxy)
        assert (record["why"], record["client"]) == ("done", HEADERS["v2"][1])
        wait_until(lambda: upstream.results == [0], 5, "the upstream's end")


@pytest.mark.parametrize("by_reset", [False, True], ids=["fin", "reset"])
def test_who_hangs_up_before_the_header_costs_no_upstream_connection(by_reset: bool) -> None:
    with upstreams.echo() as upstream, expecting(upstream.address) as proxy:
        client = proxy.connect("web")
        if by_reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        record = one_record(proxy)
        expected = ("reset", "client_reset") if by_reset else ("fin", "done")
        assert (record["how"], record["why"]) == expected
        assert (record["phase"], record["closed_by"]) == ("proxy", "client")
        assert upstream.results == []


def test_source_hash_knows_the_announced_client() -> None:
    pool = {"balance": "source_hash"}
    with ExitStack() as stack:
        names = [stack.enter_context(upstreams.named(f"{n}")) for n in range(4)]
        addresses = [one.address for one in names]
        yaml = proxy_yaml(*addresses, pool=pool, listener={"accept_proxy": {"from": LOOPBACK}})
        proxy = stack.enter_context(running_proxy(yaml))
        served: dict[str, set[bytes]] = {}
        for _ in range(3):
            for n in range(16):
                with proxy.connect("web") as client:
                    client.sendall(build_v1((f"203.0.113.{n}", 1), LOCAL4))
                    served.setdefault(f"{n}", set()).add(client.recv(1))
        assert all(len(who) == 1 for who in served.values())
        assert len(set.union(*served.values())) == 4


def test_a_listener_on_a_unix_socket_serves_its_clients_as_themselves(tmp_path: Any) -> None:
    with upstreams.echo() as upstream, running_proxy(
        proxy_yaml(
            upstream.address,
            bind=f"unix:{tmp_path}/s",
            listener={"accept_proxy": {"from": LOOPBACK}},
        )
    ) as proxy, proxy.connect("web") as client:  # fmt: skip
        assert exchange(client, b"PROXY") == b"PROXY"


def test_clients_that_send_anything_leave_nothing_behind() -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    whole = [header for header, _ in HEADERS.values()]
    times = {"timeouts": {"preread": "200ms"}}
    with (
        upstreams.echo() as upstream,
        expecting(upstream.address, listener=times) as proxy,
        board_of(proxy, 1) as board,
    ):
        [worker] = proxy.worker_pids()
        with proxy.connect("web") as client:
            client.sendall(LOCAL_V2)
            assert exchange(client, b"hello") == b"hello"
        wait_until(lambda: board.total(SESSIONS) == 0, 5, "no session")
        with same_fds(worker):
            for _ in range(600):
                said = bytearray(rng.choice(whole))
                for _ in range(rng.randrange(3)):
                    said[rng.randrange(len(said))] = rng.randrange(256)
                with proxy.connect("web") as client:
                    client.sendall(said[: rng.randrange(len(said) + 1)])
                    if rng.random() < 0.3:
                        client.setsockopt(
                            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                        )
            wait_until(lambda: board.total(SESSIONS) == 0, 10, "no session")
        assert proxy.worker_pids() == [worker]
        before = cpu_seconds(worker)
        with proxy.connect("web") as client:
            client.sendall(LOCAL_V2)
            assert exchange(client, b"hello") == b"hello"
        assert cpu_seconds(worker) - before < 0.5
        whys = {record["why"] for record in proxy.wait_records(602)}
    assert whys <= {"done", "client_reset", "upstream_reset", "bad_proxy_header", "preread_timeout"}
