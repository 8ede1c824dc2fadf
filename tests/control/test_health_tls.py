"""Health checks of pools with `tls`: they speak it as sessions do, and believe no one else."""

from __future__ import annotations

import datetime
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from harness.health import FAST, Rig, rig, run
from harness.issued import authority, write_pem
from harness.load import read_exactly
from harness.serving import FAMILIES, Handler, Upstream, serving
from test_health_checks import SSL_REQUEST, answering

NAME = "app.example.com"
FINE = b"HTTP/1.1 204 fine\r\n\r\n"
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture
def ca(tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority().cert_pem.write_to_path(str(path))
    return str(path)


class Server:
    """An upstream's end of TLS; what it is asked for is in `names`."""

    def __init__(
        self, issued: trustme.LeafCert | None = None, version: ssl.TLSVersion | None = None
    ) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (issued or authority().issue_cert(NAME, "127.0.0.1")).configure_cert(self.context)
        if version is not None:
            self.context.minimum_version = self.context.maximum_version = version
        self.names: list[str | None] = []
        self.context.sni_callback = lambda _tls, name, _context: self.names.append(name)

    def inside(self, handler: Handler, request: bytes = b"", answer: bytes = b"") -> Handler:
        """Answers a request in clear, then does `handler` by TLS. Results: the handler's."""

        def outside(sock: socket.socket, upstream: Upstream) -> Any:
            assert not request or read_exactly(sock, len(request)) == request
            sock.sendall(answer)
            wrapped = self.context.wrap_socket(
                sock.dup(), server_side=True, suppress_ragged_eofs=False
            )
            with wrapped as inner:
                result = handler(inner, upstream)
            while sock.recv(65536):
                pass
            return result

        return outside


KINDS: list[tuple[str, dict[str, object], Handler]] = [
    ("tls", {}, answering(b"", b"")),
    ("redis", {}, answering(b"PING\r\n", b"+PONG\r\n")),
    ("smtp", {}, answering(b"QUIT\r\n", b"221 bye\r\n", b"220-mail\r\n220 ready\r\n")),
    ("exchange", {"send": "hello", "expect": "world"}, answering(b"hello", b"world")),
    ("http", {"status": 204}, answering(b"GET / HTTP/1.1\r\n", FINE)),
    ("postgres", {}, answering(b"", b"")),
]


def served(server: Server, check: str, handler: Handler) -> Handler:
    """As upstreams of that kind are."""
    if check == "postgres":
        return server.inside(handler, SSL_REQUEST, b"S")
    return server.inside(handler)


def told(it: Rig) -> list[str]:
    return [one["event"] for one in it.lines if "upstream" in one["event"]]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("check", "more", "handler"), KINDS)
def test_each_kind_speaks_by_tls_and_ends_politely(
    check: str,
    more: dict[str, object],
    handler: Handler,
    version: ssl.TLSVersion,
    family: str,
    ca: str,
    seed: int,
) -> None:
    async def test() -> None:
        server = Server(version=version)
        async with rig(seed) as it:
            with serving(family, served(server, check, handler)) as upstream:
                health = {**FAST, "timeout": "2s", "check": check, **more}
                it.apply(health, upstream.address, tls={"ca": ca, "name": NAME})
                await it.wait(lambda: len(upstream.results) >= 3, "three checks")
                assert told(it) == []
                assert upstream.errors == []
        assert set(server.names) == {NAME}

    run(test)


@pytest.mark.parametrize(("check", "more"), [kind[:2] for kind in KINDS])
def test_each_kind_verifies_and_says_nothing_to_a_stranger(
    check: str, more: dict[str, object], ca: str, seed: int
) -> None:
    async def test() -> None:
        server, heard = Server(authority().issue_cert("app.example.org")), []

        def listen(sock: socket.socket, _upstream: Upstream) -> None:
            heard.append(sock.recv(100))

        async with rig(seed) as it:
            with serving("v4", served(server, check, listen)) as upstream:
                health = {**FAST, "timeout": "2s", "check": check, **more}
                it.apply(health, upstream.address, tls={"ca": ca, "name": NAME})
                line = await it.wait_log("upstream down")
                assert it.down(upstream.address)
        assert line["reason"].startswith("TLS handshake: certificate verify failed: Hostname")
        assert heard == []

    run(test)


def test_the_name_is_the_upstreams_own_where_the_pool_names_none(ca: str, seed: int) -> None:
    async def test() -> None:
        server = Server(authority().issue_cert("127.0.0.1"))
        handler = server.inside(answering(b"", b""))
        async with rig(seed) as it:
            with serving("v4", handler) as upstream:
                it.apply({**FAST, "check": "tls"}, upstream.address, tls={"ca": ca})
                await it.wait(lambda: len(upstream.results) >= 2, "two checks")
                assert told(it) == []
                it.apply({**FAST, "check": "tls"}, upstream.address, tls={"ca": ca, "name": NAME})
                line = await it.wait_log("upstream down")
        assert "Hostname mismatch" in line["reason"]
        assert server.names[0] is None
        assert server.names[-1] == NAME

    run(test)


def test_where_verify_is_off_nobody_is_a_stranger(seed: int) -> None:
    async def test() -> None:
        server = Server(trustme.CA().issue_cert("whoever.example.org"))
        async with rig(seed) as it:
            with serving("v4", server.inside(answering(b"GET ", FINE))) as upstream:
                health = {**FAST, "timeout": "2s", "check": "http"}
                it.apply(health, upstream.address, tls={"verify": "off"})
                await it.wait(lambda: len(upstream.results) >= 2, "two checks")
                assert told(it) == []

    run(test)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("check", ["http", "redis"])
@pytest.mark.parametrize("shown", [True, False])
def test_our_certificate_is_shown_and_its_want_is_told(
    shown: bool, check: str, version: ssl.TLSVersion, ca: str, tmp_path: Path, seed: int
) -> None:
    async def test() -> None:
        server = Server(version=version)
        server.context.verify_mode = ssl.CERT_REQUIRED
        authority().configure_trust(server.context)
        handler = {kind: handler for kind, _, handler in KINDS}[check]
        tls = {"ca": ca, "name": NAME}
        if shown:
            write_pem(tmp_path / "me.pem", "me.example.com")
            tls["certificate"] = str(tmp_path / "me.pem")
        async with rig(seed) as it:
            with serving("v4", server.inside(handler)) as upstream:
                it.apply({**FAST, "timeout": "2s", "check": check}, upstream.address, tls=tls)
                if shown:
                    await it.wait(lambda: len(upstream.results) >= 2, "two checks")
                    assert told(it) == []
                    return
                line = await it.wait_log("upstream down")
        if version == ssl.TLSVersion.TLSv1_2:
            assert line["reason"] == "TLS handshake: sslv3 alert handshake failure"
        else:
            assert line["reason"] == "TLS: tlsv13 alert certificate required"

    run(test)


def test_a_host_header_fits_the_name_that_tls_was_asked_for(ca: str, seed: int) -> None:
    requests: list[bytes] = []

    def handler(sock: socket.socket, _upstream: Upstream) -> None:
        requests.append(sock.recv(65536))
        sock.sendall(FINE)
        while sock.recv(65536):
            pass

    async def test() -> None:
        async with rig(seed) as it:
            with serving("v4", Server().inside(handler)) as upstream:
                health = {**FAST, "timeout": "2s", "check": "http"}
                tls = {"ca": ca, "name": NAME}
                port = upstream.address.rpartition(":")[2]
                it.apply(health, upstream.address, tls=tls)
                await it.wait(lambda: len(requests) >= 1, "a request")
                assert f"\r\nHost: {NAME}:{port}\r\n".encode() in requests[-1]
                count = len(requests)
                it.apply({**health, "host": "x.example.net"}, upstream.address, tls=tls)
                await it.wait(lambda: len(requests) > count + 1, "two more")
                assert b"\r\nHost: x.example.net\r\n" in requests[-1]

    run(test)


@pytest.mark.parametrize(("check", "more", "handler"), KINDS)
def test_a_certificate_that_ends_soon_is_told_by_each_kind(
    check: str, more: dict[str, object], handler: Handler, ca: str, seed: int
) -> None:
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=2)

    async def test() -> None:
        server = Server(authority().issue_cert(NAME, not_after=end))
        async with rig(seed) as it:
            with serving("v4", served(server, check, handler)) as upstream:
                health = {**FAST, "timeout": "2s", "check": check, **more}
                it.apply(health, upstream.address, tls={"ca": ca, "name": NAME})
                line = await it.wait_log("the certificate of an upstream expires soon")
        assert 1.9 < line["days"] <= 2

    run(test)


def test_another_port_is_another_service_which_is_asked_in_clear(ca: str, seed: int) -> None:
    async def test() -> None:
        async with rig(seed) as it:
            with (
                serving("v4", answering(b"GET / HTTP/1.1\r\n", FINE)) as beside,
                serving("v4", Server().inside(answering(b"", b""))) as upstream,
            ):
                port = int(beside.address.rpartition(":")[2])
                health = {**FAST, "check": "http", "port": port}
                it.apply(health, upstream.address, tls={"ca": ca})
                await it.wait(lambda: len(beside.results) >= 2, "two checks")
                assert told(it) == []
                assert upstream.accepted == 0

    run(test)


@pytest.mark.parametrize(
    ("check", "answer", "reason"),
    [
        ("http", b"HTTP/1.1 400 plain\r\n\r\n", "TLS handshake: wrong version number"),
        ("redis", b"-ERR what?\r\n", "TLS handshake: wrong version number"),
        ("postgres", b"N", "the upstream refuses TLS (N)"),
    ],
)
def test_an_upstream_without_tls_is_down(
    check: str, answer: bytes, reason: str, ca: str, seed: int
) -> None:
    def handler(sock: socket.socket, _upstream: Upstream) -> None:
        sock.recv(65536)
        sock.sendall(answer)
        while sock.recv(65536):
            pass

    async def test() -> None:
        async with rig(seed) as it:
            with serving("v4", handler) as upstream:
                it.apply({**FAST, "check": check}, upstream.address, tls={"ca": ca, "name": NAME})
                line = await it.wait_log("upstream down")
        assert line["reason"] == reason

    run(test)


def test_one_that_only_accepts_passes_a_check_of_tcp(ca: str, seed: int) -> None:
    async def test() -> None:
        async with rig(seed) as it:
            with serving("v4", answering(b"", b"")) as upstream:
                it.apply({**FAST, "check": "tcp"}, upstream.address, tls={"ca": ca, "name": NAME})
                await it.wait(lambda: len(upstream.results) >= 2, "two checks")
                assert told(it) == []

    run(test)
