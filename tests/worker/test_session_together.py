"""What is asked of a client, and what is told of it, where a listener and a pool want several."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest
from harness import upstreams
from harness.load import read_to_end
from harness.proxy_header import take_header
from harness.serving import Upstream, serving
from harness.wait import wait_until
from session_support import one_record, proxy_yaml, read_until_reset, running_proxy

from spliceproxy.wire.proxy_protocol import build_v2

LOCAL = ("192.0.2.10", 443)
ANNOUNCED: dict[str, Any] = {"accept_proxy": {"from": ["127.0.0.0/8"]}}


def test_access_rules_judge_the_client_that_is_announced_and_not_its_proxy() -> None:
    listener = {**ANNOUNCED, "access": [{"deny": ["127.0.0.0/8", "10.0.0.0/8"]}]}
    with (
        upstreams.echo() as upstream,
        running_proxy(proxy_yaml(upstream.address, listener=listener)) as proxy,
    ):
        with proxy.connect("web") as client:
            client.sendall(build_v2(("203.0.113.7", 1), LOCAL) + b"hello")
            assert client.recv(5) == b"hello"
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
        assert one_record(proxy)["why"] == "done"
        with proxy.connect("web") as client:
            client.sendall(build_v2(("10.1.2.3", 7), LOCAL) + b"hello")
            read_until_reset(client)
        refused = proxy.wait_records(2)[1]
    kept = {key: refused[key] for key in ("why", "phase", "client", "upstream", "pool", "how")}
    assert kept == {
        "why": "access_denied",
        "phase": "proxy",
        "client": "10.1.2.3:7",
        "upstream": None,
        "pool": None,
        "how": "reset",
    }


def test_limits_count_the_clients_that_are_announced_and_give_their_places_back() -> None:
    listener = {**ANNOUNCED, "limits": {"per_client": {"max_sessions": 1}}}
    with (
        upstreams.echo() as upstream,
        running_proxy(proxy_yaml(upstream.address, listener=listener)) as proxy,
    ):
        for _ in range(3):
            with proxy.connect("web") as first, proxy.connect("web") as other:
                for client, ip in ((first, "203.0.113.7"), (other, "203.0.113.8")):
                    client.sendall(build_v2((ip, 1), LOCAL) + b"hello")
                    assert client.recv(5) == b"hello"
                with proxy.connect("web") as second:
                    second.sendall(build_v2(("203.0.113.7", 2), LOCAL) + b"hello")
                    read_until_reset(second)
                for client in (first, other):
                    client.shutdown(socket.SHUT_WR)
                    assert client.recv(1) == b""
        records = proxy.wait_records(9)
    refused = [record for record in records if record["why"] == "client_limit"]
    assert [record["client"] for record in refused] == ["203.0.113.7:2"] * 3
    assert sum(record["why"] == "done" for record in records) == 6


@pytest.mark.parametrize("how", ["reset", "close"])
def test_who_is_announced_wrongly_or_has_no_route_is_turned_away_as_on_refuse_says(
    how: str,
) -> None:
    routes = [{"source": "198.51.100.0/24", "pool": "app"}]
    listener = {**ANNOUNCED, "routes": routes, "on_refuse": how}
    yaml = proxy_yaml("127.0.0.1:1", listener=listener).replace(
        '"pool": "app", "accept_', '"accept_'
    )
    with running_proxy(yaml) as proxy:
        with proxy.connect("web") as client:
            client.sendall(build_v2(("203.0.113.7", 1), LOCAL) + b"hello")
            if how == "reset":
                read_until_reset(client)
            else:
                assert client.recv(1) == b""
        record = one_record(proxy)
    assert (record["why"], record["how"], record["phase"]) == ("no_route", how, "route")


def test_an_upstream_is_told_of_the_client_that_was_announced_and_at_once() -> None:
    """MSG_MORE would hold the header back for 200 ms where no byte follows."""
    came: list[float] = []
    headers: list[Any] = []

    def handler(sock: socket.socket, _upstream: Upstream) -> bytes:
        headers.append(take_header(sock))
        came.append(time.monotonic())
        return read_to_end(sock)

    with (
        serving("v4", handler) as upstream,
        running_proxy(
            proxy_yaml(upstream.address, listener=ANNOUNCED, pool={"send_proxy": "v2"})
        ) as proxy,
    ):
        waits = []
        for number in range(5):
            with proxy.connect("web") as client:
                began = time.monotonic()
                client.sendall(build_v2(("203.0.113.7", 51234), LOCAL))
                wait_until(lambda n=number: len(came) > n, 10, "the header")  # type: ignore[misc]
                waits.append(came[-1] - began)
                client.sendall(b"late")
        wait_until(lambda: len(upstream.results) == 5, 10, "the upstream's ends")
    assert min(waits) < 0.15, waits
    assert {(header.source, header.destination) for header in headers} == {
        (("203.0.113.7", 51234), LOCAL)
    }
    assert upstream.results == [b"late"] * 5


@pytest.mark.parametrize("replay", ["off", "64KiB"])
def test_a_slowed_session_to_a_unix_socket_sends_its_header_and_every_byte(replay: str) -> None:
    data = bytes(range(256)) * 1024

    def handler(sock: socket.socket, _upstream: Upstream) -> bytes:
        take_header(sock)
        return read_to_end(sock)

    listener = {**ANNOUNCED, "bandwidth": {"up": "1MiB/s", "down": "1MiB/s"}}
    with (
        serving("unix", handler) as upstream,
        running_proxy(
            proxy_yaml(
                upstream.address, listener=listener, pool={"send_proxy": "v2", "replay": replay}
            )
        ) as proxy,
        proxy.connect("web") as client,
    ):
        client.sendall(build_v2(("203.0.113.7", 51234), LOCAL) + data)
        client.shutdown(socket.SHUT_WR)
        wait_until(lambda: upstream.results, 20, "all of it")
    assert upstream.results == [data]
