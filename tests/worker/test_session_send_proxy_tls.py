"""What the PROXY header tells of a client whose TLS ends here, as another package reads it."""

from __future__ import annotations

import socket
import ssl
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from harness.issued import authority, write_pem
from harness.load import read_exactly
from harness.proxy import Proxy
from harness.serving import Upstream, serving
from harness.wait import wait_until
from proxyprotocol.tlv import ProxyProtocolTLV
from proxyprotocol.v2 import ProxyProtocolV2
from session_support import proxy_yaml, running_proxy

NAME = "www.example.com"
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def tell(sock: socket.socket, _upstream: Upstream) -> ProxyProtocolTLV:
    """Answers, so that the client knows when; the result is what the header tells."""
    head = read_exactly(sock, 16)
    header = head + read_exactly(sock, int.from_bytes(head[14:], "big"))
    sock.sendall(b"!")
    return ProxyProtocolV2().unpack(header).tlv


@contextmanager
def terminating(directory: Path, **tls: Any) -> Iterator[tuple[Proxy, Upstream, ssl.SSLContext]]:
    """A proxy that shows a certificate, and a context of clients that trust it."""
    write_pem(directory / "own.pem", NAME)
    authority().cert_pem.write_to_path(str(directory / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    listener = {"tls": {"certificates": str(directory / "own.pem"), **tls}}
    with serving("v4", tell) as upstream:
        text = proxy_yaml(upstream.address, listener=listener, pool={"send_proxy": "v2"})
        with running_proxy(text) as proxy:
            yield proxy, upstream, context


def told(upstream: Upstream, count: int) -> list[ProxyProtocolTLV]:
    """What so many headers told."""
    wait_until(lambda: len(upstream.results) >= count, 10, f"{count} headers")
    return upstream.results


def be_client(
    proxy: Proxy, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLSession | None, bool, str]:
    """A session for the next one, whether this one was resumed, and its cipher."""
    with (
        proxy.connect("web") as plain,
        context.wrap_socket(plain, server_hostname=NAME, session=session) as client,
    ):
        assert client.recv(1) == b"!"
        cipher = client.cipher()
        assert cipher is not None
        return client.session, bool(client.session_reused), cipher[0]


@pytest.mark.parametrize("version", VERSIONS)
def test_alpn_version_and_cipher_are_told(tmp_path: Path, version: ssl.TLSVersion) -> None:
    with terminating(tmp_path, alpn=["h2", "http/1.1"]) as (proxy, upstream, context):
        context.minimum_version = context.maximum_version = version
        be_client(proxy, context)
        context.set_alpn_protocols(["http/1.1", "other"])
        _, _, cipher = be_client(proxy, context)
        first, second = told(upstream, 2)
    assert (first.alpn, second.alpn) == (None, b"http/1.1")
    for tlv in (first, second):
        assert tlv.authority == NAME
        assert (tlv.ssl.client, tlv.ssl.verify) == (1, 1)
        assert tlv.ssl.version == version.name.replace("_", ".")
        assert (tlv.ssl.cipher, tlv.ssl.cn) == (cipher, None)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_clients_certificate_is_told_and_that_a_resumed_session_had_one(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    with terminating(tmp_path, client_ca=str(tmp_path / "ca.pem")) as (proxy, upstream, context):
        context.minimum_version = context.maximum_version = version
        issued = authority().issue_cert("a@example.com", common_name="J\u00fcrgen, CN=root")
        issued.configure_cert(context)
        session, resumed, _ = be_client(proxy, context)
        assert not resumed
        _, resumed, _ = be_client(proxy, context, session)
        assert resumed
        first, second = told(upstream, 2)
    for tlv in (first, second):
        assert tlv.ssl.verified
        assert tlv.ssl.cn == "J\u00fcrgen, CN=root"
        assert tlv.ssl.has_cert_sess
    assert first.ssl.has_cert_conn
    assert not second.ssl.has_cert_conn


def test_where_a_certificate_is_optional_a_client_without_one_is_not_called_verified(
    tmp_path: Path,
) -> None:
    asked = {"client_ca": str(tmp_path / "ca.pem"), "client_certificate": "optional"}
    with terminating(tmp_path, **asked) as (proxy, upstream, context):
        be_client(proxy, context)
        [tlv] = told(upstream, 1)
    assert (tlv.ssl.client, tlv.ssl.verify, tlv.ssl.cn) == (1, 1, None)


@pytest.mark.parametrize("length", [0, 256, 257])
def test_a_name_that_is_missing_or_much_too_long_is_not_told(tmp_path: Path, length: int) -> None:
    own = tmp_path / "client.pem"
    own.write_bytes(named_by_length(length))
    with terminating(tmp_path, client_ca=str(tmp_path / "ca.pem")) as (proxy, upstream, context):
        context.load_cert_chain(own)
        be_client(proxy, context)
        [tlv] = told(upstream, 1)
    assert tlv.ssl.verified
    assert tlv.ssl.cn == ("x" * length if length == 256 else None)


def named_by_length(length: int) -> bytes:
    """A certificate whose common name has so many letters (0: it has none), and its key."""
    ca = x509.load_pem_x509_certificate(authority().cert_pem.bytes())
    signer = serialization.load_pem_private_key(authority().private_key_pem.bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    with warnings.catch_warnings():  # more than 64 letters are against the rules; OpenSSL minds not
        warnings.simplefilter("ignore")
        name = x509.NameAttribute(NameOID.COMMON_NAME, "x" * length, _validate=False)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([name] if length else []))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .sign(signer, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return certificate.public_bytes(pem) + key.private_bytes(pem, *plain)


def test_nothing_is_told_of_tls_that_goes_on_as_it_came(tmp_path: Path) -> None:
    routes = [{"sni": NAME, "tls": "passthrough", "pool": "app"}]
    write_pem(tmp_path / "own.pem", NAME)
    listener = {"tls": {"certificates": str(tmp_path / "own.pem")}, "routes": routes}
    with serving("v4", tell) as upstream:
        text = proxy_yaml(upstream.address, listener=listener, pool={"send_proxy": "v2"})
        with running_proxy(text) as proxy, proxy.connect("web") as plain:
            hello, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            client = context.wrap_bio(hello, outgoing, server_hostname=NAME)
            with pytest.raises(ssl.SSLWantReadError):
                client.do_handshake()
            plain.sendall(outgoing.read())
            assert plain.recv(1) == b"!"
        [tlv] = told(upstream, 1)
    assert tlv.authority == NAME
    assert not tlv.ssl.has_ssl
