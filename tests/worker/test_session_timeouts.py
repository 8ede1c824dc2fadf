"""Timeouts of a session: connect, idle, half_close and total age, as both peers and the record see
them."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest
from harness import upstreams
from harness.load import read_to_end
from harness.serving import Upstream, serving
from harness.wait import wait_until
from session_support import (
    check_record,
    exchange,
    name_of,
    one_record,
    proxy_yaml,
    running_proxy,
    wait_broken,
)
from session_support import read_until_reset as until_reset

LATE = 2000.0
"""Milliseconds by which a busy machine may be late."""


def pool(**timeouts: str) -> dict[str, Any]:
    return {"timeouts": timeouts}


def test_a_silent_upstream_costs_the_connect_timeout_and_the_client_gets_a_reset() -> None:
    with (
        upstreams.blackhole() as silent,
        running_proxy(proxy_yaml(silent.address, pool=pool(connect="300ms"))) as proxy,
        proxy.connect("web") as client,
    ):
        peer, [local] = name_of(client), proxy.addresses("web")
        assert until_reset(client) == b""
        record = one_record(proxy)
    assert 300 <= record["duration_ms"] < 300 + LATE
    check_record(
        record,
        peer=peer,
        local=local,
        upstream=silent.address,
        phase="connect",
        closed_by="proxy",
        how="reset",
        why="connect_timeout",
    )


def test_after_the_connect_timeout_another_upstream_serves() -> None:
    with (
        upstreams.blackhole() as silent,
        upstreams.named("well") as well,
        running_proxy(
            proxy_yaml(silent.address, well.address, pool=pool(connect="200ms"))
        ) as proxy,
    ):
        for _ in range(2):  # at least one of two sessions begins with the silent one
            with proxy.connect("web") as client:
                assert read_to_end(client) == b"well"
        records = proxy.wait_records(2)
    slow = next(record for record in records if record["retries"])
    assert slow["duration_ms"] >= 200
    check_record(
        slow,
        upstream=well.address,
        retries=1,
        bytes_down=4,
        closed_by="upstream",
        how="fin",
        why="done",
    )
    assert slow["connect_ms"] < 200, "the time of the try that succeeded"


def test_the_session_timeout_holds_while_connecting_too() -> None:
    timeouts = pool(connect="off", session="300ms")
    with (
        upstreams.blackhole() as silent,
        running_proxy(proxy_yaml(silent.address, pool=timeouts)) as proxy,
        proxy.connect("web") as client,
    ):
        assert until_reset(client) == b""
        record = one_record(proxy)
    assert 300 <= record["duration_ms"] < 300 + LATE
    check_record(
        record,
        upstream=silent.address,
        phase="connect",
        closed_by="proxy",
        how="reset",
        why="session_timeout",
    )


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_silence_in_both_directions_ends_a_session_with_a_reset_to_both(family: str) -> None:
    with (
        upstreams.echo(family) as echo,
        running_proxy(proxy_yaml(echo.address, pool=pool(idle="300ms"))) as proxy,
        proxy.connect("web") as client,
    ):
        assert exchange(client, b"hello") == b"hello"
        assert until_reset(client) == b""
        record = one_record(proxy)
        [error] = wait_until(lambda: echo.errors, 5, "the upstream's reset")
    assert isinstance(error, ConnectionResetError)
    assert 300 <= record["duration_ms"] < 300 + LATE
    check_record(
        record,
        upstream=echo.address,
        bytes_up=5,
        bytes_down=5,
        closed_by="proxy",
        how="reset",
        why="idle_timeout",
    )


def test_an_idle_session_on_unix_sockets_ends_with_a_close() -> None:
    with (
        upstreams.echo("unix") as echo,
        running_proxy(
            proxy_yaml(echo.address, bind="unix:@idle-session-test", pool=pool(idle="200ms"))
        ) as proxy,
        proxy.connect("web") as client,
    ):
        assert client.recv(1) == b"", "UNIX sockets know no reset"
        assert wait_until(lambda: echo.results, 5, "the upstream's EOF") == [0]
        record = one_record(proxy)
    check_record(
        record,
        peer="unix:",
        local="unix:@idle-session-test",
        upstream=echo.address,
        closed_by="proxy",
        how="reset",
        why="idle_timeout",
    )


def test_traffic_in_one_direction_keeps_a_session_from_being_idle() -> None:
    with (
        upstreams.trickle(20, 1, pause=0.05) as upstream,
        running_proxy(proxy_yaml(upstream.address, pool=pool(idle="300ms"))) as proxy,
        proxy.connect("web") as client,
    ):
        assert len(read_to_end(client)) == 20
        client.close()
        record = one_record(proxy)
    assert record["duration_ms"] >= 20 * 50 > 3 * 300
    check_record(
        record,
        upstream=upstream.address,
        bytes_down=20,
        closed_by="upstream",
        how="fin",
        why="done",
    )


def test_half_close_counts_silence_and_not_age() -> None:
    timeouts = pool(half_close="300ms", idle="1h")
    with (
        upstreams.trickle(20, 1, pause=0.05) as upstream,
        running_proxy(proxy_yaml(upstream.address, pool=timeouts)) as proxy,
        proxy.connect("web") as client,
    ):
        client.sendall(b"a request")
        client.shutdown(socket.SHUT_WR)
        assert len(read_to_end(client)) == 20
        record = one_record(proxy)
    assert record["duration_ms"] >= 20 * 50 > 3 * 300
    check_record(
        record,
        upstream=upstream.address,
        bytes_up=9,
        bytes_down=20,
        closed_by="client",
        how="fin",
        why="done",
    )


def test_silence_after_the_clients_fin_ends_the_session() -> None:
    def answer_and_wait(sock: socket.socket, _upstream: Upstream) -> int:
        read_to_end(sock)
        sock.sendall(b"part of an answer")
        wait_broken(sock)
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    with (
        serving("v4", answer_and_wait) as upstream,
        running_proxy(
            proxy_yaml(upstream.address, pool=pool(half_close="300ms", idle="1h"))
        ) as proxy,
        proxy.connect("web") as client,
    ):
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        assert until_reset(client) == b"part of an answer"
        record = one_record(proxy)
        [error] = wait_until(lambda: upstream.results, 5, "the upstream's reset")
    assert error == errno.EPIPE, "a reset, where a FIN came before"
    assert 300 <= record["duration_ms"] < 300 + LATE
    check_record(
        record,
        upstream=upstream.address,
        bytes_up=8,
        bytes_down=17,
        closed_by="proxy",
        how="reset",
        why="half_close_timeout",
    )


def test_silence_after_the_upstreams_fin_ends_the_session() -> None:
    with (
        upstreams.half_close() as upstream,
        running_proxy(
            proxy_yaml(upstream.address, pool=pool(half_close="300ms", idle="1h"))
        ) as proxy,
        proxy.connect("web") as client,
    ):
        assert read_to_end(client) == b"enough\n"
        record = one_record(proxy)
        [error] = wait_until(lambda: upstream.errors, 5, "the upstream's reset")
        wait_broken(client)
        with pytest.raises(BrokenPipeError):  # a reset, where a FIN came before
            client.sendall(b"x")
    assert isinstance(error, ConnectionResetError)
    check_record(
        record,
        upstream=upstream.address,
        bytes_down=7,
        closed_by="proxy",
        how="reset",
        why="half_close_timeout",
    )


def test_the_session_timeout_counts_age_whatever_the_traffic() -> None:
    timeouts = pool(session="500ms", idle="300ms")
    with (
        upstreams.trickle(10_000, 1, pause=0.02) as upstream,
        running_proxy(proxy_yaml(upstream.address, pool=timeouts)) as proxy,
        proxy.connect("web") as client,
    ):
        received = len(until_reset(client))
        record = one_record(proxy)
    assert 500 <= record["duration_ms"] < 500 + LATE
    check_record(
        record,
        upstream=upstream.address,
        bytes_down=received,
        closed_by="proxy",
        how="reset",
        why="session_timeout",
    )


def test_timeouts_that_are_off_end_nothing() -> None:
    timeouts = pool(idle="off", half_close="off", session="off", connect="off")
    with (
        upstreams.echo() as echo,
        running_proxy(proxy_yaml(echo.address, pool=timeouts)) as proxy,
        proxy.connect("web") as client,
    ):
        assert exchange(client, b"one") == b"one"
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(10)
        assert exchange(client, b"two") == b"two"
