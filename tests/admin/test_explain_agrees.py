"""What `explain` says of a client is what a real worker does with it: route, pool, upstream, and
why there is none. Listeners, routes and clients are drawn at random."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest
from harness.proxy import Proxy, running_proxy
from harness.serving import Upstream, serving
from harness.tls import client_hello

from spliceproxy.admin.explain import explain
from spliceproxy.admin.questions import make_client
from spliceproxy.admin.scene import Scene
from spliceproxy.cli.explain_file import scene_of
from spliceproxy.wire.postgres import SSL_REQUEST

LISTENERS = 12
CLIENTS = 600
SOURCES = ["10.1.0.0/16", "10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "::/0"]
NAMES = ["a.example.com", "b.example.com", "www.example.com", "x.y.example.com", "example.org"]
PATTERNS = [*NAMES, "*.example.com", "*.y.example.com"]
ALPN = ["h2", "http/1.1", "acme"]
PROTOCOLS = ["tls", "http", "ssh", "postgres"]
POOLS = {"by_source": "source_hash", "by_name": "sni_hash", "in_turn": "round_robin"}
CLEAR = {
    "ssh": b"SSH-2.0-x\r\n",
    "unknown": b"\x01\x02\x03\x04\x05\x06\x07\x08",
    None: b"",
}


@dataclass(frozen=True)
class Visitor:
    """A client of the test, in the words of `explain`."""

    listener: str
    source: str
    protocol: str | None
    sni: str | None = None
    alpn: tuple[str, ...] = ()
    host: str | None = None

    @property
    def first_bytes(self) -> bytes:
        if self.protocol in ("tls", "postgres"):
            return client_hello(self.sni, *self.alpn)
        if self.protocol == "http":
            return f"GET / HTTP/1.1\r\nHost: {self.host or ''}\r\n\r\n".encode()
        return CLEAR[self.protocol]


def serve(sock: socket.socket, _upstream: Upstream) -> None:
    """Grants TLS to PostgreSQL clients, and reads to the end."""
    while data := sock.recv(65536):
        if data == SSL_REQUEST:
            sock.sendall(b"S")


def a_route(chance: random.Random) -> dict[str, Any]:
    route: dict[str, Any] = {}
    kind = chance.choice(["protocol", "sni", "host", "alpn", "none", "postgres"])
    if kind == "none" or chance.random() < 0.4:
        route["source"] = chance.sample(SOURCES, chance.randint(1, 2))
    if kind == "protocol":
        route["protocol"] = chance.sample(PROTOCOLS, chance.randint(1, 2))
    elif kind == "postgres":
        route |= {"protocol": "postgres", "sni": chance.sample(PATTERNS, 2)}
    elif kind in ("sni", "host"):
        route[kind] = chance.sample(PATTERNS, chance.randint(1, 3))
    elif kind == "alpn":
        route[kind] = chance.sample(ALPN, chance.randint(1, 2))
    if kind == "sni" and chance.random() < 0.3:
        route["alpn"] = chance.sample(ALPN, 1)
    if chance.random() < 0.2:
        return route | {"pool": {"in_turn": 3, "by_source": 1}}
    return route | {"pool": chance.choice([*POOLS])}


def a_listener(chance: random.Random) -> dict[str, Any]:
    routes = [a_route(chance) for _ in range(chance.randint(1, 6))]
    listener: dict[str, Any] = {
        "bind": "127.0.0.1:0",
        "accept_proxy": {"from": "127.0.0.1", "others": "refuse"},
        "routes": routes,
        "timeouts": {"preread": "5s"},
    }
    if chance.random() < 0.7:
        listener["pool"] = chance.choice([*POOLS])
    if chance.random() < 0.3:
        listener["access"] = [{"allow": "10.1.0.0/16"}, {"deny": "10.0.0.0/8"}]
    return listener


def a_visitor(chance: random.Random) -> Visitor:
    source = chance.choice(
        [
            f"10.{chance.randint(0, 2)}.0.{chance.randint(1, 200)}",
            f"192.0.2.{chance.randint(5, 9)}",
            f"2001:db8::{chance.randint(1, 9999):x}",
        ]
    )
    plain = Visitor(f"l{chance.randrange(LISTENERS)}", source, chance.choice([*PROTOCOLS, *CLEAR]))
    if plain.protocol in ("tls", "postgres"):
        alpn = tuple(chance.sample(ALPN, chance.randint(0, 2)))
        return replace(plain, sni=chance.choice([*NAMES, None]), alpn=alpn)
    if plain.protocol == "http":
        return replace(plain, host=chance.choice([*NAMES, None]))
    return plain


def visit(proxy: Proxy, visitor: Visitor, port: int) -> None:
    """Be that client to the end; its port, by which its record is found, tells it apart."""
    family, there = ("TCP6", "::1") if ":" in visitor.source else ("TCP4", "127.0.0.1")
    with proxy.connect(visitor.listener) as client, suppress(OSError):  # refused
        client.sendall(f"PROXY {family} {visitor.source} {there} {port} 80\r\n".encode())
        if visitor.protocol == "postgres":
            client.sendall(SSL_REQUEST)
            if client.recv(1) != b"S":
                return
        client.sendall(visitor.first_bytes)
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass


@pytest.fixture
def chance(seed: int) -> random.Random:
    return random.Random(seed)


@pytest.fixture
def proxy(chance: random.Random) -> Iterator[Proxy]:
    with (
        serving("v4", serve) as one,
        serving("v4", serve) as two,
        serving("v4", serve) as three,
    ):
        upstreams = [one.address, {"address": two.address, "weight": 3}, three.address]
        listeners = {f"l{n}": a_listener(chance) for n in range(LISTENERS)}
        pools = {
            name: {"balance": balance, "upstreams": upstreams} for name, balance in POOLS.items()
        }
        text = f"listeners: {json.dumps(listeners)}\npools: {json.dumps(pools)}\n"
        with running_proxy(text) as running:
            yield running


def expected(scene: Scene, visitor: Visitor) -> dict[str, Any]:
    client = make_client(
        visitor.source,
        "127.0.0.1",
        visitor.protocol,
        visitor.sni,
        visitor.alpn,
        visitor.host,
    )
    return explain(scene, visitor.listener, client)


def test_explained_is_what_a_worker_does(proxy: Proxy, chance: random.Random) -> None:
    scene = scene_of(proxy.config)
    visitors = [a_visitor(chance) for _ in range(CLIENTS)]
    for port, visitor in enumerate(visitors, 1):
        visit(proxy, visitor, port)
    records = {one["client"].rpartition(":")[2]: one for one in proxy.wait_records(CLIENTS)}
    certain = refused = 0
    for port, visitor in enumerate(visitors, 1):
        record, said = records[str(port)], expected(scene, visitor)
        about = (visitor, record, said)
        assert record["route"] == said["route"], about
        if said["refused"] is not None:
            refused += 1
            assert record["why"] == said["refused"]["why"], about
            assert record["upstream"] is None, about
            continue
        by_pool = {pool["pool"]: pool for pool in said["pools"]}
        pool = by_pool[record["pool"]]
        candidates = [one["name"] for one in pool["upstreams"] if one["candidate"]]
        assert record["upstream"] in candidates, about
        if POOLS[pool["pool"]] != "round_robin":
            assert record["upstream"] == pool["upstream"], about
            certain += 1
    print(f"{certain} with an upstream that is certain, {refused} refused")
    assert certain > CLIENTS / 10
    assert refused > 0
