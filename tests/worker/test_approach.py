"""What upstreams are asked between connect and relay, and which of them a session leaves for it."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from harness.fds import context_switches, cpu_seconds, same_fds
from harness.load import read_exactly, read_to_end
from harness.proxy import Proxy
from harness.proxy_header import take_header
from harness.serving import FAMILIES, HOLD, Upstream, reset, serving
from harness.wait import wait_until
from session_support import (
    board_of,
    check_record,
    one_record,
    proxy_yaml,
    read_until_reset,
    running_proxy,
)
from test_intake_routes import hello_for

from spliceproxy.relay.relay import interest
from spliceproxy.telemetry.board import SESSIONS
from spliceproxy.wire.postgres import SSL_REQUEST
from spliceproxy.worker.approach import Announce, Approach, ApproachError, AskForTls
from spliceproxy.worker.loop import Loop

HELLO = hello_for(b"db.example.com")
ROUTES = [{"protocol": "postgres", "sni": "db.example.com", "pool": "app"}]
DATA_SEGMENTS_IN = slice(152, 156)
"""tcpi_data_segs_in, linux/tcp.h."""


def asked(then: Callable[[socket.socket], Any], header: bool = False) -> Any:
    """A handler that takes SSLRequest, and goes on with `then`. Counted by `accepted`."""

    def handler(sock: socket.socket, _upstream: Upstream) -> Any:
        told = take_header(sock) if header else None
        request = read_exactly(sock, 8)
        assert request == SSL_REQUEST, request
        found = then(sock)
        return (told, found) if header else found

    return handler


def refuse(sock: socket.socket) -> bytes:
    sock.sendall(b"N")
    return read_to_end(sock)


def accept(sock: socket.socket) -> bytes:
    sock.sendall(b"S")
    first = sock.recv(65536)
    sock.sendall(b"hello of a server")
    return first + read_to_end(sock)


def close(_sock: socket.socket) -> bytes:
    return b"closed"


def stay_silent(_sock: socket.socket) -> object:
    return HOLD


def say_error(sock: socket.socket) -> bytes:
    sock.sendall(b"E" + b"FATAL: no".ljust(200))
    return read_to_end(sock)


def tiers(*served: Upstream) -> list[dict[str, Any]]:
    return [{"address": one.address, "tier": tier} for tier, one in enumerate(served)]


@contextmanager
def before(*served: Upstream, top: dict[str, Any] | None = None, **pool: Any) -> Iterator[Proxy]:
    """A proxy that tries these in order."""
    text = proxy_yaml(
        *tiers(*served), pool={"eject": "off", **pool}, listener={"routes": ROUTES}, **(top or {})
    )
    with running_proxy(text) as proxy:
        yield proxy


@contextmanager
def client_of(proxy: Proxy, hello: bytes = HELLO) -> Iterator[socket.socket]:
    """A client that has sent its ClientHello."""
    with proxy.connect("web") as client:
        client.sendall(SSL_REQUEST)
        assert client.recv(2) == b"S"
        client.sendall(hello)
        yield client


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("send_proxy", ["off", "v1", "v2"])
@pytest.mark.parametrize(
    ("mode", "replay"), [("adaptive", "off"), ("splice", "off"), ("adaptive", "16KiB")]
)
def test_the_upstream_is_asked_behind_its_header_and_gets_the_hello_after_its_answer(
    family: str, send_proxy: str, replay: str, mode: str
) -> None:
    with (
        serving(family, asked(accept, send_proxy != "off")) as upstream,
        before(
            upstream, send_proxy=send_proxy, replay=replay, top={"relay": {"mode": mode}}
        ) as proxy,
        client_of(proxy) as client,
    ):
        name, local = client.getsockname(), client.getpeername()
        assert read_exactly(client, 17) == b"hello of a server"
        client.sendall(b" and more")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(9) == b""
        [result] = wait_until(lambda: upstream.results, 10, "the upstream's end")
        record = one_record(proxy)
        if send_proxy != "off":
            header, result = result
            assert (header.source, header.destination) == (name, local)
            if send_proxy == "v2":
                assert header.tlvs.authority == "db.example.com"
                assert header.tlvs.unique_id == record["session"].encode()
        assert result == HELLO + b" and more"
        spliced = {key: record[key] for key in ("spliced_up", "spliced_down")}
        check_record(
            record,
            route="routes[0]", upstream=upstream.address, sni="db.example.com",
            bytes_up=len(HELLO) + 9, bytes_down=17,
            closed_by="client", how="fin", why="done", **spliced,
        )  # fmt: skip


def test_header_and_request_leave_in_one_segment() -> None:
    segments: list[int] = []

    def then(sock: socket.socket) -> bytes:
        told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
        segments.append(int.from_bytes(told[DATA_SEGMENTS_IN], "little"))
        return accept(sock)

    with (
        serving("v4", asked(then, True)) as upstream,
        before(upstream, send_proxy="v2") as proxy,
        client_of(proxy) as client,
    ):
        assert read_exactly(client, 17) == b"hello of a server"
    assert segments == [1]


FAILURES = [
    (refuse, "tls_handshake", "the upstream refuses TLS (N)"),
    (say_error, "tls_handshake", "the upstream answers SSLRequest by byte 45"),
    (close, "tls_handshake", "the upstream closed before it answered SSLRequest"),
    (reset, "tls_handshake", "no answer to SSLRequest: Connection reset by peer"),
    (stay_silent, "connect_timeout", "no answer to SSLRequest"),
]


@pytest.mark.parametrize("family", ["v4", "unix"])
@pytest.mark.parametrize(("then", "why", "error"), FAILURES)
def test_an_upstream_that_does_not_accept_is_left_for_another_one(
    then: Callable[[socket.socket], Any], why: str, error: str, family: str
) -> None:
    if then is reset and family == "unix":
        error = "the upstream closed before it answered SSLRequest"
    short = {"timeouts": {"connect": "300ms"}}
    with (
        serving(family, asked(then)) as bad,
        serving(family, asked(then)) as worse,
        serving(family, asked(accept)) as good,
    ):
        with before(bad, worse, good, **short) as proxy, client_of(proxy) as client:
            assert read_exactly(client, 17) == b"hello of a server"
            client.close()
            record = one_record(proxy)
            assert (record["upstream"], record["retries"]) == (good.address, 2)
            assert record["tls_error"] is None
            assert (record["why"], record["closed_by"]) == ("done", "client")
        with before(bad, worse, **short) as proxy:
            with client_of(proxy) as client:
                assert read_until_reset(client) == b""
            check_record(
                one_record(proxy),
                route="routes[0]", upstream=worse.address, sni="db.example.com", retries=1,
                phase="connect", closed_by="proxy", how="reset", why=why, tls_error=error,
            )  # fmt: skip
        assert (bad.accepted, worse.accepted, good.accepted) == (2, 2, 1)


def test_what_an_upstream_failed_by_is_not_told_of_the_next_one() -> None:
    with serving("v4", asked(refuse)) as one, serving("v4", refuse) as two:
        two.stop()
        with before(one, two) as proxy:
            with client_of(proxy) as client:
                assert read_until_reset(client) == b""
            record = one_record(proxy)
    assert (record["why"], record["tls_error"]) == ("connect_refused", None)


@pytest.mark.parametrize(("then", "why", "error"), [FAILURES[0], FAILURES[4]])
def test_it_counts_for_ejection_as_a_failed_connect_does(
    then: Callable[[socket.socket], Any], why: str, error: str
) -> None:
    eject = {"on": ["connect"], "after": 3, "time": "60s", "at_most": "50%"}
    with (
        serving("v4", asked(then)) as bad,
        serving("v4", asked(accept)) as good,
        before(bad, good, eject=eject, timeouts={"connect": "200ms"}) as proxy,
    ):
        for number in range(5):
            with client_of(proxy) as client:
                assert read_exactly(client, 17) == b"hello of a server", error
            if number == 2:
                told = proxy.wait_log("upstream ejected")
                assert (told["upstream"], told["reason"]) == (bad.address, why)
        assert (bad.accepted, good.accepted) == (3, 5)


def test_one_that_accepts_is_forgiven_what_it_failed_before() -> None:
    turns = iter([refuse, refuse, accept] * 3)
    eject = {"on": ["connect"], "after": 3, "time": "60s", "at_most": "100%"}
    with (
        serving("v4", asked(lambda sock: next(turns)(sock))) as upstream,
        before(upstream, eject=eject) as proxy,
    ):
        for number in range(9):
            with client_of(proxy) as client:
                if number % 3 == 2:
                    assert read_exactly(client, 17) == b"hello of a server"
                else:
                    assert read_until_reset(client) == b""
        assert not proxy.log("upstream ejected")


@pytest.mark.parametrize("replay", ["off", "16KiB"])
@pytest.mark.parametrize("family", FAMILIES)
def test_of_its_answer_one_byte_is_taken_and_the_rest_is_the_clients(
    family: str, replay: str
) -> None:
    def hasty(sock: socket.socket) -> bytes:
        sock.sendall(b"Smore than one byte")
        return read_to_end(sock)

    with (
        serving(family, asked(hasty)) as upstream,
        before(upstream, replay=replay) as proxy,
        client_of(proxy) as client,
    ):
        assert read_exactly(client, 18) == b"more than one byte"
        client.close()
        assert wait_until(lambda: upstream.results, 10, "the end") == [HELLO]


@pytest.mark.parametrize("ending", ["fin", "reset"])
@pytest.mark.parametrize("send_proxy", ["off", "v2"])
def test_each_upstream_that_replaces_another_one_is_asked_again(
    ending: str, send_proxy: str
) -> None:
    header = send_proxy != "off"

    def quit_after_hello(sock: socket.socket) -> bytes:
        sock.sendall(b"S")
        data = read_exactly(sock, len(HELLO))
        if ending == "reset":
            reset(sock)
        return data

    with (
        serving("v4", asked(quit_after_hello, header)) as one,
        serving("unix", asked(quit_after_hello, header)) as two,
        serving("v6", asked(refuse, header)) as three,
        serving("v4", asked(accept, header)) as four,
        before(one, two, three, four, replay="16KiB", retries=3, send_proxy=send_proxy) as proxy,
        client_of(proxy) as client,
    ):
        assert read_exactly(client, 17) == b"hello of a server"
        client.sendall(b" and more")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(9) == b""
        record = one_record(proxy)
        [result] = wait_until(lambda: four.results, 10, "the end")
        assert (result[1] if header else result) == HELLO + b" and more"
        assert (record["retries"], record["bytes_up"]) == (3, len(HELLO) + 9)
        assert record["tls_error"] is None
        assert {one.accepted, two.accepted, three.accepted, four.accepted} == {1}


def test_a_silent_upstream_costs_nothing_while_it_is_waited_for() -> None:
    with (
        serving("v4", asked(stay_silent)) as upstream,
        serving("unix", asked(stay_silent)) as local,
        ExitStack() as stack,
    ):
        for one in (upstream, local):
            proxy = stack.enter_context(before(one, timeouts={"connect": "30s"}))
            [worker] = proxy.worker_pids()
            with client_of(proxy) as client:
                wait_until(lambda one=one: one.accepted, 10, "the upstream")  # type: ignore[misc]
                client.sendall(b"more that nobody reads yet")
                woken, busy = context_switches(worker), cpu_seconds(worker)
                over = threading.Event()
                assert not over.wait(1.0)
                assert context_switches(worker) - woken < 30
                assert cpu_seconds(worker) - busy < 0.2


def test_sessions_that_end_in_the_middle_leave_nothing_behind_and_hold_no_place() -> None:
    linger = (1).to_bytes(4, "little") + bytes(4)
    with (
        serving("v4", asked(stay_silent)) as silent,
        serving("v4", asked(refuse)) as bad,
        before(silent, timeouts={"connect": "30s"}) as proxy,
        serving("v6", asked(refuse)) as worse,
        before(bad, worse) as other,
        board_of(proxy, 1) as board,
        board_of(other, 1) as others,
    ):
        [worker], [other_worker] = proxy.worker_pids(), other.worker_pids()
        with client_of(other) as client:
            assert read_until_reset(client) == b""
        with same_fds(worker), same_fds(other_worker):
            for number in range(20):
                with client_of(proxy) as client, client_of(other) as loser:
                    wait_until(lambda n=number: silent.accepted > n, 10, "a try")  # type: ignore[misc]
                    assert read_until_reset(loser) == b""
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            wait_until(lambda: board.total(SESSIONS) == 0, 10, "no session")
            wait_until(lambda: others.total(SESSIONS) == 0, 10, "no session")
        for one in (board, others):
            slots = range(len(one.upstreams.sessions[0]))
            assert not any(one.upstreams.live(slot) for slot in slots)
        assert {record["why"] for record in proxy.wait_records(20)} == {"client_reset"}


def test_who_waited_in_the_queue_has_its_upstream_asked_too() -> None:
    with (
        serving("v4", asked(accept)) as upstream,
        running_proxy(
            proxy_yaml(
                {"address": upstream.address, "max_sessions": 1},
                pool={"queue": {"timeout": "30s"}},
                listener={"routes": ROUTES},
            )
        ) as proxy,
        client_of(proxy) as first,
    ):
        assert read_exactly(first, 17) == b"hello of a server"
        with client_of(proxy) as second:
            first.close()
            assert read_exactly(second, 17) == b"hello of a server"


def test_a_reload_in_the_middle_of_it_leaves_the_session_its_upstream() -> None:
    go_on = threading.Event()

    def late(sock: socket.socket) -> bytes:
        assert go_on.wait(10)
        return accept(sock)

    with (
        serving("v4", asked(late)) as upstream,
        serving("v4", asked(accept)) as other,
        before(upstream) as proxy,
        client_of(proxy) as client,
    ):
        wait_until(lambda: upstream.accepted, 10, "the upstream")
        text = proxy.config.read_text()
        proxy.config.write_text(text.replace(upstream.address, other.address))
        proxy.signal(signal.SIGHUP)
        proxy.wait_log("reloaded")
        go_on.set()
        assert read_exactly(client, 17) == b"hello of a server"
        client.close()
        assert one_record(proxy)["upstream"] == upstream.address
        with client_of(proxy) as later:
            assert read_exactly(later, 17) == b"hello of a server"
        assert (upstream.accepted, other.accepted) == (1, 1)


def test_an_answer_that_is_there_before_the_worker_looks_is_enough() -> None:
    """One batch of events may bring the connect, the answer and what follows it."""

    def eager(sock: socket.socket, _upstream: Upstream) -> bytes:
        sock.sendall(b"Searly")
        return read_to_end(sock)

    with serving("v4", eager) as upstream, before(upstream) as proxy:
        [worker] = proxy.worker_pids()
        for _ in range(10):
            with proxy.connect("web") as client:
                client.sendall(SSL_REQUEST)
                assert client.recv(2) == b"S"
                os.kill(worker, signal.SIGSTOP)
                client.sendall(HELLO)
                os.kill(worker, signal.SIGCONT)
                assert read_exactly(client, 5) == b"early"
        wait_until(lambda: len(upstream.results) == 10, 10, "all ends")
        assert set(upstream.results) == {SSL_REQUEST + HELLO}


def no_turn() -> None:
    """These steps wait for none."""
    raise AssertionError


@contextmanager
def full_pair() -> Iterator[tuple[Loop, socket.socket, socket.socket, int]]:
    """A registered UNIX socket that takes no byte more, its peer, and how many it took."""

    def raise_it(_owner: object, error: Exception) -> None:
        raise error

    near, far = socket.socketpair()
    loop = Loop(raise_it)
    with near, far:
        near.setblocking(False)
        far.settimeout(10)
        taken = 0
        try:
            while True:
                taken += near.send(bytes(65536))
        except BlockingIOError:
            pass
        loop.add(near.fileno(), interest(near.family), lambda _events: None)
        try:
            yield loop, near, far, taken
        finally:
            loop.close()


def test_a_full_unix_socket_is_asked_for_room_for_so_long_and_no_longer() -> None:
    with full_pair() as (loop, near, far, taken):
        approach = Approach(near, loop, [Announce(b"header of " * 10), AskForTls()], no_turn)
        over: list[bool] = []

        def go_on(events: int) -> None:
            over.append(approach.go_on(events))
            loop.stop()

        loop.set_handler(near.fileno(), go_on)
        assert not approach.go_on(0)
        assert approach.waits_for == "no room for the PROXY header"
        assert read_exactly(far, taken) == bytes(taken)
        loop.run()  # room
        assert read_exactly(far, 108) == b"header of " * 10 + SSL_REQUEST
        assert approach.waits_for == "no answer to SSLRequest"
        over.clear()
        far.sendall(b"Smore")
        loop.run()
        assert over == [True]
        assert near.recv(9) == b"more"
        far.sendall(b"x")
        loop.run()  # one event for the byte, and none for the room that was made
        assert over == [True, True]
        assert near.recv(9) == b"x"


def test_what_a_closed_socket_says_is_the_error_of_the_step() -> None:
    with full_pair() as (loop, near, far, _):
        far.close()
        with pytest.raises(ApproachError, match="no room for the PROXY header: Broken pipe"):
            Approach(near, loop, [Announce(b"header"), AskForTls()], no_turn).go_on(0)
