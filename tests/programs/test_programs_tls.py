"""TLS between a client and its upstream: the proxy carries it, and takes no part in it."""

from __future__ import annotations

import hashlib
import socket
import ssl
from pathlib import Path

import pytest
import trustme
from harness.proxy import running_proxy
from harness.serving import FAMILIES, Upstream, serving
from harness.wait import wait_until
from real_programs import bind_text, need, run, web

NAME = "www.example.com"
SIZE = 4 * 1024 * 1024


class Origin:
    """A TLS server that wants a client's certificate, and echoes a number of bytes."""

    def __init__(self) -> None:
        self.authority = trustme.CA()
        self.certificate = self.authority.issue_cert(NAME)
        self.clients_certificate = self.authority.issue_cert("client@example.com")
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.context.set_alpn_protocols(["h2", "spliced"])
        self.certificate.configure_cert(self.context)
        self.authority.configure_trust(self.context)

    def serve(self, sock: socket.socket, _upstream: Upstream) -> tuple[str | None, bytes | None]:
        with self.context.wrap_socket(sock.dup(), server_side=True) as tls:
            left = SIZE
            while left and (data := tls.recv(65536)):
                tls.sendall(data)
                left -= len(data)
            return tls.selected_alpn_protocol(), tls.getpeercert(binary_form=True)

    def client_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        self.clients_certificate.configure_cert(context)
        context.set_alpn_protocols(["spliced"])
        return context


def der(certificate: trustme.LeafCert) -> bytes:
    return ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())


@pytest.mark.parametrize("far", FAMILIES)
@pytest.mark.parametrize("near", FAMILIES)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_tls_session_passes_through_untouched(
    near: str, far: str, version: ssl.TLSVersion, tmp_path: Path
) -> None:
    origin = Origin()
    context = origin.client_context()
    context.minimum_version = context.maximum_version = version
    with (
        serving(far, origin.serve) as upstream,
        running_proxy(web(upstream.address, bind_text(near, tmp_path))) as proxy,
    ):
        with context.wrap_socket(proxy.connect("web"), server_hostname=NAME) as client:
            assert client.getpeercert(binary_form=True) == der(origin.certificate)
            assert client.version() == version.name.replace("_", ".")
            sent = hashlib.sha256()
            came = hashlib.sha256()
            block = bytes(range(256)) * 64
            for _ in range(SIZE // len(block)):
                client.sendall(block)
                sent.update(block)
                left = len(block)
                while left:
                    data = client.recv(left)
                    came.update(data)
                    left -= len(data)
        assert came.digest() == sent.digest()
        wait_until(lambda: upstream.results, 10, "the upstream's view")
        assert upstream.results == [("spliced", der(origin.clients_certificate))]
        [record] = proxy.wait_records(1)
    print(f"{record['bytes_up']} bytes up, {record['bytes_down']} down for {SIZE} each way")
    assert min(record["bytes_up"], record["bytes_down"]) > SIZE


def test_openssl_verifies_the_upstream_through_the_proxy(tmp_path: Path) -> None:
    origin = Origin()
    origin.context.verify_mode = ssl.CERT_NONE
    authority = tmp_path / "ca.pem"
    origin.authority.cert_pem.write_to_path(str(authority))
    with serving("v4", origin.serve) as upstream, running_proxy(web(upstream.address)) as proxy:
        said = run(
            [
                *(need("openssl"), "s_client", "-brief", "-CAfile", authority),
                *("-connect", f"127.0.0.1:{proxy.port('web')}"),
                *("-servername", NAME, "-verify_hostname", NAME, "-verify_return_error"),
                *("-alpn", "spliced"),
            ],
            input=b"",
            with_stderr=True,
        )
    assert "Verification: OK" in said
