"""PostgreSQL's negotiation with clients whose route depends on their SNI, by real sockets."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from harness.fds import same_fds
from harness.load import read_exactly, read_to_end
from harness.proxy import Proxy
from harness.serving import Upstream, serving
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

from spliceproxy.telemetry.board import SESSIONS
from spliceproxy.wire.postgres import GSSENC_REQUEST, SSL_REQUEST
from spliceproxy.wire.proxy_protocol import build_v2

STARTUP = bytes.fromhex("00000014 00030000") + b"user\0me\0\0\0\0\0"
CANCEL = bytes.fromhex("00000010 04d2162e 00000001 00000002")
ROUTES = [
    {"protocol": "postgres", "sni": ["one.example.com"], "pool": "one"},
    {"alpn": "postgresql", "pool": "direct"},
    {"sni": "*.example.com", "pool": "two"},
    {"protocol": "postgres", "pool": "plain"},
]
SHORT = {"timeouts": {"preread": "300ms"}}


@contextmanager
def server(letter: bytes, family: str = "v4") -> Iterator[Upstream]:
    """Answers S to SSLRequest, then tells its letter once bytes come, and reads to the end.
    Results: whether it was asked, and all bytes behind that."""

    def handler(sock: socket.socket, _upstream: Upstream) -> Any:
        first = read_exactly(sock, 1)
        asked = False
        if first == b"\0":
            first += read_exactly(sock, 7)
            asked = first == SSL_REQUEST
            if asked:
                sock.sendall(b"S")
                first = b""
        if not first:
            first = sock.recv(65536)
        if first:
            sock.sendall(letter)
        return asked, first + read_to_end(sock)

    with serving(family, handler) as upstream:
        yield upstream


@contextmanager
def routed(
    routes: Any = ROUTES, listener: dict[str, Any] | None = None, **more: Any
) -> Iterator[tuple[Proxy, dict[str, Upstream]]]:
    """A proxy with a server for each pool that the routes name, and one for the rest."""
    with ExitStack() as stack:
        names = sorted({"rest", *(route["pool"] for route in routes)})
        served = {name: stack.enter_context(server(name[:1].encode())) for name in names}
        pools = {name: {"upstreams": one.address} for name, one in served.items()}
        keys = {"bind": "127.0.0.1:0", "routes": routes, "pool": "rest", **(listener or {})}
        proxy = stack.enter_context(
            running_proxy(proxy_yaml(listeners={"web": keys}, pools=pools, **more))
        )
        yield proxy, served


def send_in_two(sock: socket.socket, data: bytes, cut: int) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for part in (data[:cut], data[cut:]):
        if part:
            sock.sendall(part)


def served_by(served: dict[str, Upstream], name: str) -> tuple[bool, bytes]:
    """What the only session of a server was; the others had none."""
    [result] = wait_until(lambda: served[name].results, 10, f"the end at {name}")
    assert {one: up.accepted for one, up in served.items() if up.accepted} == {name: 1}
    return bool(result[0]), bytes(result[1])


@pytest.mark.parametrize("gssenc", [False, True])
@pytest.mark.parametrize(
    ("name", "pool", "route"),
    [
        (b"one.example.com", "one", "routes[0]"),
        (b"two.example.com", "two", "routes[2]"),
        (b"example.org", "plain", "routes[3]"),
        (None, "plain", "routes[3]"),
    ],
)
def test_ssl_request_is_answered_and_the_name_in_tls_leads_to_a_pool(
    name: bytes | None, pool: str, route: str, gssenc: bool
) -> None:
    hello = hello_for(name)
    with routed() as (proxy, served):
        with proxy.connect("web") as client:
            if gssenc:
                client.sendall(GSSENC_REQUEST)
                assert client.recv(9) == b"N"
            client.sendall(SSL_REQUEST)
            assert client.recv(9) == b"S"
            client.sendall(hello)
            assert client.recv(9) == pool[:1].encode()
            client.shutdown(socket.SHUT_WR)
            assert client.recv(9) == b""
        assert served_by(served, pool) == (True, hello)
        check_record(
            one_record(proxy),
            pool=pool, route=route, upstream=served[pool].address,
            sni=None if name is None else name.decode(),
            bytes_up=len(hello), bytes_down=1, closed_by="client", how="fin", why="done",
        )  # fmt: skip


def test_every_split_has_the_same_answer() -> None:
    hello = hello_for(b"one.example.com", b"postgresql")
    splits = [(8, 8, cut) for cut in [*range(12), *range(12, len(hello), 31)]]
    splits += [(cut, 8, len(hello)) for cut in range(8)] + [
        (8, cut, len(hello)) for cut in range(8)
    ]
    with routed() as (proxy, served):
        for first, second, third in splits:
            with proxy.connect("web") as client:
                send_in_two(client, GSSENC_REQUEST, first)
                assert client.recv(9) == b"N"
                send_in_two(client, SSL_REQUEST, second)
                assert client.recv(9) == b"S"
                send_in_two(client, hello, third)
                assert client.recv(9) == b"o"
        proxy.wait_records(len(splits))
        wait_until(lambda: len(served["one"].results) == len(splits), 10, "all ends")
        assert set(served["one"].results) == {(True, hello)}


def test_bytes_one_by_one_arrive_too(tmp_path: Path) -> None:
    hello = hello_for(b"one.example.com")
    for bind in ("127.0.0.1:0", f"unix:{tmp_path}/s"):
        with routed(listener={"bind": bind}) as (proxy, served), proxy.connect("web") as client:
            for data, answer in ((GSSENC_REQUEST, b"N"), (SSL_REQUEST, b"S"), (hello, b"o")):
                if client.family != socket.AF_UNIX:
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for n in range(min(len(data), 50)):  # a UNIX socket holds some 70 unread ones
                    client.sendall(data[n : n + 1])
                client.sendall(data[50:])
                assert client.recv(9) == answer
            client.shutdown(socket.SHUT_WR)
            assert client.recv(9) == b""
            assert served_by(served, "one") == (True, hello)


@pytest.mark.parametrize("message", [STARTUP, CANCEL])
def test_a_client_that_goes_on_in_clear_reaches_its_server_unasked(message: bytes) -> None:
    with routed() as (proxy, served), proxy.connect("web") as client:
        client.sendall(GSSENC_REQUEST)
        assert client.recv(9) == b"N"
        client.sendall(message)
        assert client.recv(9) == b"p"
        client.shutdown(socket.SHUT_WR)
        assert client.recv(9) == b""
        assert served_by(served, "plain") == (False, message)
        assert one_record(proxy)["bytes_up"] == len(message)


def test_direct_tls_is_tls_and_nobody_is_asked() -> None:
    hello = hello_for(b"db.example.org", b"postgresql")
    with routed() as (proxy, served), proxy.connect("web") as client:
        client.sendall(hello)
        assert client.recv(9) == b"d"
        client.shutdown(socket.SHUT_WR)
        assert client.recv(9) == b""
        assert served_by(served, "direct") == (False, hello)
        assert one_record(proxy)["alpn"] == "postgresql"


@pytest.mark.parametrize("data", [SSL_REQUEST, GSSENC_REQUEST, STARTUP, CANCEL])
@pytest.mark.parametrize(
    "routes",
    [
        [{"protocol": "postgres", "pool": "one"}, {"sni": "*.example.com", "pool": "two"}],
        [
            {"protocol": ["tls", "ssh"], "sni": "*.example.com", "pool": "two"},
            {"alpn": "h2", "pool": "two"},
            {"protocol": "postgres", "pool": "one"},
        ],
        [
            {"source": "127.0.0.0/8", "protocol": "postgres", "pool": "one"},
            {"protocol": "postgres", "sni": "*.example.com", "pool": "two"},
        ],
        [
            {"source": "10.0.0.0/8", "protocol": "postgres", "sni": "a.org", "pool": "two"},
            {"protocol": "postgres", "pool": "one"},
        ],
    ],
)
def test_where_no_name_is_wanted_of_the_client_its_bytes_pass_untouched(
    routes: Any, data: bytes
) -> None:
    with ExitStack() as stack:

        def handler(sock: socket.socket, _upstream: Upstream) -> bytes:
            seen = read_exactly(sock, len(data))
            sock.sendall(b"G")
            return seen + read_to_end(sock)

        one = stack.enter_context(serving("v4", handler))
        pools = {"one": {"upstreams": one.address}, "two": {"upstreams": one.address}}
        listener = {"bind": "127.0.0.1:0", "routes": routes, "pool": "two"}
        proxy = stack.enter_context(
            running_proxy(proxy_yaml(listeners={"web": listener}, pools=pools))
        )
        with proxy.connect("web") as client:
            client.sendall(data)
            assert client.recv(9) == b"G"
            client.sendall(b" and more")
        assert wait_until(lambda: one.results, 10, "the end") == [data + b" and more"]
        assert one_record(proxy)["pool"] == "one"


@pytest.mark.parametrize(
    ("talk", "error"),
    [
        ([(SSL_REQUEST + b"\x16", b"")], "bytes came behind SSLRequest, before its answer"),
        ([(SSL_REQUEST + STARTUP, b"")], "bytes came behind SSLRequest, before its answer"),
        ([(SSL_REQUEST * 2, b"")], "bytes came behind SSLRequest, before its answer"),
        ([(GSSENC_REQUEST * 2, b"")], "bytes came behind GSSENCRequest, before its answer"),
        ([(GSSENC_REQUEST, b"N"), (GSSENC_REQUEST, b"")], "GSSENCRequest came twice"),
        ([(SSL_REQUEST, b"S"), (STARTUP, b"")], "no ClientHello followed SSLRequest"),
        ([(SSL_REQUEST, b"S"), (SSL_REQUEST, b"")], "no ClientHello followed SSLRequest"),
        ([(SSL_REQUEST, b"S"), (b"GET / HTTP/1.1\r\n", b"")], "no ClientHello followed SSLRequest"),
    ],
)  # fmt: skip
def test_what_no_client_may_send_is_refused_and_no_upstream_hears_of_it(
    talk: list[tuple[bytes, bytes]], error: str
) -> None:
    with routed() as (proxy, served):
        with proxy.connect("web") as client:
            for said, answer in talk:
                client.sendall(said)
                if answer:
                    assert client.recv(9) == answer
            assert read_until_reset(client) == b""
        check_record(
            one_record(proxy),
            phase="preread", pool=None, upstream=None, tls_error=error,
            closed_by="proxy", how="reset", why="tls_handshake",
        )  # fmt: skip
        assert not any(one.accepted for one in served.values())


def test_a_broken_hello_behind_ssl_request_is_for_the_upstream_to_refuse() -> None:
    broken = b"\x16\3\1\0\5\1\0\0\1\0"
    with routed() as (proxy, served), proxy.connect("web") as client:
        client.sendall(SSL_REQUEST)
        assert client.recv(9) == b"S"
        client.sendall(broken)
        assert client.recv(9) == b"p"
        client.close()
        assert served_by(served, "plain") == (True, broken)
        assert one_record(proxy)["route"] == "routes[3]"


@pytest.mark.parametrize(
    "talk",
    [
        [(SSL_REQUEST[:5], b"")],
        [(SSL_REQUEST, b"S")],
        [(GSSENC_REQUEST, b"N")],
        [(GSSENC_REQUEST, b"N"), (SSL_REQUEST, b"S")],
        [(GSSENC_REQUEST, b"N"), (SSL_REQUEST[:3], b"")],
        [(SSL_REQUEST, b"S"), (hello_for(b"one.example.com")[:100], b"")],
    ],
)
def test_a_client_that_stops_is_refused_in_time(talk: list[tuple[bytes, bytes]]) -> None:
    with routed(listener=SHORT) as (proxy, served):
        with proxy.connect("web") as client:
            for said, answer in talk:
                client.sendall(said)
                if answer:
                    assert client.recv(9) == answer
            assert read_until_reset(client) == b""
        record = one_record(proxy)
        assert (record["why"], record["phase"]) == ("preread_timeout", "preread")
        assert 250 < record["duration_ms"] < 3000
        assert not any(one.accepted for one in served.values())


def test_a_client_that_is_silent_from_the_beginning_goes_where_no_bytes_are_needed() -> None:
    with routed(listener=SHORT) as (proxy, served), proxy.connect("web") as client:
        wait_until(lambda: served["rest"].accepted, 10, "a session")
        client.sendall(b"hello")
        assert client.recv(9) == b"r"


@pytest.mark.parametrize(
    ("talk", "rest", "why"),
    [
        ([(SSL_REQUEST, b"S")], b"", "done"),
        ([(GSSENC_REQUEST, b"N")], b"", "done"),
        ([(SSL_REQUEST, b"S")], hello_for(None)[:100], "tls_handshake"),
        ([(GSSENC_REQUEST, b"N")], SSL_REQUEST[:7], "tls_handshake"),
    ],
    ids=["at once", "at once after GSSENC", "in a ClientHello", "in an SSLRequest"],
)
def test_a_client_that_leaves_after_an_answer_costs_no_upstream(
    talk: list[tuple[bytes, bytes]], rest: bytes, why: str
) -> None:
    with routed() as (proxy, served):
        with proxy.connect("web") as client:
            for said, answer in talk:
                client.sendall(said)
                assert client.recv(9) == answer
            client.sendall(rest)
        record = one_record(proxy)
        assert (record["why"], record["closed_by"] == "client") == (why, why == "done")
        said = "the client ended in the middle of its negotiation"
        assert record["tls_error"] == (None if why == "done" else said)
        assert not any(one.accepted for one in served.values())


@pytest.mark.parametrize("family", ["v4", "unix"])
def test_a_fin_right_behind_the_request_ends_the_session(family: str, tmp_path: Path) -> None:
    bind = "127.0.0.1:0" if family == "v4" else f"unix:{tmp_path}/s"
    with routed(listener={"bind": bind}) as (proxy, served):
        [worker] = proxy.worker_pids()
        for request in (SSL_REQUEST, GSSENC_REQUEST):
            os.kill(worker, signal.SIGSTOP)  # so that both come in one event
            with proxy.connect("web") as client:
                client.sendall(request)
                client.shutdown(socket.SHUT_WR)
                os.kill(worker, signal.SIGCONT)
                assert read_to_end(client) in (b"S", b"N")
        assert {record["why"] for record in proxy.wait_records(2)} == {"done"}
        assert not any(one.accepted for one in served.values())


def test_sni_hash_knows_the_names_of_postgresql_too() -> None:
    with ExitStack() as stack:
        served = [stack.enter_context(server(b"%d" % n)) for n in range(4)]
        proxy = stack.enter_context(
            running_proxy(
                proxy_yaml(*(one.address for one in served), pool={"balance": "sni_hash"})
            )
        )
        where: dict[int, bytes] = {}
        for _ in range(2):
            for n in range(12):
                with proxy.connect("web") as client:
                    client.sendall(SSL_REQUEST)
                    assert client.recv(9) == b"S"
                    client.sendall(hello_for(b"db%d.example.com" % n))
                    who = client.recv(9)
                    assert where.setdefault(n, who) == who
        assert len(set(where.values())) > 1


@pytest.mark.parametrize("together", [False, True])
def test_it_begins_behind_a_proxy_header(together: bool) -> None:
    header = build_v2(("203.0.113.9", 1), ("192.0.2.1", 2))
    accept = {"accept_proxy": {"from": "127.0.0.0/8"}}
    hello = hello_for(b"one.example.com")
    with routed(listener=accept) as (proxy, served), proxy.connect("web") as client:
        for part in (header + SSL_REQUEST,) if together else (header, SSL_REQUEST):
            client.sendall(part)
        assert client.recv(9) == b"S"
        client.sendall(hello)
        assert client.recv(9) == b"o"
        client.close()
        assert served_by(served, "one") == (True, hello)
        assert one_record(proxy)["client"] == "203.0.113.9:1"


def test_on_a_listener_with_certificates_tls_ends_here_and_what_is_in_clear_is_refused(
    tmp_path: Path,
) -> None:
    authority = trustme.CA()
    path = tmp_path / "www.pem"
    authority.issue_cert("db.example.com").private_key_and_cert_chain_pem.write_to_path(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    with routed(routes=[], listener={"tls": {"certificates": str(path)}}) as (proxy, served):
        with proxy.connect("web") as client:
            client.sendall(GSSENC_REQUEST)
            assert client.recv(9) == b"N"
            client.sendall(SSL_REQUEST)
            assert client.recv(9) == b"S"
            with context.wrap_socket(client, server_hostname="db.example.com") as tls:
                tls.sendall(STARTUP)
                assert tls.recv(9) == b"r"
                tls.unwrap()  # close_notify: a bare FIN would be a truncation
        assert served_by(served, "rest") == (False, STARTUP)
        with proxy.connect("web") as client:
            client.sendall(STARTUP)
            records = proxy.wait_records(2)
        assert [one["why"] for one in records] == ["done", "tls_handshake"]
        assert records[0]["tls_version"] == "TLSv1.3"
        assert served["rest"].accepted == 1


def test_clients_that_end_anywhere_leave_nothing_behind() -> None:
    talk = [GSSENC_REQUEST, SSL_REQUEST, hello_for(b"one.example.com")]
    whole = b"".join(talk)
    with routed(listener=SHORT) as (proxy, _), board_of(proxy, 1) as board:
        [worker] = proxy.worker_pids()
        with proxy.connect("web") as client:
            client.sendall(STARTUP)
            assert client.recv(9) == b"p"
        wait_until(lambda: board.total(SESSIONS) == 0, 5, "no session")
        with same_fds(worker):
            for end in range(0, len(whole), 7):
                with proxy.connect("web") as client:
                    left = end
                    for part in talk:
                        client.sendall(part[:left])
                        left -= len(part)
                        if left < 0:
                            break
                        client.recv(1)
            wait_until(lambda: board.total(SESSIONS) == 0, 10, "no session")
        assert proxy.worker_pids() == [worker]
