"""Each kind of check against upstreams that answer well, badly and not at all."""

from __future__ import annotations

import datetime
import socket
import ssl
from contextlib import suppress

import pytest
import trustme
from harness.health import FAST, rig, run
from harness.serving import FAMILIES, Handler, Upstream, serving

from spliceproxy.config import units
from spliceproxy.control.health.certificate import expiry

SSL_REQUEST = bytes.fromhex("0000000804d2162f")


def answering(request: bytes, answer: bytes, greeting: bytes = b"") -> Handler:
    """Greets, waits for exactly `request`, answers and reads to the end. Results: the rest."""

    def handler(sock: socket.socket, _upstream: Upstream) -> bytes:
        sock.sendall(greeting)
        received = b""
        while len(received) < len(request) and (data := sock.recv(65536)):
            received += data
        if received[: len(request)] == request:
            sock.sendall(answer)
        while data := sock.recv(65536):
            received += data
        return received[len(request) :]

    return handler


def tls_context(days: float = 365) -> ssl.SSLContext:
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    certificate = trustme.CA().issue_cert("pg.example.com", not_after=end)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def tls(context: ssl.SSLContext, request: bytes = b"", answer: bytes = b"") -> Handler:
    """Answers a request in clear, then makes the handshake and reads to the end of TLS and TCP.
    Results: what TLS brought, and whether it ended with close_notify."""

    def handler(sock: socket.socket, _upstream: Upstream) -> tuple[bytes, bool]:
        assert not request or sock.recv(len(request)) == request
        sock.sendall(answer)
        inner = context.wrap_socket(sock.dup(), server_side=True, suppress_ragged_eofs=False)
        with inner:
            try:
                received = inner.recv(65536)
                polite = True
            except ssl.SSLEOFError:
                received, polite = b"", False
        while sock.recv(65536):
            pass
        return received, polite

    return handler


def hang_up(sock: socket.socket, _upstream: Upstream) -> None:
    """Closes at the first bytes."""
    sock.recv(65536)


GOOD = [
    ("redis", {}, answering(b"PING\r\n", b"+PONG\r\n")),
    ("redis", {}, answering(b"PING\r\n", b"-NOAUTH Authentication required.\r\n")),
    ("postgres", {}, answering(SSL_REQUEST, b"N")),
    ("smtp", {}, answering(b"QUIT\r\n", b"221 bye\r\n", b"220-mail\r\n220 ready\r\n")),
    ("exchange", {"send": r"a\x00\r\n\\"}, answering(b"a\0\r\n\\", b"x")),
    ("exchange", {"send": "hex:00ff", "expect": "hex:fe"}, answering(b"\0\xff", b"\0\xfe\1")),
    ("exchange", {"expect": "ready"}, answering(b"", b"", b"server " * 1000 + b"ready\n")),
    ("http", {}, answering(b"GET / HTTP/1.1\r\n", b"HTTP/1.1 204 fine\r\n\r\n")),
    (
        "http",
        {"path": "/a?b=%20", "expect": "^o[kK]$$"},
        answering(b"GET /a?b=%20 HTTP/1.1\r\n", b"HTTP/1.1 200 x\r\nContent-Length: 2\r\n\r\nok"),
    ),
    (
        "http",
        {"status": ["401", "500-502"]},
        answering(b"GET / ", b"HTTP/1.1 401 no\r\nContent-Length: 0\r\n\r\n"),
    ),
]

BAD = [
    (
        "redis",
        {},
        answering(b"PING\r\n", b"-LOADING a lot\r\n"),
        'answered "-LOADING a lot" to PING',
    ),
    ("redis", {}, hang_up, "closed without an answer"),
    ("postgres", {}, answering(SSL_REQUEST, b"E"), 'answered "E" to SSLRequest'),
    ("postgres", {}, hang_up, "closed without an answer"),
    ("smtp", {}, answering(b"QUIT\r\n", b"", b"421 later\r\n"), 'greeted with "421 later"'),
    (
        "exchange",
        {"send": "INFO", "expect": "role:master"},
        answering(b"INFO", b"role:slave\r\n"),
        "timeout after 0.4 s",
    ),
    (
        "exchange",
        {"send": "INFO", "expect": "role:master"},
        lambda sock, _: sock.recv(4) and sock.sendall(b"role:slave\r\n"),
        'answered "role:slave\\r\\n" without "role:master"',
    ),
    ("tls", {}, answering(b"", b"", b"220 mail\r\n"), "TLS handshake: wrong version number"),
    ("tls", {}, hang_up, "closed during the TLS handshake"),
    ("http", {}, answering(b"GET /", b"HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n"), "status 503"),
    (
        "http",
        {"expect": "fine"},
        answering(b"GET /", b"HTTP/1.1 200 x\r\nContent-Length: 3\r\n\r\nbad"),
        'status 200, but no "fine" in its body',
    ),
    (
        "http",
        {},
        hang_up,
        "closed without a response",
    ),
    (
        "http",
        {},
        lambda sock, _: (
            sock.recv(4096) and sock.sendall(b"HTTP/1.1 200 x\r\nContent-Length: 9\r\n\r\nx")
        ),
        "closed within the response",
    ),
    ("http", {}, answering(b"GET /", b"", b"220 mail\r\n"), "no HTTP response: "),
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("check", "more", "handler"), GOOD)
def test_a_good_answer_passes_and_the_check_ends_without_a_reset(
    check: str, more: dict[str, object], handler: Handler, family: str, seed: int
) -> None:
    async def test() -> None:
        async with rig(seed) as it:
            with serving(family, handler) as upstream:
                it.apply({**FAST, "check": check, **more}, upstream.address)
                await it.wait(lambda: len(upstream.results) >= 4, "four checks")
                assert it.lines == []
                assert not it.down(upstream.address)
                assert upstream.errors == []
                if check != "http":
                    assert set(upstream.results) == {b""}

    run(test)


@pytest.mark.parametrize(("check", "more", "handler", "reason"), BAD)
def test_a_bad_answer_takes_an_upstream_down_and_the_log_says_why(
    check: str, more: dict[str, object], handler: Handler, reason: str, seed: int
) -> None:
    async def test() -> None:
        async with rig(seed) as it:
            with serving("v4", handler) as upstream:
                it.apply({**FAST, "check": check, **more}, upstream.address)
                line = await it.wait_log("upstream down", check=check)
                assert line["reason"].startswith(reason), line["reason"]
                assert it.down(upstream.address)

    run(test)


@pytest.mark.parametrize("check", ["tls", "postgres"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_handshake_is_made_whole_and_ended_with_close_notify(
    check: str, version: ssl.TLSVersion, seed: int
) -> None:
    async def test() -> None:
        context = tls_context()
        context.minimum_version = context.maximum_version = version
        clear = (SSL_REQUEST, b"S") if check == "postgres" else (b"", b"")
        async with rig(seed) as it:
            with serving("v4", tls(context, *clear)) as upstream:
                it.apply({**FAST, "check": check}, upstream.address)
                await it.wait(lambda: len(upstream.results) >= 3, "three checks")
                assert upstream.errors == []
                assert set(upstream.results) == {(b"", True)}
            assert [one["event"] for one in it.lines] in ([], ["upstream down"])

    run(test)


def test_a_certificate_that_ends_soon_is_told_once_and_one_that_does_not_is_not(seed: int) -> None:
    async def test() -> None:
        async with rig(seed) as it:
            with (
                serving("v4", tls(tls_context(10))) as soon,
                serving("v4", tls(tls_context(100))) as later,
            ):
                names = []
                context = tls_context()
                context.sni_callback = lambda _socket, name, _context: names.append(name)
                with serving("v4", tls(context)) as named:
                    health = {**FAST, "check": "tls", "host": "pg.example.com"}
                    it.apply(health, soon.address, later.address, named.address)
                    line = await it.wait_log("the certificate of an upstream expires soon")
                    assert (line["upstream"], round(line["days"])) == (soon.address, 10)
                    await it.wait(lambda: len(soon.results) >= 4, "more checks")
                    assert len(it.lines) == 1
                    assert set(names) == {"pg.example.com"}

    run(test)


def test_the_end_of_a_certificate_is_read_as_openssl_reads_it() -> None:
    for year in (2030, 2049, 2050, 2120):
        end = datetime.datetime(year, 2, 28, 13, 14, 15, tzinfo=datetime.UTC)
        certificate = trustme.CA().issue_cert("a.example", not_after=end)
        pem = certificate.cert_chain_pems[0].bytes().decode()
        der = ssl.PEM_cert_to_DER_cert(pem)
        assert expiry(der) == end
        for length in range(0, len(der), 7):
            with suppress(ValueError):
                assert expiry(der[:length]) == end


def test_a_check_may_have_a_port_of_its_own(seed: int) -> None:
    async def test() -> None:
        handler = answering(b"GET /", b"HTTP/1.1 200 x\r\nContent-Length: 0\r\n\r\n")
        async with rig(seed) as it:
            with serving("v4", handler) as agent:
                port = agent.address.rpartition(":")[2]
                health = {**FAST, "check": "http", "port": port}
                it.apply(health, "127.0.0.1:9")
                await it.wait(lambda: len(agent.results) >= 3, "checks at the other port")
                assert not it.down("127.0.0.1:9")
                assert it.lines == []

    run(test)


@pytest.mark.parametrize(
    ("host", "shown"), [(None, None), ("www.example.com", b"Host: www.example.com\r\n")]
)
def test_an_http_check_names_the_host_and_itself(
    host: str | None, shown: bytes | None, seed: int
) -> None:
    async def test() -> None:
        heard: list[bytes] = []

        def handler(sock: socket.socket, _upstream: Upstream) -> None:
            heard.append(sock.recv(65536))
            sock.sendall(b"HTTP/1.1 200 x\r\nContent-Length: 0\r\n\r\n")

        async with rig(seed) as it:
            with serving("v4", handler) as upstream:
                more = {} if host is None else {"host": host}
                it.apply({**FAST, "check": "http", **more}, upstream.address)
                await it.wait(lambda: heard, "a check")
                assert (shown or f"Host: {upstream.address}\r\n".encode()) in heard[0]
                assert b"User-Agent: spliceproxy/" in heard[0]
                assert b"Connection: close\r\n" in heard[0]
                assert b"ookie" not in heard[0]

    run(test)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("PING\\r\\n", b"PING\r\n"),
        ("PING\r\n", b"PING\r\n"),
        ("\\x00\\xFF\\\\x00\\t\\0", b"\0\xff\\x00\t\0"),
        ("hex:50 494e47", b"PING"),
        ("é", "é".encode()),
    ],
)
def test_text_and_hex_become_bytes(text: str, data: bytes) -> None:
    assert units.binary(text) == data


@pytest.mark.parametrize("text", ["\\", "\\x1", "\\q", "hex:1", "hex:xy"])
def test_what_is_no_escape_and_no_hex_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="; write"):
        units.binary(text)
