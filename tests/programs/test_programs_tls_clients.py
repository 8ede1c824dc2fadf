"""Clients' certificates: good ones come in, all others are told why not, and cost no upstream."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness.proxy import Event, Proxy, running_proxy
from harness.serving import Upstream, serving
from harness.tls import VERSIONS, Authority, TlsPeer
from tls_programs import FINE, Call, by_curl, by_openssl

NAME = "www.example.com"
REASONS = {
    "good": None,
    "expired": "certificate verify failed: certificate has expired",
    "unknown": "certificate verify failed: unable to get local issuer certificate",
    "missing": "peer did not return a certificate",
}
"""What the record says, where a certificate is required."""
ALERTS = {
    "expired": "certificate expired",
    "unknown": "unknown ca",
    "missing": "certificate required",
}


@dataclass
class Door:
    """A proxy that asks for certificates, and what its clients have."""

    proxy: Proxy
    upstream: Upstream
    authority: Authority
    certificates: dict[str, Path | None]

    def record(self, before: int) -> Event:
        """The record of the one session since there were `before`."""
        found = self.proxy.wait_records(before + 1)
        assert len(found) == before + 1
        return found[before]


@contextmanager
def door(directory: Path, client_certificate: str) -> Iterator[Door]:
    ours, theirs = Authority(directory / "ours"), Authority(directory / "theirs")
    clients = Authority(directory / "clients")
    certificates = {
        "good": clients.certificate("good.example.com"),
        "expired": clients.certificate("old.example.com", expired=True),
        "unknown": theirs.certificate("stranger.example.com"),
        "missing": None,
    }
    with ExitStack() as stack:
        upstream = stack.enter_context(serving("v4", answer))
        proxy = stack.enter_context(
            running_proxy(
                "listeners:\n  web:\n    bind: 127.0.0.1:0\n    pool: app\n    tls:\n"
                f"      certificates: {ours.certificate(NAME)}\n"
                f"      client_ca: {clients.file}\n"
                f"      client_certificate: {client_certificate}\n"
                f"pools: {{app: {{upstreams: '{upstream.address}'}}}}\n"
            )
        )
        yield Door(proxy, upstream, ours, certificates)


@pytest.fixture(scope="module")
def required(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with door(tmp_path_factory.mktemp("required"), "required") as found:
        yield found


@pytest.fixture(scope="module")
def optional(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with door(tmp_path_factory.mktemp("optional"), "optional") as found:
        yield found


def alert(kind: str, version: str) -> str:
    """What the client is told: for a missing certificate TLS 1.2 has no alert of its own."""
    return "handshake failure" if (kind, version) == ("missing", "1.2") else ALERTS[kind]


def answer(sock: socket.socket, _upstream: Upstream) -> None:
    """Read a request, and give a short answer."""
    request = b""
    while not request.endswith(b"\r\n\r\n") and (more := sock.recv(4096)):
        request += more
    sock.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + FINE.encode())


def answers(at: Door, version: str, certificate: Path | None) -> str:
    """What a client hears in place of its answer; nothing, where it hears that."""
    context = at.authority.client(version, certificate=certificate)
    try:
        with TlsPeer(at.proxy.connect("web"), context, NAME) as peer:
            peer.send(b"GET / HTTP/1.0\r\n\r\n")
            assert peer.read_to_end().decode().endswith(FINE)
            peer.close_write()
    except ssl.SSLError as error:
        return str(error.reason).lower().replace("_", " ")
    return ""


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", REASONS)
@pytest.mark.parametrize("policy", ["required", "optional"])
def test_only_clients_with_good_certificates_reach_an_upstream(
    policy: str, kind: str, version: str, request: pytest.FixtureRequest
) -> None:
    at: Door = request.getfixturevalue(policy)
    sessions, accepted = len(at.proxy.records()), at.upstream.accepted
    heard = answers(at, version, at.certificates[kind])
    record = at.record(sessions)
    if kind == "good" or (kind == "missing" and policy == "optional"):
        assert (heard, record["why"], record["phase"]) == ("", "done", "relay"), record
        assert at.upstream.accepted == accepted + 1
        return
    assert heard.endswith(alert(kind, version))
    assert (record["why"], record["tls_error"]) == ("tls_handshake", REASONS[kind]), record
    assert (record["phase"], record["closed_by"], record["upstream"]) == ("tls", "proxy", None)
    assert at.upstream.accepted == accepted


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", REASONS)
@pytest.mark.parametrize("client", ["openssl", "curl"])
def test_programs_with_and_without_certificates_are_told_what_is_wrong(
    client: str, kind: str, version: str, required: Door
) -> None:
    sessions, accepted = len(required.proxy.records()), required.upstream.accepted
    file = required.certificates[kind]
    call = Call(required.proxy.port("web"), NAME, version, required.authority)
    dashes, by = ("-", by_openssl) if client == "openssl" else ("--", by_curl)
    key = () if file is None else (f"{dashes}cert", file, f"{dashes}key", file)
    if kind == "good":
        assert by(call, *key) == FINE
        assert required.record(sessions)["why"] == "done"
        assert required.upstream.accepted == accepted + 1
        return
    with pytest.raises(AssertionError) as failed:
        by(call, *key)
    record = required.record(sessions)
    assert (record["why"], record["tls_error"]) == ("tls_handshake", REASONS[kind]), record
    assert required.upstream.accepted == accepted
    if client == "openssl":  # curl has words of its own
        assert alert(kind, version) in str(failed.value)
