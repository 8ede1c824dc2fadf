"""Health checks of upstreams that want a PROXY header first."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from harness.health import FAST, Rig, rig, run
from harness.proxy_header import take_header
from harness.serving import FAMILIES, Handler, Upstream, serving
from test_health_checks import SSL_REQUEST, answering, tls, tls_context

from spliceproxy.wire.proxy_protocol import Header, ProxyHeaderError


def after_header(handler: Handler) -> Handler:
    """Results: the header, and the peer's address and our own; and what `handler` returned. Hangs
    up where no header comes, as after a test that ends within a check."""

    def first(sock: socket.socket, upstream: Upstream) -> Any:
        ends = sock.getpeername(), sock.getsockname()
        try:
            header = take_header(sock)
        except (EOFError, ProxyHeaderError):
            return None
        return header, ends, handler(sock, upstream)

    return first


def matches(header: Header, family: str, version: str, ends: tuple[Any, Any]) -> bool:
    """Whether it speaks for the one who made the connection, and of nobody else."""
    if version == "v2":
        return header.version == 2 and header.local
    told = (header.source, header.destination)
    return header.version == 1 and told == (
        (None, None) if family == "unix" else (ends[0][:2], ends[1][:2])
    )


def states(it: Rig) -> list[str]:
    """What the log tells of upstreams. On a busy machine it also tells that checks come late."""
    return [one["event"] for one in it.lines if one["event"].startswith("upstream ")]


KINDS: list[tuple[str, dict[str, object], Handler]] = [
    ("tcp", {}, answering(b"", b"")),
    ("redis", {}, answering(b"PING\r\n", b"+PONG\r\n")),
    ("postgres", {}, answering(SSL_REQUEST, b"N")),
    ("smtp", {}, answering(b"QUIT\r\n", b"221 bye\r\n", b"220 ready\r\n")),
    ("exchange", {"send": "hello", "expect": "world"}, answering(b"hello", b"world")),
    ("http", {"status": 204}, answering(b"GET / HTTP/1.1\r\n", b"HTTP/1.1 204 fine\r\n\r\n")),
    ("tls", {}, tls(tls_context())),
]


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("check", "more", "handler"), KINDS)
def test_each_kind_sends_one_in_its_own_name_and_then_what_it_always_sends(
    check: str,
    more: dict[str, object],
    handler: Handler,
    family: str,
    version: str,
    seed: int,
) -> None:
    async def test() -> None:
        async with rig(seed) as it:
            with serving(family, after_header(handler)) as upstream:
                health = {**FAST, "check": check, **more}
                it.apply(health, upstream.address, send_proxy=version)
                await it.wait(lambda: len(upstream.results) >= 3, "three checks")
                assert states(it) == []
                assert not it.down(upstream.address)
                assert upstream.errors == []
                for header, ends, _ in upstream.results:
                    assert matches(header, family, version, ends), header

    run(test)


@pytest.mark.parametrize("check", ["http", "redis"])
def test_a_reload_that_changes_it_takes_a_new_check(check: str, seed: int) -> None:
    async def test() -> None:
        asked, answer = {
            "http": (b"GET ", b"HTTP/1.1 204 fine\r\n\r\n"),
            "redis": (b"PING\r\n", b"+PONG\r\n"),
        }[check]
        async with rig(seed) as it:
            with serving("v4", after_header(answering(asked, answer))) as upstream:
                health = {**FAST, "check": check}
                it.apply(health, upstream.address)
                await it.wait_log("upstream down")
                it.apply(health, upstream.address, send_proxy="v2")
                await it.wait_log("upstream up")
                it.apply(health, upstream.address, send_proxy="v1")
                before = len(upstream.results)
                await it.wait(lambda: len(upstream.results) >= before + 3, "three checks more")
                assert upstream.results[-1][0].version == 1
                assert states(it) == ["upstream down", "upstream up"]

    run(test)


@pytest.mark.parametrize("check", ["http", "exchange"])
def test_a_check_at_another_port_sends_none(check: str, seed: int) -> None:
    async def test() -> None:
        handler = answering(b"GET /", b"HTTP/1.1 200 x\r\nContent-Length: 0\r\n\r\n")
        async with rig(seed) as it:
            with serving("v4", handler) as agent:
                port = agent.address.rpartition(":")[2]
                health = {**FAST, "check": check, "port": port}
                if check == "exchange":
                    health["send"] = "GET / HTTP/1.1"
                it.apply(health, "127.0.0.1:9", send_proxy="v2")
                await it.wait(lambda: len(agent.results) >= 3, "checks at the other port")
                assert not it.down("127.0.0.1:9")
                assert states(it) == []

    run(test)


def test_an_http_check_says_why_it_could_not_connect(seed: int) -> None:
    async def test() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            name = f"127.0.0.1:{taken.getsockname()[1]}"
            async with rig(seed) as it:
                it.apply({**FAST, "check": "http"}, name, send_proxy="v2")
                line = await it.wait_log("upstream down")
                assert line["reason"] == "connection refused"
                assert states(it) == ["upstream down"]

    run(test)
