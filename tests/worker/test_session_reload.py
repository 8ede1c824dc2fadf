"""A reload while sessions look for an upstream: what they go to next is in force."""

from __future__ import annotations

import json
import signal
import socket
import threading
from contextlib import ExitStack
from typing import Any

import pytest
from harness import upstreams
from harness.fds import same_fds
from harness.proxy import Proxy
from harness.serving import Upstream, serving
from harness.wait import wait_until
from session_support import (
    board_of,
    exchange,
    proxy_yaml,
    read_until_reset,
    running_proxy,
)


def reload(proxy: Proxy, **keys: Any) -> None:
    """Put a configuration in force in which these top-level keys are others."""
    before = len(proxy.log("reloaded"))
    lines = proxy.config.read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.partition(":")[0] not in keys]
    new = [f"{key}: {json.dumps(value)}\n" for key, value in keys.items()]
    proxy.config.write_text("".join(kept + new))
    proxy.signal(signal.SIGHUP)
    wait_until(lambda: len(proxy.log("reloaded")) > before, 10, "the reload")


@pytest.mark.parametrize(
    ("on_remove", "connect"), [("reset", "60s"), ("keep", "1s")], ids=["reset", "keep"]
)
def test_who_is_connecting_goes_to_what_is_in_force(on_remove: str, connect: str) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(upstreams.blackhole()).address for _ in range(2)]
        echo = stack.enter_context(upstreams.echo())
        pool = {"on_remove": on_remove, "timeouts": {"connect": connect}, "retries": 1}
        proxy = stack.enter_context(running_proxy(proxy_yaml(*silent, pool=pool)))
        board = stack.enter_context(board_of(proxy, 1)).upstreams
        stack.enter_context(same_fds(proxy.worker_pids()[0]))
        clients = [stack.enter_context(proxy.connect("web")) for _ in range(4)]
        wait_until(lambda: board.live(2) == 4, 10, "four that are connecting")
        reload(proxy, pools={"app": {**pool, "upstreams": [echo.address]}})
        for client in clients:
            assert exchange(client, b"hello") == b"hello"
            client.close()
        records = proxy.wait_records(4)
        assert {(one["upstream"], one["retries"]) for one in records} == {(echo.address, 1)}
        assert [board.live(slot) for slot in range(4)] == [0] * 4


def test_who_is_connecting_to_a_pool_that_is_gone_with_its_sessions_ends() -> None:
    with ExitStack() as stack:
        silent = stack.enter_context(upstreams.blackhole()).address
        echoes = [stack.enter_context(upstreams.echo()) for _ in range(2)]
        first = {"address": silent, "tier": 0}, {"address": echoes[0].address, "tier": 1}
        pool = {"on_remove": "reset", "timeouts": {"connect": "60s"}}
        proxy = stack.enter_context(running_proxy(proxy_yaml(*first, pool=pool)))
        board = stack.enter_context(board_of(proxy, 1)).upstreams
        client = stack.enter_context(proxy.connect("web"))
        wait_until(lambda: board.live(0) == 1, 10, "one that is connecting")
        reload(
            proxy,
            pools={"new": {"upstreams": [echoes[1].address]}},
            listeners={"web": {"bind": "127.0.0.1:0", "pool": "new"}},
        )
        assert read_until_reset(client) == b""
        [record] = proxy.wait_records(1)
        assert (record["why"], record["pool"]) == ("removed", "app")
        assert [board.live(slot) for slot in range(4)] == [0] * 4


def test_an_upstream_that_ends_without_a_byte_is_replaced_by_one_that_is_in_force() -> None:
    """The one that would have been next has left; the one that ends has another number now."""
    go = threading.Event()

    def handler(sock: socket.socket, _upstream: Upstream) -> None:
        sock.recv(5)
        go.wait(10)

    with serving("v4", handler) as quits, ExitStack() as stack:
        silent = stack.enter_context(upstreams.blackhole()).address
        echo = stack.enter_context(upstreams.echo())
        pool = {"replay": "1KiB", "eject": "off", "retries": 1}
        tiers = {"address": quits.address, "tier": 0}, {"address": silent, "tier": 1}
        proxy = stack.enter_context(running_proxy(proxy_yaml(*tiers, pool=pool)))
        board = stack.enter_context(board_of(proxy, 1)).upstreams
        client = stack.enter_context(proxy.connect("web"))
        client.sendall(b"hello")
        wait_until(lambda: quits.accepted, 10, "the first upstream")
        tiers = {"address": echo.address, "tier": 1}, {"address": quits.address, "tier": 0}
        reload(proxy, pools={"app": {**pool, "upstreams": tiers}})
        go.set()
        assert client.recv(10) == b"hello"
        client.close()
        [record] = proxy.wait_records(1)
        assert (record["upstream"], record["retries"]) == (echo.address, 1)
        assert [board.live(slot) for slot in range(5)] == [0] * 5
