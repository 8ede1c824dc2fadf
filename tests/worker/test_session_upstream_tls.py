"""TLS that begins here: who is believed to be the upstream, what it is told, and how it ends."""

from __future__ import annotations

import random
import resource
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from harness.fds import open_fds
from harness.issued import authority, write_pem
from harness.load import read_exactly
from harness.proxy import Proxy
from harness.proxy_header import take_header
from harness.serving import FAMILIES, Upstream, hold, serving
from harness.wait import wait_until
from session_support import (
    exchange,
    expect_refusal,
    one_record,
    proxy_yaml,
    read_until_reset,
    running_proxy,
)

SEED = random.randrange(2**32)
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
SSL_REQUEST = bytes.fromhex("0000000804d2162f")


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    """The file of the authority of all upstreams' certificates, unless a test says else."""
    path = tmp_path / "ca.pem"
    authority().cert_pem.write_to_path(str(path))
    return path


class Server:
    """An upstream's own end of TLS; what its clients asked for is in `names`."""

    def __init__(
        self,
        *names: str,
        version: ssl.TLSVersion | None = None,
        issued: trustme.LeafCert | None = None,
        alpn: tuple[str, ...] = (),
    ) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (issued or authority().issue_cert(*names or ("127.0.0.1",))).configure_cert(self.context)
        if version is not None:
            self.context.minimum_version = self.context.maximum_version = version
        if alpn:
            self.context.set_alpn_protocols(alpn)
        self.names: list[str | None] = []
        self.context.sni_callback = lambda _tls, name, _context: self.names.append(name)

    def accept(self, sock: socket.socket) -> ssl.SSLSocket:
        return self.context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False)

    def echo(self, sock: socket.socket, _upstream: Upstream) -> Any:
        """Sends back what comes, and close_notify after close_notify. Results: what was agreed."""
        with self.accept(sock) as tls:
            size, agreed = 0, (tls.version(), tls.selected_alpn_protocol(), tls.getpeercert())
            while data := tls.recv(65536):
                tls.sendall(data)
                size += len(data)
            tls.unwrap()
            return size, *agreed


@contextmanager
def proxied(
    server: Server,
    ca: Path,
    *,
    handler: Callable[[socket.socket, Upstream], Any] | None = None,
    family: str = "v4",
    tls: dict[str, Any] | None = None,
    **how: Any,
) -> Iterator[tuple[Proxy, Upstream]]:
    """A proxy whose pool has one upstream, and trusts `ca`."""
    pool = {"tls": {"ca": str(ca), **(tls or {})}, **how.pop("pool", {})}
    with (
        serving(family, handler or server.echo) as upstream,
        running_proxy(proxy_yaml(upstream.address, pool=pool, **how)) as proxy,
    ):
        yield proxy, upstream


def outcome(record: dict[str, Any]) -> tuple[object, ...]:
    return record["closed_by"], record["how"], record["why"]


def finish(client: socket.socket) -> bytes:
    """Say FIN, and read to the other one."""
    client.shutdown(socket.SHUT_WR)
    return b"".join(iter(lambda: client.recv(65536), b""))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_clients_bytes_go_encrypted_and_come_back_in_clear(
    ca: Path, version: ssl.TLSVersion, family: str
) -> None:
    host = {"v4": "127.0.0.1", "v6": "::1", "unix": "app.example.com"}[family]
    tls = {"name": host} if family == "unix" else {}
    server = Server(host, version=version)
    data = random.Random(SEED).randbytes(3_000_000)
    with proxied(server, ca, family=family, tls=tls) as (proxy, upstream):
        with proxy.connect("web") as client:
            for start in range(0, len(data), 100_000):
                part = data[start : start + 100_000]
                assert exchange(client, part) == part
            assert finish(client) == b""
        record = one_record(proxy)
        size, spoken, alpn, _ = wait_until(lambda: upstream.results, 5, "the upstream's end")[0]
    assert outcome(record) == ("client", "fin", "done")
    assert (size, spoken, alpn) == (len(data), version.name.replace("_", "."), None)
    assert record["bytes_up"] == record["bytes_down"] == len(data)
    assert record["tls_error"] is None
    # An IP address is verified, but not asked for (RFC 6066, section 3).
    assert server.names == (["app.example.com"] if family == "unix" else [None])


@pytest.mark.parametrize("inside", VERSIONS)
@pytest.mark.parametrize("outside", VERSIONS)
def test_tls_may_end_here_and_begin_anew_and_the_upstream_hears_of_alpn(
    ca: Path, tmp_path: Path, inside: ssl.TLSVersion, outside: ssl.TLSVersion
) -> None:
    own = tmp_path / "own.pem"
    write_pem(own, "www.example.com")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    context.minimum_version = context.maximum_version = outside
    context.set_alpn_protocols(["h2", "http/1.1"])
    server = Server("app.example.com", version=inside, alpn=("http/1.1", "h2"))
    listener = {"tls": {"certificates": str(own), "alpn": ["h2", "http/1.1"]}}
    data = random.Random(SEED).randbytes(1_000_000)
    with proxied(server, ca, tls={"name": "app.example.com"}, listener=listener) as (proxy, up):
        with (
            proxy.connect("web") as plain,
            context.wrap_socket(plain, server_hostname="www.example.com") as client,
        ):
            for start in range(0, len(data), 100_000):
                part = data[start : start + 100_000]
                assert exchange(client, part) == part
            client.unwrap()
        record = one_record(proxy)
        size, spoken, alpn, _ = wait_until(lambda: up.results, 5, "the upstream's end")[0]
    assert outcome(record) == ("client", "fin", "done")
    assert (size, spoken) == (len(data), inside.name.replace("_", "."))
    assert record["tls_version"] == outside.name.replace("_", ".")
    # The best that the client and the listener have in common; nothing else was offered.
    assert alpn == "h2"
    assert server.names == ["app.example.com"]


def expired() -> trustme.LeafCert:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    return authority().issue_cert("127.0.0.1", not_after=yesterday)


FALSE = {
    "a certificate for another name": (
        lambda: Server("app.example.org"),
        {"name": "app.example.com"},
        "certificate verify failed: Hostname mismatch",
    ),
    "no IP address in it": (
        lambda: Server("app.example.com"),
        {},
        "certificate verify failed: IP address mismatch",
    ),
    "an expired one": (
        lambda: Server(issued=expired()),
        {},
        "certificate verify failed: certificate has expired",
    ),
    "of an authority that is not trusted": (
        lambda: Server(issued=trustme.CA().issue_cert("127.0.0.1")),
        {},
        "certificate verify failed: unable to get local issuer certificate",
    ),
    "of a stranger, and the machine is asked": (
        lambda: Server("127.0.0.1"),
        {"ca": "off"},
        "certificate verify failed: unable to get local issuer certificate",
    ),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("wrong", FALSE)
def test_an_upstream_that_cannot_prove_itself_gets_nothing_of_the_client(
    ca: Path, wrong: str, version: ssl.TLSVersion
) -> None:
    make, tls, text = FALSE[wrong]
    server = make()  # type: ignore[no-untyped-call]
    server.context.minimum_version = server.context.maximum_version = version
    told: list[bytes] = []

    def handler(sock: socket.socket, _upstream: Upstream) -> str:
        try:
            with server.accept(sock) as tls_sock:
                told.append(tls_sock.recv(100))
        except OSError as error:
            return str(error)
        return "nothing happened"

    with proxied(server, ca, handler=handler, tls=tls) as (proxy, upstream):
        # The reset may come before connect() or send() has returned.
        with suppress(ConnectionError), proxy.connect("web") as client:
            client.sendall(b"secret")
            assert read_until_reset(client) == b""
        record = one_record(proxy)
        said = wait_until(lambda: upstream.results, 5, "the upstream's end")[0]
    assert outcome(record) == ("proxy", "reset", "tls_handshake")
    assert record["phase"] == "connect"
    assert record["tls_error"].startswith(text)
    assert record["bytes_up"] == 0
    assert told in ([], [b""])
    assert "alert" in said


def test_whoever_answers_is_believed_where_verify_is_off(ca: Path) -> None:
    server = Server(issued=trustme.CA().issue_cert("whoever.example.org"))
    with proxied(server, ca, tls={"ca": "off", "verify": "off"}) as (proxy, _upstream):
        with proxy.connect("web") as client:
            assert exchange(client, b"hello") == b"hello"
            finish(client)
        assert outcome(one_record(proxy)) == ("client", "fin", "done")


def test_without_a_file_of_authorities_those_of_the_machine_are_trusted(ca: Path) -> None:
    """Which OpenSSL finds by these variables, where they are set."""
    machine = {"SSL_CERT_FILE": str(ca), "SSL_CERT_DIR": str(ca.parent / "none")}
    with serving("v4", Server().echo) as upstream:
        text = proxy_yaml(upstream.address, pool={"tls": "on"})
        with running_proxy(text, env=machine) as proxy, proxy.connect("web") as client:
            assert exchange(client, b"hello") == b"hello"
            finish(client)


def test_the_next_upstream_is_tried_where_one_cannot_prove_itself(ca: Path) -> None:
    false, true = Server("app.example.org"), Server("127.0.0.1")
    with serving("v4", false.echo) as first, serving("v4", true.echo) as second:
        pool = {"tls": {"ca": str(ca)}, "balance": "source_hash"}
        both = [first.address, second.address]
        with running_proxy(proxy_yaml(*both, pool=pool)) as proxy:
            for _ in range(4):
                with proxy.connect("web") as client:
                    assert exchange(client, b"hello") == b"hello"
                    finish(client)
            records = proxy.wait_records(4)
    assert {record["upstream"] for record in records} == {second.address}
    assert {record["tls_error"] for record in records} == {None}
    assert {record["retries"] for record in records} <= {0, 1}


def test_failed_handshakes_eject_an_upstream_as_failed_connects_do(ca: Path) -> None:
    false, true = Server("app.example.org"), Server("127.0.0.1")
    eject = {"on": "connect", "after": 2}
    with serving("v4", false.echo) as first, serving("v4", true.echo) as second:
        pool = {"tls": {"ca": str(ca)}, "eject": eject, "balance": "round_robin"}
        both = [first.address, second.address]
        with running_proxy(proxy_yaml(*both, pool=pool)) as proxy:
            for _ in range(4):
                with proxy.connect("web") as client:
                    assert exchange(client, b"hello") == b"hello"
                    finish(client)
            line = proxy.wait_log("upstream ejected")
    assert (line["upstream"], line["reason"]) == (first.address, "tls_handshake")


def test_an_upstream_that_speaks_no_tls_fails_the_handshake(ca: Path) -> None:
    def handler(sock: socket.socket, _upstream: Upstream) -> bytes:
        hello = sock.recv(4096)
        sock.sendall(b"220 mail.example.com ESMTP\r\n")
        return hello

    with proxied(Server(), ca, handler=handler) as (proxy, _upstream):
        with proxy.connect("web") as client:
            assert read_until_reset(client) == b""
        record = one_record(proxy)
    assert (record["why"], record["tls_error"]) == ("tls_handshake", "wrong version number")


def test_an_upstream_that_is_silent_has_the_time_of_a_connect(ca: Path) -> None:
    with proxied(Server(), ca, handler=hold, pool={"timeouts": {"connect": "300ms"}}) as (proxy, _):
        with proxy.connect("web") as client:
            assert read_until_reset(client) == b""
        record = one_record(proxy)
    assert record["why"] == "connect_timeout"
    assert record["tls_error"] == "no end of the TLS handshake"
    assert 300 <= record["duration_ms"] < 2000


@pytest.mark.parametrize("how", ["close", "reset"])
def test_an_upstream_that_leaves_in_the_handshake_fails_it(ca: Path, how: str) -> None:
    def handler(sock: socket.socket, _upstream: Upstream) -> None:
        if how == "close":
            read_exactly(sock, 5)
            while sock.recv(65536, socket.MSG_DONTWAIT | socket.MSG_PEEK):
                sock.recv(65536)
                sock.shutdown(socket.SHUT_WR)
                break
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.recv(1)
            sock.close()

    with proxied(Server(), ca, handler=handler, pool={"retries": 0}) as (proxy, _upstream):
        expect_refusal(proxy)
        record = one_record(proxy)
    assert record["why"] == "tls_handshake"
    assert record["tls_error"] in (
        "the peer closed the connection",
        "no end of the TLS handshake: Connection reset by peer",
    )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("shown", [True, False])
def test_upstreams_that_ask_for_a_certificate_are_shown_ours(
    ca: Path, tmp_path: Path, version: ssl.TLSVersion, shown: bool
) -> None:
    server = Server("127.0.0.1", version=version)
    server.context.verify_mode = ssl.CERT_REQUIRED
    authority().configure_trust(server.context)
    own = tmp_path / "me.pem"
    write_pem(own, "me.example.com")
    tls = {"certificate": str(own)} if shown else {}
    with proxied(server, ca, tls=tls) as (proxy, upstream):
        with proxy.connect("web") as client:
            client.sendall(b"hello")
            if shown:
                assert client.recv(100) == b"hello"
                finish(client)
            else:
                assert read_until_reset(client) == b""
        record = one_record(proxy)
        if shown:
            *_, certificate = wait_until(lambda: upstream.results, 5, "the upstream's end")[0]
            assert certificate["subjectAltName"] == (("DNS", "me.example.com"),)
    if shown:
        assert outcome(record) == ("client", "fin", "done")
    elif version == ssl.TLSVersion.TLSv1_2:
        assert outcome(record) == ("proxy", "reset", "tls_handshake")
        assert "handshake failure" in record["tls_error"]
    else:  # The handshake of TLS 1.3 is over for us before the upstream has looked.
        assert outcome(record) == ("upstream", "close", "tls_error")
        assert "certificate required" in record["tls_error"]


def test_an_upstream_that_is_cut_off_is_never_taken_for_one_that_has_finished(ca: Path) -> None:
    server = Server()

    def handler(sock: socket.socket, _upstream: Upstream) -> None:
        tls = server.accept(sock)
        tls.sendall(b"the first part")
        tls.recv(100)
        socket.socket(fileno=tls.detach()).close()

    with proxied(server, ca, handler=handler) as (proxy, _upstream):
        with proxy.connect("web") as client:
            assert read_exactly(client, 14) == b"the first part"
            client.sendall(b"and then?")
            assert read_until_reset(client) == b""
        record = one_record(proxy)
    assert outcome(record) == ("upstream", "fin", "tls_truncated")
    assert record["tls_error"] == "FIN without close_notify"


@pytest.mark.parametrize("version", VERSIONS)
def test_each_direction_ends_by_itself(ca: Path, version: ssl.TLSVersion) -> None:
    server = Server(version=version)
    data = random.Random(SEED).randbytes(2_000_000)

    def handler(sock: socket.socket, _upstream: Upstream) -> bytes:
        with server.accept(sock) as tls:
            request = b"".join(iter(lambda: tls.recv(65536), b""))
            tls.sendall(data)
            tls.unwrap()
            return request

    with proxied(server, ca, handler=handler) as (proxy, upstream):
        with proxy.connect("web") as client:
            client.sendall(b"a request")
            assert finish(client) == data
        record = one_record(proxy)
        assert wait_until(lambda: upstream.results, 5, "the upstream's end") == [b"a request"]
    assert outcome(record) == ("client", "fin", "done")


@pytest.mark.parametrize("version", VERSIONS)
def test_what_an_upstream_says_first_comes_with_the_handshakes_last_bytes(
    ca: Path, version: ssl.TLSVersion
) -> None:
    server = Server(version=version)

    def handler(sock: socket.socket, _upstream: Upstream) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, 3, 1)  # TCP_CORK: tickets and data in one segment
        with server.accept(sock) as tls:
            tls.sendall(b"220 ready\r\n")
            tls.setsockopt(socket.IPPROTO_TCP, 3, 0)
            with suppress(OSError):
                tls.recv(100)

    with proxied(server, ca, handler=handler) as (proxy, _upstream):
        for _ in range(5):
            with proxy.connect("web") as client:
                assert read_exactly(client, 11) == b"220 ready\r\n"
        proxy.wait_records(5)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_proxy_header_goes_in_clear_before_the_handshake(ca: Path, version: str) -> None:
    server, headers = Server(), []

    def handler(sock: socket.socket, upstream: Upstream) -> Any:
        headers.append(take_header(sock))
        return server.echo(sock, upstream)

    with proxied(server, ca, handler=handler, pool={"send_proxy": version}) as (proxy, _upstream):
        with proxy.connect("web") as client:
            name = client.getsockname()
            assert exchange(client, b"hello") == b"hello"
            finish(client)
        record = one_record(proxy)
    assert [header.source for header in headers] == [name]
    assert (record["bytes_up"], record["bytes_down"]) == (5, 5)


@pytest.mark.parametrize("end", ["close_notify", "fin", "reset"])
def test_an_upstream_that_ends_before_its_first_byte_is_replaced(ca: Path, end: str) -> None:
    server = Server()

    def leave(sock: socket.socket, _upstream: Upstream) -> bytes:
        tls = server.accept(sock)
        request = read_exactly(tls, 5)
        if end == "close_notify":
            with suppress(OSError):
                tls.settimeout(0)
                tls.unwrap()
        if end == "reset":
            tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        tls.close()
        return request

    with serving("v4", leave) as first, serving("v4", server.echo) as second:
        pool = {"tls": {"ca": str(ca)}, "replay": "16KiB", "retries": 1}
        both = [{"address": first.address}, {"address": second.address, "tier": 1}]
        with running_proxy(proxy_yaml(*both, pool=pool)) as proxy:
            with proxy.connect("web") as client:
                assert exchange(client, b"hello") == b"hello"
                finish(client)
            record = one_record(proxy)
        assert wait_until(lambda: first.results, 5, "the end of the first") == [b"hello"]
    assert outcome(record) == ("client", "fin", "done")
    assert (record["upstream"], record["retries"]) == (second.address, 1)


def reload(proxy: Proxy, text: str) -> None:
    proxy.config.write_text("workers: 1\nhealth: off\nadmin: off\n" + text)
    proxy.signal(signal.SIGHUP)
    proxy.wait_log("reloaded")


@pytest.mark.parametrize("change", ["name", "ca"])
def test_a_reload_changes_what_the_next_upstream_has_to_prove(
    ca: Path, tmp_path: Path, change: str
) -> None:
    server, stranger = Server("app.example.com"), tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(str(stranger))
    good = {"ca": str(ca), "name": "app.example.com"}
    bad = {**good, **{"name": {"name": "app.example.org"}, "ca": {"ca": str(stranger)}}[change]}
    with serving("v4", server.echo) as upstream:
        before, after = (proxy_yaml(upstream.address, pool={"tls": tls}) for tls in (good, bad))
        with running_proxy(before) as proxy:
            with proxy.connect("web") as client:
                assert exchange(client, b"hello") == b"hello"
                reload(proxy, after)
                with proxy.connect("web") as other:
                    assert read_until_reset(other) == b""
                assert exchange(client, b"still here") == b"still here"
                finish(client)
            whys = sorted(record["why"] for record in proxy.wait_records(2))
    assert whys == ["done", "tls_handshake"]


@pytest.mark.parametrize("first_has_tls", [True, False])
def test_a_session_may_be_replayed_from_tls_to_an_upstream_in_clear_and_back(
    ca: Path, first_has_tls: bool
) -> None:
    server, go = Server(), threading.Event()

    def leave(sock: socket.socket, _upstream: Upstream) -> bytes:
        end = server.accept(sock) if first_has_tls else sock
        request = read_exactly(end, 5)
        go.wait(10)
        end.close()
        return request

    def echo(sock: socket.socket, upstream: Upstream) -> Any:
        if not first_has_tls:
            return server.echo(sock, upstream)
        while data := sock.recv(65536):
            sock.sendall(data)
        return None

    def text(address: str, *, has_tls: bool) -> str:
        tls = {"ca": str(ca)} if has_tls else "off"
        return proxy_yaml(address, pool={"tls": tls, "replay": "16KiB"})

    with serving("v4", leave) as first, serving("v4", echo) as second:
        with running_proxy(text(first.address, has_tls=first_has_tls)) as proxy:
            with proxy.connect("web") as client:
                client.sendall(b"hello")
                wait_until(lambda: proxy.log("ready") and first.accepted, 5, "the first upstream")
                reload(proxy, text(second.address, has_tls=not first_has_tls))
                go.set()
                assert read_exactly(client, 5) == b"hello"
                assert exchange(client, b"again") == b"again"
                finish(client)
            record = one_record(proxy)
        assert wait_until(lambda: first.results, 5, "the end of the first") == [b"hello"]
    assert outcome(record) == ("client", "fin", "done")
    assert record["upstream"] == second.address


def test_postgresql_is_asked_for_tls_first_where_the_client_asked_too(
    ca: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own.pem"
    write_pem(own, "db.example.com")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    server, asked = Server(), []

    def handler(sock: socket.socket, upstream: Upstream) -> Any:
        asked.append(read_exactly(sock, 8))
        sock.sendall(b"S")
        return server.echo(sock, upstream)

    listener = {"tls": {"certificates": str(own)}}
    with proxied(server, ca, handler=handler, listener=listener) as (proxy, _upstream):
        with proxy.connect("web") as plain:
            plain.sendall(SSL_REQUEST)
            assert plain.recv(10) == b"S"
            with context.wrap_socket(plain, server_hostname="db.example.com") as client:
                assert exchange(client, b"startup") == b"startup"
                client.unwrap()
        record = one_record(proxy)
    assert asked == [SSL_REQUEST]
    assert outcome(record) == ("client", "fin", "done")


def test_handshakes_that_fail_leave_nothing_behind(ca: Path) -> None:
    """No circle of objects either, which would wait for the collector with 64 KiB each."""
    with proxied(Server("app.example.org"), ca) as (proxy, _upstream):
        [worker] = proxy.worker_pids()

        def fail(number: int) -> None:
            for _ in range(number):
                with suppress(ConnectionError), proxy.connect("web") as client:
                    read_until_reset(client)

        fail(30)
        fds, size = len(open_fds(worker)), resident(worker)
        fail(150)
        wait_until(lambda: len(open_fds(worker)) <= fds, 5, "closed sockets")
        assert resident(worker) - size < 4 << 20


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_a_crowd_leaves_no_fd_behind_and_nobody_waits_for_all_of_it(ca: Path) -> None:
    server = Server()
    with proxied(server, ca, workers=1) as (proxy, _upstream):
        [worker] = proxy.worker_pids()
        with proxy.connect("web") as client:
            assert exchange(client, b"first") == b"first"
            before = len(open_fds(worker))
            with ExitStack() as stack:
                crowd = [stack.enter_context(proxy.connect("web")) for _ in range(100)]
                for one in crowd:
                    one.sendall(b"hello")
                assert exchange(client, b"me too") == b"me too"
                for one in crowd:
                    assert read_exactly(one, 5) == b"hello"
            proxy.wait_records(100)
            wait_until(lambda: len(open_fds(worker)) == before, 5, "closed sockets")


def test_a_postgresql_client_in_clear_is_encrypted_on_the_way_where_a_route_knows_it(
    ca: Path,
) -> None:
    server, asked = Server(), []
    startup = bytes.fromhex("0000000800030000")

    def handler(sock: socket.socket, upstream: Upstream) -> Any:
        asked.append(read_exactly(sock, 8))
        sock.sendall(b"S")
        return server.echo(sock, upstream)

    routes = [{"protocol": "postgres", "pool": "app"}]
    with proxied(server, ca, handler=handler, listener={"routes": routes}) as (proxy, _upstream):
        with proxy.connect("web") as client:
            assert exchange(client, startup) == startup
            finish(client)
        assert outcome(one_record(proxy)) == ("client", "fin", "done")
    assert asked == [SSL_REQUEST]
