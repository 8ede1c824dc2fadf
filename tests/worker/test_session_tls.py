"""TLS that ends here: certificates by name, what a failed handshake costs, and routes beside it."""

from __future__ import annotations

import os
import random
import signal
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from harness import upstreams
from harness.fds import cpu_seconds, open_fds
from harness.proxy import Proxy
from harness.serving import Upstream, serving
from harness.wait import wait_until
from session_support import board_of, exchange, one_record, proxy_yaml, running_proxy, unsent

from spliceproxy.telemetry.counters import TLS_FAILED
from spliceproxy.telemetry.ledger import Ledger

SEED = random.randrange(2**32)
DATA = Path(__file__).parents[1] / "wire" / "data"
HELLO = (DATA / "openssl-tls1.3.bin").read_bytes()


class Certificates:
    """An authority, a directory with what it signed, and contexts that trust it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = trustme.CA()
        self.add("www", "www.example.com", "example.com")

    def add(self, file: str, *names: str, kind: trustme.KeyType = trustme.KeyType.ECDSA) -> Path:
        """Write a chain and its key."""
        path = self.directory / f"{file}.pem"
        issued = self.ca.issue_cert(*names, key_type=kind)
        issued.private_key_and_cert_chain_pem.write_to_path(str(path))
        return path

    def context(self, version: ssl.TLSVersion | None = None, *alpn: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.ca.configure_trust(context)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        if alpn:
            context.set_alpn_protocols(alpn)
        return context


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


class BioClient:
    """A TLS client that can close one direction, which Python's sockets cannot."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, piece: int = 65536) -> None:
        """Sends `piece` bytes at a time."""
        self._sock = sock
        self._piece = piece
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname="www.example.com"
        )

    def _call(self, call: Callable[[], Any]) -> Any:
        """Call until it needs to read no more."""
        while True:
            try:
                result = call()
            except ssl.SSLWantReadError:
                self._send()
                data = self._sock.recv(65536)
                assert data
                self._incoming.write(data)
            else:
                self._send()
                return result

    def _send(self) -> None:
        while piece := self._outgoing.read(self._piece):
            self._sock.sendall(piece)

    def shake_hands(self) -> None:
        self._call(self._tls.do_handshake)

    def write(self, data: bytes) -> None:
        self._tls.write(data)
        self._send()

    def close_write(self) -> None:
        """Send close_notify, and read on."""
        with suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        self._send()

    def read(self) -> bytes:
        """Empty after close_notify."""
        try:
            return self._call(lambda: self._tls.read(65536))  # type: ignore[no-any-return]
        except ssl.SSLZeroReturnError:
            return b""

    def read_to_end(self) -> bytes:
        return b"".join(iter(self.read, b""))


def tls_named(
    name: str, certificates: Certificates, *names: str
) -> AbstractContextManager[Upstream]:
    """An upstream that ends TLS itself, and tells its name to each client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates.ca.issue_cert(*names).configure_cert(context)

    def handler(sock: socket.socket, _upstream: Upstream) -> int:
        with context.wrap_socket(sock, server_side=True) as tls:
            tls.recv(100)
            tls.sendall(name.encode())
            return 0

    return serving("v4", handler)


@contextmanager
def terminating(
    certificates: Certificates, *, tls: dict[str, Any] | None = None, **how: Any
) -> Iterator[tuple[Proxy, Upstream]]:
    """A proxy that shows the certificates of the directory, before an upstream that echoes."""
    keys = {"certificates": f"{certificates.directory}/", **(tls or {})}
    listener = {"tls": keys, **how.pop("listener", {})}
    with (
        upstreams.echo() as upstream,
        running_proxy(proxy_yaml(upstream.address, listener=listener, **how)) as proxy,
    ):
        yield proxy, upstream


@contextmanager
def tls_client(
    proxy: Proxy, context: ssl.SSLContext, name: str = "www.example.com"
) -> Iterator[ssl.SSLSocket]:
    with proxy.connect("web") as plain, context.wrap_socket(plain, server_hostname=name) as client:
        yield client


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_bytes_go_both_ways_and_the_record_tells_of_tls(
    certificates: Certificates, version: ssl.TLSVersion
) -> None:
    data = random.Random(SEED).randbytes(3_000_000)
    context = certificates.context(version, "h2", "http/1.1")
    with terminating(certificates, tls={"alpn": ["http/1.1"]}) as (proxy, _upstream):
        with tls_client(proxy, context) as client:
            for start in range(0, len(data), 100_000):
                part = data[start : start + 100_000]
                assert exchange(client, part) == part
            assert client.selected_alpn_protocol() == "http/1.1"
            spoken = client.version()
            client.unwrap()
        record = one_record(proxy)
    assert (record["why"], record["how"], record["closed_by"]) == ("done", "fin", "client")
    assert record["bytes_up"] == record["bytes_down"] == len(data)
    assert (record["sni"], record["alpn"]) == ("www.example.com", "http/1.1")
    assert record["tls_version"] == spoken
    assert record["tls_ms"] > 0


def test_each_name_gets_its_certificate_and_all_others_the_first(
    certificates: Certificates,
) -> None:
    certificates.add("xdb", "*.db.example.com", "db.example.net")
    context = certificates.context()
    context.check_hostname = False
    with terminating(certificates) as (proxy, _upstream):
        shown = {}
        for name in (
            "www.example.com",
            "a.db.example.com",
            "A.DB.Example.com",
            "db.example.net",
            "a.b.db.example.com",
            "db.example.com",
            "other.example.org",
        ):
            with tls_client(proxy, context, name) as client:
                certificate = client.getpeercert()
                assert certificate is not None
                shown[name] = certificate["subjectAltName"][0][1]
    assert shown == {
        "www.example.com": "www.example.com",
        "a.db.example.com": "*.db.example.com",
        "A.DB.Example.com": "*.db.example.com",
        "db.example.net": "*.db.example.com",
        "a.b.db.example.com": "www.example.com",
        "db.example.com": "www.example.com",
        "other.example.org": "www.example.com",
    }


def test_one_name_may_have_a_key_of_each_kind(certificates: Certificates) -> None:
    certificates.add("rsa", "www.example.com", "example.com", kind=trustme.KeyType.RSA)
    with terminating(certificates) as (proxy, _upstream):
        spoken = set()
        for ciphers in ("ECDHE+aECDSA", "ECDHE+aRSA"):
            context = certificates.context(ssl.TLSVersion.TLSv1_2)
            context.set_ciphers(ciphers)
            with tls_client(proxy, context) as client:
                assert exchange(client, b"x") == b"x"
                spoken.add(client.cipher()[0].split("-")[1])  # type: ignore[index]
    assert spoken == {"ECDSA", "RSA"}


def refused_without_upstream(
    proxy: Proxy, upstream: Upstream, reason: str, why: str = "tls_handshake"
) -> None:
    record = one_record(proxy)
    assert (record["why"], record["phase"]) == (why, "tls")
    assert reason in record["tls_error"]
    assert record["upstream"] is None
    assert upstream.accepted == 0
    with board_of(proxy, 1) as board:
        assert Ledger.of(board.counters).listeners["web"].values[TLS_FAILED] == 1


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n", "http request"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "wrong version number"),
        (HELLO[:43] + b"\xff" + HELLO[44:], ""),
    ],
    ids=["http", "ssh", "broken hello"],
)
def test_what_is_no_handshake_costs_no_upstream(
    certificates: Certificates, says: bytes, reason: str
) -> None:
    with terminating(certificates) as (proxy, upstream), proxy.connect("web") as client:
        client.sendall(says)
        client.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):  # what it sent in one go may be longer than is read
            while client.recv(1000):
                pass
        refused_without_upstream(proxy, upstream, reason)


def test_a_client_that_trusts_another_authority_is_told_apart(certificates: Certificates) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trustme.CA().configure_trust(context)
    with terminating(certificates) as (proxy, upstream):
        with pytest.raises(ssl.SSLCertVerificationError), tls_client(proxy, context):
            pass
        refused_without_upstream(proxy, upstream, "alert unknown ca")


@pytest.mark.parametrize("half", [True, False], ids=["half a hello", "a whole hello"])
def test_a_client_that_says_no_more_is_gone_after_its_time(
    certificates: Certificates, half: bool
) -> None:
    times = {"preread": "300ms", "handshake": "300ms"}
    with (
        terminating(certificates, listener={"timeouts": times}) as (proxy, upstream),
        proxy.connect("web") as client,
    ):
        client.sendall(HELLO[:100] if half else HELLO)
        with suppress(ConnectionResetError):
            while client.recv(10000):
                pass
        if half:
            assert one_record(proxy)["why"] == "preread_timeout"
        else:
            refused_without_upstream(proxy, upstream, "took too long")


def test_a_silent_client_and_one_that_only_looks_are_no_failed_handshakes(
    certificates: Certificates,
) -> None:
    with terminating(certificates, listener={"timeouts": {"preread": "300ms"}}) as (proxy, _):
        with proxy.connect("web") as silent, pytest.raises(ConnectionResetError):
            silent.recv(1)
        with proxy.connect("web"):
            pass
        records = proxy.wait_records(2)
    assert [record["why"] for record in records] == ["preread_timeout", "done"]


def test_a_handshake_byte_by_byte_is_a_handshake(certificates: Certificates) -> None:
    with terminating(certificates) as (proxy, _upstream), proxy.connect("web") as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = BioClient(plain, certificates.context(), piece=1)
        client.shake_hands()
        client.write(b"hello")
        assert client.read() == b"hello"


def test_passthrough_and_clear_routes_live_beside_termination(certificates: Certificates) -> None:
    """By one port: TLS that ends here, TLS that goes on as it came, and SSH."""
    with (
        upstreams.named("behind") as behind,
        tls_named("secure", certificates, "secure.example.com") as secure,
        upstreams.named("shell") as shell,
        running_proxy(
            proxy_yaml(
                behind.address,
                listener={
                    "tls": {"certificates": f"{certificates.directory}/"},
                    "routes": [
                        {"sni": ["secure.example.com"], "tls": "passthrough", "pool": "secure"},
                        {"protocol": "ssh", "pool": "shell"},
                        {"sni": ["example.com"], "pool": "shell"},
                    ],
                },
                pools={
                    "app": {"upstreams": behind.address},
                    "secure": {"upstreams": secure.address},
                    "shell": {"upstreams": shell.address},
                },
            )
        ) as proxy,
    ):
        context = certificates.context()
        said = {}
        for name in ("www.example.com", "secure.example.com", "example.com"):
            with tls_client(proxy, context, name) as client:
                client.sendall(b"x")
                said[name] = client.recv(100)
        with proxy.connect("web") as client:
            client.sendall(b"SSH-2.0-x\r\n")
            said["ssh"] = client.recv(100)
    assert said == {
        "www.example.com": b"behind",
        "secure.example.com": b"secure",
        "example.com": b"shell",
        "ssh": b"shell",
    }


def test_a_truncated_session_never_looks_finished(certificates: Certificates) -> None:
    ends: list[str] = []

    def reads_to_the_end(sock: socket.socket, _upstream: Upstream) -> int:
        try:
            while sock.recv(65536):
                pass
            ends.append("fin")
        except ConnectionResetError:
            ends.append("reset")
        return 0

    with (
        serving("v4", reads_to_the_end) as upstream,
        running_proxy(
            proxy_yaml(
                upstream.address,
                listener={"tls": {"certificates": f"{certificates.directory}/"}},
            )
        ) as proxy,
    ):
        with tls_client(proxy, certificates.context(ssl.TLSVersion.TLSv1_2)) as client:
            client.sendall(b"half of a st")
        record = one_record(proxy)
        wait_until(lambda: ends, 5, "the upstream's end")
    assert (record["why"], record["how"], record["closed_by"]) == ("tls_truncated", "fin", "client")
    assert record["bytes_up"] == 12
    assert ends == ["reset"]


def test_half_closed_clients_get_their_answer(certificates: Certificates) -> None:
    with (
        upstreams.sink() as sink,
        running_proxy(
            proxy_yaml(
                sink.address, listener={"tls": {"certificates": f"{certificates.directory}/"}}
            )
        ) as proxy,
    ):
        with proxy.connect("web") as plain:
            client = BioClient(plain, certificates.context())
            client.shake_hands()
            client.write(b"all of it")
            client.close_write()
            assert len(client.read_to_end()) == 64
        record = one_record(proxy)
    assert (record["why"], record["bytes_up"], record["bytes_down"]) == ("done", 9, 64)


def test_handshakes_leave_neither_fds_nor_work_behind(certificates: Certificates) -> None:
    with terminating(certificates, workers=1) as (proxy, _upstream):
        [worker] = proxy.worker_pids()
        with tls_client(proxy, certificates.context()) as client:
            assert exchange(client, b"x") == b"x"
        proxy.wait_records(1)
        before = open_fds(worker)
        for number in range(30):
            with proxy.connect("web") as client:
                client.sendall(HELLO if number % 2 else HELLO[:50])
                if number % 3 == 0:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        proxy.wait_records(31)
        wait_until(lambda: open_fds(worker).keys() == before.keys(), 5, "the fds of before")
        used = cpu_seconds(worker)
        with tls_client(proxy, certificates.context()) as client:
            exchange(client, b"x")
            for _ in range(20):
                assert exchange(client, b"y") == b"y"
        assert cpu_seconds(worker) - used < 0.5


def test_an_end_that_is_told_during_the_handshake_is_not_forgotten(
    certificates: Certificates,
) -> None:
    """More is there than one read takes, and the FIN behind it: no event tells of it once more."""
    context = certificates.context(ssl.TLSVersion.TLSv1_3)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="www.example.com")
    with terminating(certificates) as (proxy, _upstream), proxy.connect("web") as client:
        with suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        client.sendall(outgoing.read())
        while outgoing.pending == 0:
            incoming.write(client.recv(65536))
            with suppress(ssl.SSLWantReadError):
                tls.do_handshake()
        tls.write(bytes(16_000))
        for _ in range(4):
            tls.write(bytes(15_000))
        data = outgoing.read()
        [worker] = proxy.worker_pids()
        os.kill(worker, signal.SIGSTOP)
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            wait_until(lambda: unsent(client) == 0, 5, "all to be there")
        finally:
            os.kill(worker, signal.SIGCONT)
        assert len(data) > 65536
        record = one_record(proxy)
    assert (record["why"], record["closed_by"]) == ("tls_truncated", "client")
    assert record["bytes_up"] == 76_000
