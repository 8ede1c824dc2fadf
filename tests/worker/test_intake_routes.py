"""Routes of a listener with real sockets: who goes where, and that the upstream gets all bytes."""

from __future__ import annotations

import json
import random
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import upstreams
from harness.fds import context_switches, cpu_seconds, same_fds
from harness.proxy import Proxy
from harness.serving import Upstream, serving
from harness.tls import client_hello
from harness.wait import wait_until
from session_support import (
    board_of,
    check_record,
    exchange,
    one_record,
    proxy_yaml,
    read_until_reset,
    running_proxy,
    send_one_by_one,
)

from spliceproxy.telemetry.board import SESSIONS
from spliceproxy.wire.proxy_protocol import build_v2

SEED = random.randrange(2**32)
DATA = Path(__file__).parents[1] / "wire" / "data"
HELLO = (DATA / "openssl-tls1.3.bin").read_bytes()
REQUEST = b"GET / HTTP/1.1\r\nHost: old.example.com:8080\r\nX: y\r\n\r\n"

LONG_REQUEST = REQUEST.replace(b"X: y", b"X: " + b"y" * 500)


def echo_named(name: str) -> Any:
    """An upstream that tells its name as soon as a byte came, and then sends back what comes."""

    def handler(sock: socket.socket, _upstream: Upstream) -> int:
        total = 0
        while data := sock.recv(65536):
            sock.sendall(name.encode() * (not total) + data)
            total += len(data)
        return total

    return serving("v4", handler)


@contextmanager
def routed(
    routes: list[dict[str, Any]], *, pool: str | None = "other", **more: Any
) -> Iterator[Any]:
    """A proxy with the pools named in the routes and `other`; each upstream answers with the first
    letter of its pool's name."""
    wanted = {"other"}
    for one in routes:
        target = one["pool"]
        wanted |= {target} if isinstance(target, str) else set(target)
    with ExitStack() as stack:
        pools = {
            name: {
                "upstreams": stack.enter_context(echo_named(name[0])).address,
                **more.pop(name, {}),
            }
            for name in sorted(wanted)
        }
        listener = {"bind": "127.0.0.1:0", "routes": routes, **more.pop("listener", {})}
        if pool is not None:
            listener["pool"] = pool
        text = proxy_yaml(listeners={"web": listener}, pools=pools, **more)
        yield stack.enter_context(running_proxy(text))


def said(proxy: Proxy, data: bytes, *, slowly: int = 0) -> bytes:
    """Send `data`, the first `slowly` bytes one by one; the letter of the pool that got all."""
    with proxy.connect("web") as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for n in range(slowly):
            client.sendall(data[n : n + 1])
        client.sendall(data[slowly:])
        back = b""
        while len(back) < len(data) + 1:
            more = client.recv(65536)
            assert more, back
            back += more
        assert back[1:] == data
        return back[:1]


ROUTES = [
    {"sni": ["tls.example.com", "*.example.org"], "pool": "named"},
    {"protocol": "tls", "pool": "tls"},
    {"protocol": ["ssh", "postgres"], "pool": "ssh"},
    {"host": "old.example.com", "pool": "host"},
    {"protocol": "http", "pool": "web"},
]


def hello_for(name: bytes | None, *alpn: bytes) -> bytes:
    """A ClientHello that Python's own TLS writes."""
    return client_hello(None if name is None else name.decode(), *(one.decode() for one in alpn))


def test_first_bytes_lead_to_a_pool_which_gets_all_of_them() -> None:
    with routed(ROUTES) as proxy:
        for data, pool in (
            (hello_for(b"tls.example.com"), b"n"),
            (hello_for(b"a.b.example.org"), b"n"),
            (hello_for(b"example.org"), b"t"),
            (hello_for(None), b"t"),
            (b"\x16\x03\x01\x00\x05hello and no ClientHello", b"t"),
            (b"SSH-2.0-test\r\n", b"s"),
            (bytes.fromhex("00000008 04d2162f"), b"s"),
            (REQUEST, b"h"),
            (b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n", b"w"),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"w"),
            (b"*1\r\n$4\r\nPING\r\n", b"o"),
            (b"\0\0\0\0\0\0\0\0", b"o"),
        ):
            assert said(proxy, data) == pool, data
            assert said(proxy, data, slowly=min(len(data), 40)) == pool, data
        records = proxy.wait_records(24)
    assert {record["route"] for record in records} == {*(f"routes[{n}]" for n in range(5)), None}
    assert all(record["why"] == "done" for record in records)


def test_sni_and_alpn_are_in_the_record_and_alpn_is_a_route() -> None:
    routes = [{"sni": "www.example.com", "alpn": "h2", "tls": "passthrough", "pool": "h2"}]
    with routed(routes) as proxy:
        assert said(proxy, hello_for(b"WWW.example.com", b"h3", b"h2")) == b"h"
        assert said(proxy, hello_for(b"www.example.com", b"http/1.1")) == b"o"
        one, two = proxy.wait_records(2)
    assert (one["sni"], one["alpn"], one["route"]) == ("www.example.com", "h3,h2", "routes[0]")
    assert (two["sni"], two["alpn"], two["route"]) == ("www.example.com", "http/1.1", None)


@pytest.mark.parametrize(
    "data", [hello_for(b"tls.example.com"), LONG_REQUEST], ids=["hello", "request"]
)
def test_what_is_sent_byte_by_byte_makes_few_wakes(data: bytes) -> None:
    with routed(ROUTES) as proxy:
        [worker] = proxy.worker_pids()
        with proxy.connect("web") as client:
            wakes = send_one_by_one(client, data[:-1], worker)
            client.sendall(data[-1:])
            back = client.recv(len(data) + 1, socket.MSG_WAITALL)
        assert (back[:1] in (b"n", b"h"), back[1:]) == (True, data)
        assert wakes < 15


def test_a_large_request_head_is_read_to_its_end() -> None:
    head = b"GET / HTTP/1.1\r\n" + b"X-Filler: %s\r\n" % (b"x" * 1000) * 14
    with routed(ROUTES) as proxy:
        assert said(proxy, head + b"Host: old.example.com\r\n\r\n") == b"h"
        assert said(proxy, head + b"Host: old.example.com\r\n\r\n", slowly=30) == b"h"
        assert said(proxy, head * 2 + b"Host: old.example.com\r\n\r\n") == b"w"


def test_source_routes_need_no_bytes_and_know_the_announced_client() -> None:
    routes = [
        {"source": "203.0.113.0/24", "pool": "near"},
        {"source": ["127.0.0.0/8"], "pool": {"app": 1}},
    ]
    with ExitStack() as stack:
        named = {n: stack.enter_context(upstreams.named(n)) for n in ("near", "app")}
        pools = {name: {"upstreams": one.address} for name, one in named.items()}
        listener = {
            "bind": "127.0.0.1:0",
            "routes": routes,
            "accept_proxy": {"from": "127.0.0.2"},
        }
        text = proxy_yaml(listeners={"web": listener}, pools=pools)
        proxy = stack.enter_context(running_proxy(text))
        with proxy.connect("web") as client:
            assert client.recv(9) == b"app"
        proxy.wait_records(1)
        for number, (address, answer) in enumerate(
            (("203.0.113.9", b"near"), ("198.51.100.1", b"")), 2
        ):
            with socket.create_connection(
                ("127.0.0.1", proxy.port("web")), 10, source_address=("127.0.0.2", 0)
            ) as client:
                client.sendall(build_v2((address, 1), ("192.0.2.1", 2)))
                if answer:
                    assert client.recv(9) == answer
                else:
                    assert read_until_reset(client) == b""
            records = proxy.wait_records(number)
    assert [one["route"] for one in records] == ["routes[1]", "routes[0]", None]
    assert [one["why"] for one in records] == ["done", "done", "no_route"]
    assert records[2]["phase"] == "route"
    assert records[2]["pool"] is None


def test_a_client_that_no_route_matches_is_refused_where_there_is_no_pool() -> None:
    with routed([{"protocol": "ssh", "pool": "ssh"}], pool=None) as proxy:
        with proxy.connect("web") as client:
            client.sendall(REQUEST)
            assert read_until_reset(client) == b""
        check_record(
            one_record(proxy),
            phase="route", pool=None, upstream=None,
            closed_by="proxy", how="reset", why="no_route",
        )  # fmt: skip


def test_shares_are_exact_over_many_sessions() -> None:
    with routed([{"protocol": "ssh", "pool": {"app": 95, "canary": 5}}]) as proxy:
        got = Counter(said(proxy, b"SSH-2.0-x") for _ in range(200))
        assert got == {b"a": 190, b"c": 10}


def test_a_silent_client_goes_where_no_bytes_are_needed_and_is_greeted() -> None:
    listener = {"routes": [{"protocol": "ssh", "pool": "app"}], "timeouts": {"preread": "300ms"}}
    with upstreams.named("first") as upstream:
        text = proxy_yaml(upstream.address, listener=listener)
        with running_proxy(text) as proxy:
            with proxy.connect("web") as client:
                assert client.recv(9) == b"first"
            record = one_record(proxy)
    assert (record["why"], record["route"]) == ("done", None)
    assert 250 < record["first_byte_ms"] < 3000


def test_a_client_that_stops_in_the_middle_is_refused_in_time() -> None:
    times = {"timeouts": {"preread": "300ms"}}
    with routed(ROUTES, listener=times) as proxy:
        for data in (HELLO[:100], b"GET / HT", b"SS"):
            with proxy.connect("web") as client:
                client.sendall(data)
                assert read_until_reset(client) == b""
        for record in proxy.wait_records(3):
            assert (record["why"], record["phase"]) == ("preread_timeout", "preread")
            assert 250 < record["duration_ms"] < 3000


def test_a_client_that_finished_before_it_said_enough_is_routed_by_what_it_said() -> None:
    with routed(ROUTES) as proxy:
        for data, pool in ((HELLO[:100], b"t"), (b"GET / HTTP/1.1\r\nHo", b"w"), (b"SS", b"o")):
            with proxy.connect("web") as client:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                back = b""
                while more := client.recv(65536):
                    back += more
                assert back == pool + data
        assert {record["why"] for record in proxy.wait_records(3)} == {"done"}


def test_sni_hash_sends_each_name_to_one_upstream() -> None:
    with ExitStack() as stack:
        addresses = [stack.enter_context(echo_named(f"{n}")).address for n in range(4)]
        proxy = stack.enter_context(
            running_proxy(proxy_yaml(*addresses, pool={"balance": "sni_hash"}))
        )
        where = {}
        for turn in range(2):
            for n in range(16):
                who = said(proxy, hello_for(b"n%d.example.com" % n))
                assert where.setdefault(n, who) == who, turn
        assert len(set(where.values())) > 1
        assert len({said(proxy, b"plain") for _ in range(4)}) == 1
        assert len({said(proxy, b"\x16\x02") for _ in range(4)}) == 1
        assert proxy.wait_records(36)[0]["sni"] is not None


def test_a_session_in_intake_finishes_with_the_listener_that_it_began_with() -> None:
    with routed(ROUTES) as proxy, proxy.connect("web") as client:
        client.sendall(b"SS")
        text = proxy.config.read_text().replace('"ssh", "postgres"', '"postgres"')
        assert text != proxy.config.read_text()
        proxy.config.write_text(text)
        proxy.signal(1)
        proxy.wait_log("reloaded")
        client.sendall(b"H-2.0-x")
        assert client.recv(10, socket.MSG_WAITALL) == b"sSSH-2.0-x"
        assert said(proxy, b"SSH-2.0-x") == b"o"


def test_a_pool_that_a_reload_replaced_meanwhile_is_taken_as_it_is_now() -> None:
    with (
        routed(ROUTES) as proxy,
        echo_named("x") as upstream,
        echo_named("y") as other,
        proxy.connect("web") as client,
    ):
        client.sendall(b"SS")
        config = json.loads(proxy.config.read_text().partition("pools: ")[2].splitlines()[0])
        now = {**config, "ssh": {"upstreams": [upstream.address, other.address]}}
        before = proxy.config.read_text()
        proxy.config.write_text(before.replace(json.dumps(config), json.dumps(now)))
        proxy.signal(1)
        proxy.wait_log("reloaded")
        client.sendall(b"H-2.0-x")
        answer = client.recv(10, socket.MSG_WAITALL)
        assert (answer[:1] in (b"x", b"y"), answer[1:]) == (True, b"SSH-2.0-x")


@pytest.mark.parametrize("cut", [0, 1, 16, 28, 29, 60])
def test_what_comes_with_a_proxy_header_is_routed_by(cut: int) -> None:
    header = build_v2(("203.0.113.9", 1), ("192.0.2.1", 2))
    data = header + hello_for(b"tls.example.com")
    accept = {"accept_proxy": {"from": "127.0.0.0/8"}}
    with routed(ROUTES, listener=accept) as proxy:
        with proxy.connect("web") as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(data[:cut])
            client.sendall(data[cut:])
            size = len(data) - len(header) + 1
            assert client.recv(size, socket.MSG_WAITALL) == b"n" + data[len(header) :]
        record = one_record(proxy)
    assert (record["client"], record["sni"]) == ("203.0.113.9:1", "tls.example.com")


def test_a_thousand_silent_clients_cost_the_others_nothing() -> None:
    times = {"timeouts": {"preread": "20s"}}
    with (
        routed(ROUTES, listener=times, max_sessions=5000) as proxy,
        board_of(proxy, 1) as board,
        ExitStack() as stack,
    ):
        [worker] = proxy.worker_pids()
        silent = [stack.enter_context(proxy.connect("web")) for _ in range(1000)]
        for client in silent[::2]:
            client.sendall(b"G")
        wait_until(lambda: board.total(SESSIONS) == 1000, 10, "all of them")
        before = context_switches(worker), cpu_seconds(worker)
        for _ in range(50):
            assert said(proxy, REQUEST) == b"h"
        assert context_switches(worker) - before[0] < 1000
        assert cpu_seconds(worker) - before[1] < 2
        stack.close()
        wait_until(lambda: board.total(SESSIONS) == 0, 10, "none of them")


def test_clients_that_send_anything_leave_nothing_behind() -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    whole = [hello_for(b"tls.example.com"), REQUEST, b"SSH-2.0-x", b"\0\0\0\x08\x04\xd2\x16\x2f"]
    times = {"timeouts": {"preread": "200ms"}}
    with routed(ROUTES, listener=times) as proxy, board_of(proxy, 1) as board:
        [worker] = proxy.worker_pids()
        assert said(proxy, REQUEST) == b"h"
        wait_until(lambda: board.total(SESSIONS) == 0, 5, "no session")
        with same_fds(worker):
            for _ in range(600):
                data = bytearray(rng.choice(whole))
                for _ in range(rng.randrange(4)):
                    data[rng.randrange(len(data))] = rng.randrange(256)
                with proxy.connect("web") as client:
                    client.sendall(data[: rng.randrange(len(data) + 1)])
                    if rng.random() < 0.3:
                        linger = struct.pack("ii", 1, 0)
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            wait_until(lambda: board.total(SESSIONS) == 0, 10, "no session")
        assert proxy.worker_pids() == [worker]
        assert said(proxy, b"SSH-2.0-x") == b"s"
        whys = {record["why"] for record in proxy.wait_records(602)}
    assert whys <= {"done", "client_reset", "upstream_reset", "preread_timeout"}


def test_a_client_of_a_unix_socket_is_routed_too(tmp_path: Path) -> None:
    with routed(ROUTES, listener={"bind": f"unix:{tmp_path}/s"}) as proxy:
        data = hello_for(b"tls.example.com")
        with proxy.connect("web") as client:
            for n in range(50):
                client.sendall(data[n : n + 1])
            client.sendall(data[50:])
            assert client.recv(len(data) + 1, socket.MSG_WAITALL) == b"n" + data
            assert exchange(client, b"more") == b"more"
