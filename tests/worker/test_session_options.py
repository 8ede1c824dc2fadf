"""`tcp:` options, read from the worker's own sockets on both sides of a session."""

from __future__ import annotations

import select
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from harness import upstreams
from harness.proxy import Proxy
from harness.serving import Upstream
from harness.wait import wait_until
from session_support import (
    exchange,
    peer_port,
    private_network,
    proxy_yaml,
    running_proxy,
    worker_sockets,
)

SO_MARK = 36

FAMILIES = pytest.mark.parametrize("family", ["v4", "v6"])
BINDS = {"v4": "127.0.0.1:0", "v6": "[::1]:0"}


class Sides:
    """The worker's three sockets of a proxy with one session."""

    def __init__(self, proxy: Proxy, socks: list[socket.socket], upstream: Upstream) -> None:
        port = proxy.port("web")
        [self.listening] = [s for s in socks if not peer_port(s)]
        [self.client] = [s for s in socks if peer_port(s) and s.getsockname()[1] == port]
        [self.upstream] = [s for s in socks if peer_port(s) == int(upstream.name[1])]


@contextmanager
def one_session(family: str = "v4", **levels: Any) -> Iterator[Sides]:
    """A session that runs, with the keys of `levels` as proxy_yaml takes them."""
    with ExitStack() as stack:
        echo = stack.enter_context(upstreams.echo(family))
        text = proxy_yaml(echo.address, bind=BINDS[family], **levels)
        proxy = stack.enter_context(running_proxy(text))
        client = stack.enter_context(proxy.connect("web"))
        assert exchange(client, b"ping") == b"ping"
        [pid] = proxy.worker_pids()
        yield Sides(proxy, stack.enter_context(worker_sockets(pid)), echo)


def tcp(sock: socket.socket, *options: int) -> tuple[int, ...]:
    return tuple(sock.getsockopt(socket.IPPROTO_TCP, option) for option in options)


def option(sock: socket.socket, name: int) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, name)


def keepalive(sock: socket.socket) -> tuple[int, ...]:
    names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    return option(sock, socket.SO_KEEPALIVE), *tcp(sock, *names)


def wait_kept_alive(sock: socket.socket, expected: tuple[int, ...]) -> None:
    """Towards the upstream it is set when the session has lived for a second."""
    wait_until(lambda: keepalive(sock) == expected, 3, f"keepalive is {expected}")


def test_what_is_set_without_being_asked_for() -> None:
    with one_session() as sides:
        for sock in (sides.client, sides.upstream):
            assert tcp(sock, socket.TCP_NODELAY, socket.TCP_USER_TIMEOUT) == (1, 0)
            wait_kept_alive(sock, (1, 60, 10, 3))
            assert option(sock, SO_MARK) == 0


@FAMILIES
def test_options_for_all_connections_are_set_on_both_sides(family: str) -> None:
    everywhere = {
        "nodelay": "false",
        "keepalive": {"idle": "7s", "interval": "3s", "count": 2},
        "user_timeout": "1500ms",
        "buffers": {"receive": "96KiB", "send": "48KiB"},
    }
    with one_session(family, tcp=everywhere) as sides:
        for sock in (sides.client, sides.upstream):
            assert tcp(sock, socket.TCP_NODELAY, socket.TCP_USER_TIMEOUT) == (0, 1500)
            wait_kept_alive(sock, (1, 7, 3, 2))
            # The kernel doubles what it is asked for: socket(7).
            assert option(sock, socket.SO_RCVBUF) == 2 * 96 * 1024
            assert option(sock, socket.SO_SNDBUF) == 2 * 48 * 1024


@FAMILIES
def test_listener_and_pool_each_set_their_own_side(family: str) -> None:
    levels: dict[str, Any] = {
        "tcp": {"keepalive": "off"},
        "listener": {"tcp": {"user_timeout": "2s", "mark": "0x11", "interface": "lo"}},
        "pool": {"tcp": {"nodelay": "false", "mark": 34, "interface": "lo"}},
    }
    with one_session(family, **levels) as sides:
        for sock, nodelay, timeout, mark in (
            (sides.client, 1, 2000, 0x11),
            (sides.upstream, 0, 0, 34),
        ):
            assert tcp(sock, socket.TCP_NODELAY, socket.TCP_USER_TIMEOUT) == (nodelay, timeout)
            assert option(sock, SO_MARK) == mark
            assert option(sock, socket.SO_KEEPALIVE) == 0
            name = sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
            assert name.rstrip(b"\0") == b"lo"


def test_an_interface_that_is_gone_is_a_failed_connect() -> None:
    text = proxy_yaml("127.0.0.1:9", bind="unix:@gone-test", pool={"tcp": {"interface": "lo"}})
    with private_network(), running_proxy(text) as proxy:
        subprocess.run(["ip", "link", "set", "lo", "down"], check=True)
        subprocess.run(["ip", "link", "set", "lo", "name", "gone"], check=True)
        with proxy.connect("web") as client:
            assert client.recv(1) == b""
        [record] = proxy.wait_records(1)
    assert (record["why"], record["phase"]) == ("connect_failed", "connect")


def test_the_backlog_is_how_many_may_wait() -> None:
    with one_session(listener={"tcp": {"backlog": 33}}) as sides:
        info = sides.listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        # tcpi_sacked of a listening socket is its backlog: tcp_diag, linux/tcp.h
        assert int.from_bytes(info[28:32], "little") == 33


def test_defer_accept_lets_a_client_in_with_its_first_bytes() -> None:
    deferred = {"tcp": {"defer_accept": "30s"}}
    with (
        upstreams.named("speaks first") as upstream,
        running_proxy(proxy_yaml(upstream.address, listener=deferred)) as proxy,
        proxy.connect("web") as silent,
        proxy.connect("web") as client,
    ):
        client.sendall(b"x")
        assert client.recv(100) == b"speaks first"
        assert not select.select([silent], [], [], 0.3)[0]
        silent.sendall(b"x")
        assert silent.recv(100) == b"speaks first"
