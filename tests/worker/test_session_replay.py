"""Retry before the first byte: the whole proxy, as its clients, its upstreams and its records see
it. Every byte and every order of events is looked at in tests/relay/test_trial.py."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from harness import upstreams
from harness.fds import open_fds
from harness.load import pump, read_exactly, read_to_end
from harness.proxy import Proxy
from harness.serving import Upstream, reset, serving
from harness.wait import wait_until
from session_support import (
    check_record,
    count_sockets,
    name_of,
    one_record,
    proxy_yaml,
    read_until_reset,
    running_proxy,
    worker_sockets,
)

from spliceproxy.telemetry.board import Board

LIMIT = 1024
REPLAY = {"replay": f"{LIMIT}B", "eject": "off"}
SEED = 20


def tiers(*served: Any) -> list[dict[str, Any]]:
    """Upstreams that are tried in this order."""
    return [{"address": one.address, "tier": tier} for tier, one in enumerate(served)]


def in_order(*served: Any, **pool: Any) -> str:
    return proxy_yaml(*tiers(*served), pool={**REPLAY, **pool})


@contextmanager
def quitter(size: int, ending: str, family: str = "v4") -> Iterator[Upstream]:
    """Reads `size` bytes, and ends without one of its own. Results: what it read."""

    def handler(sock: socket.socket, _upstream: Upstream) -> bytes:
        data = read_exactly(sock, size)
        if ending == "reset":
            reset(sock)
        return data

    with serving(family, handler) as upstream:
        yield upstream


@contextmanager
def answerer(size: int, family: str = "v4") -> Iterator[Upstream]:
    """Reads `size` bytes, answers, and waits for the client's end. Results: all that it read."""

    def handler(sock: socket.socket, _upstream: Upstream) -> bytes:
        data = read_exactly(sock, size)
        sock.sendall(b"answer")
        return data + read_to_end(sock)

    with serving(family, handler) as upstream:
        yield upstream


@pytest.mark.parametrize("family", upstreams.FAMILIES)
@pytest.mark.parametrize("ending", ["fin", "reset"])
@pytest.mark.parametrize("mode", ["adaptive", "splice"])
def test_the_next_upstream_gets_every_byte_and_the_record_tells_of_it(
    family: str, ending: str, mode: str
) -> None:
    with (
        quitter(LIMIT, ending, family) as first,
        answerer(LIMIT, family) as second,
        running_proxy(in_order(first, second) + f"relay: {{mode: {mode}}}\n") as proxy,
        proxy.connect("web") as client,
    ):
        sent = bytes(range(256)) * 4
        assert len(sent) == LIMIT
        peer, [local] = name_of(client), proxy.addresses("web")
        client.sendall(sent)
        assert client.recv(100) == b"answer"
        client.sendall(b" and more")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b""
        record = one_record(proxy)
        assert first.results in ([sent], [])  # a reset has ended the handler, or not yet
        wait_until(lambda: second.results, 10, "the upstream's end")
        assert second.results == [sent + b" and more"]
        spliced = {key: record[key] for key in ("spliced_up", "spliced_down")}
        if mode == "splice":
            assert spliced == {"spliced_up": 9, "spliced_down": 6}
    check_record(
        record,
        peer=peer,
        local=local,
        upstream=second.address,
        bytes_up=LIMIT + 9,
        bytes_down=6,
        retries=1,
        closed_by="client",
        how="fin",
        why="done",
        **spliced,
    )


def test_an_upstream_that_should_speak_first_and_does_not_is_replaced() -> None:
    with (
        quitter(0, "fin") as one,
        quitter(0, "reset") as two,
        upstreams.named("three") as three,
        running_proxy(in_order(one, two, three)) as proxy,
    ):
        for _ in range(20):
            with proxy.connect("web") as client:
                assert read_to_end(client) == b"three"
        assert {record["retries"] for record in proxy.wait_records(20)} == {2}
        assert one.accepted == two.accepted == three.accepted == 20


def test_each_replacement_is_one_of_the_retries() -> None:
    with (
        quitter(4, "fin") as one,
        quitter(4, "fin") as two,
        answerer(4) as three,
        running_proxy(in_order(one, two, three, retries=1)) as proxy,
        proxy.connect("web") as client,
    ):
        client.sendall(b"four")
        assert client.recv(100) == b""
        client.close()
        record = one_record(proxy)
        assert (record["retries"], record["upstream"]) == (1, two.address)
        assert (record["closed_by"], record["how"], record["why"]) == ("upstream", "fin", "done")
        assert (one.accepted, two.accepted, three.accepted) == (1, 1, 0)


def test_the_reset_of_the_last_upstream_reaches_the_client() -> None:
    with (
        quitter(4, "reset") as one,
        quitter(4, "reset") as two,
        running_proxy(in_order(one, two)) as proxy,
        proxy.connect("web") as client,
    ):
        client.sendall(b"four")
        assert read_until_reset(client) == b""
        record = one_record(proxy)
        assert (record["why"], record["closed_by"]) == ("upstream_reset", "upstream")
        assert (record["retries"], record["upstream"]) == (1, two.address)


def test_a_replacement_that_refuses_is_followed_by_the_next() -> None:
    with (
        quitter(4, "fin") as one,
        upstreams.refuse() as two,
        answerer(4) as three,
        running_proxy(in_order(one, two, three)) as proxy,
        proxy.connect("web") as client,
    ):
        client.sendall(b"four")
        assert client.recv(100) == b"answer"
        client.close()
        record = one_record(proxy)
        assert (record["retries"], record["upstream"]) == (2, three.address)


@pytest.mark.parametrize("family", ["v4", "unix"])
def test_with_nothing_left_but_refusals_the_session_ends_as_a_failed_connect(family: str) -> None:
    with (
        quitter(4, "fin") as one,
        upstreams.refuse(family) as two,
        running_proxy(in_order(one, two)) as proxy,
        proxy.connect("web") as client,
    ):
        peer, [local] = name_of(client), proxy.addresses("web")
        client.sendall(b"four")
        assert read_until_reset(client) == b""
        check_record(
            one_record(proxy),
            peer=peer,
            local=local,
            upstream=two.address,
            phase="connect",
            closed_by="proxy",
            how="reset",
            why="connect_refused",
            retries=1,
        )


def test_without_replay_nothing_is_sent_again() -> None:
    with (
        quitter(4, "fin") as one,
        answerer(4) as two,
        running_proxy(in_order(one, two, replay="off")) as proxy,
        proxy.connect("web") as client,
    ):
        client.sendall(b"four")
        assert client.recv(100) == b""
        assert two.accepted == 0


def test_a_large_body_is_never_sent_again() -> None:
    size = 5_000_000
    with (
        upstreams.sink() as one,
        upstreams.sink() as two,
        running_proxy(in_order(one, two)) as proxy,
        proxy.connect("web") as client,
    ):
        digest = pump(client, size, SEED)
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client).decode() == digest
        assert two.accepted == 0
        record = one_record(proxy)
        assert record["bytes_up"] == size
        assert record["spliced_up"] > size // 2


@pytest.mark.parametrize(
    ("timeout", "finished"), [("idle", False), ("half_close", True), ("session", False)]
)
def test_timeouts_hold_before_the_first_byte_too(timeout: str, finished: bool) -> None:
    with (
        quitter(4, "reset") as one,
        upstreams.stall() as two,
        running_proxy(in_order(one, two, timeouts={timeout: "300ms"})) as proxy,
        proxy.connect("web") as client,
    ):
        client.sendall(b"four")
        wait_until(lambda: two.accepted, 10, "another upstream")
        if finished:
            client.shutdown(socket.SHUT_WR)
        assert read_until_reset(client) == b""
        record = one_record(proxy)
        assert (record["phase"], record["why"]) == ("relay", f"{timeout}_timeout")
        assert (record["bytes_up"], record["retries"]) == (4, 1)
        assert 300 <= record["duration_ms"] < 2300


def test_a_long_trial_has_keepalive_with_its_second_upstream_as_well() -> None:
    with (
        answerer(4) as two,
        ExitStack() as stack,
    ):
        one = stack.enter_context(upstreams.stall())
        proxy = stack.enter_context(running_proxy(in_order(one, two)))
        client = stack.enter_context(proxy.connect("web"))
        client.sendall(b"four")
        [pid] = proxy.worker_pids()
        wait_until(lambda: kept_alive(pid, one.name[1]), 10, "keepalive with the first")
        one.stop()
        assert client.recv(100) == b"answer"
        assert kept_alive(pid, two.name[1])


def kept_alive(pid: int, port: Any) -> bool:
    """Whether the proxy probes its connection to that port."""
    with worker_sockets(pid) as socks:
        for sock in socks:
            try:
                if sock.getpeername()[1] == port:
                    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
            except OSError:
                continue
    return False


@contextmanager
def board_of(proxy: Proxy) -> Iterator[Board]:
    """The running proxy's own board."""
    number = next(fd for fd, target in open_fds(proxy.pid).items() if "spliceproxy-board" in target)
    fd = os.open(f"/proc/{proxy.pid}/fd/{number}", os.O_RDWR)
    try:
        yield Board(fd, 1)
    finally:
        os.close(fd)


def test_an_upstream_that_was_left_has_no_session_any_more_and_no_fd_is_lost() -> None:
    with (
        quitter(4, "reset") as one,
        quitter(4, "fin") as two,
        upstreams.stall() as three,
        running_proxy(in_order(one, two, three)) as proxy,
        board_of(proxy) as board,
        ExitStack() as clients,
    ):
        [pid] = proxy.worker_pids()
        before = count_sockets(pid)
        slots = range(len(board.upstreams.sessions[0]))
        for number in (1, 10):
            while three.accepted < number:
                waiting = three.accepted
                client = clients.enter_context(proxy.connect("web"))
                client.sendall(b"four")
                wait_until(lambda n=waiting: three.accepted > n, 10, "the third upstream")
            live = sorted(board.upstreams.live(slot) for slot in slots)
            assert [count for count in live if count] == [number, number]  # upstream and pool
        wait_until(lambda: count_sockets(pid) == before + 20, 10, "two sockets for each session")
        clients.close()
        three.stop()
        proxy.wait_records(10)
        wait_until(lambda: count_sockets(pid) == before, 10, "the sockets closed")
        assert not any(board.upstreams.live(slot) for slot in slots)


@pytest.mark.parametrize(("ending", "counts"), [("fin", True), ("reset", False)])
def test_an_end_by_fin_counts_as_an_early_close_though_the_client_is_served(
    ending: str, counts: bool
) -> None:
    eject = {"on": ["early_close"], "after": 3, "time": "60s", "at_most": "50%"}
    with (
        quitter(4, ending) as one,
        answerer(4) as two,
        running_proxy(in_order(one, two, eject=eject)) as proxy,
    ):
        for number in range(6):
            with proxy.connect("web") as client:
                client.sendall(b"four")
                assert client.recv(100) == b"answer"
            if number == 2 and counts:
                told = proxy.wait_log("upstream ejected")
                assert (told["upstream"], told["reason"]) == (one.address, "early_close")
        assert bool(proxy.log("upstream ejected")) == counts
        assert one.accepted == (3 if counts else 6)


def test_an_upstream_that_is_full_replaces_nobody() -> None:
    with (
        quitter(4, "fin") as one,
        upstreams.stall() as two,
        running_proxy(
            proxy_yaml(
                {"address": one.address},
                {"address": two.address, "tier": 1, "max_sessions": 1},
                pool=REPLAY,
            )
        ) as proxy,
        proxy.connect("web") as waiting,
        proxy.connect("web") as client,
    ):
        waiting.sendall(b"four")
        wait_until(lambda: two.accepted, 10, "the second upstream")
        client.sendall(b"four")
        assert client.recv(100) == b""
        client.close()
        assert one_record(proxy)["retries"] == 0
