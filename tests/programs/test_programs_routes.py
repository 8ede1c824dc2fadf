"""Routes with real clients: openssl and curl reach TLS upstreams by name, through one port."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import trustme
from harness.proxy import Proxy, running_proxy
from harness.serving import Upstream, serving
from real_programs import need, run

ONE, TWO = "one.example.com", "two.example.com"
CONFIG = """
listeners:
  web:
    bind: 127.0.0.1:0
    routes:
      - {{sni: {one}, alpn: h2, tls: passthrough, pool: one_h2}}
      - {{sni: {one}, pool: one}}
      - {{sni: "*.example.com", pool: two}}
      - {{protocol: http, host: plain.example.com, pool: plain}}
pools:
  one_h2: {{upstreams: {one_h2}}}
  one: {{upstreams: {one_at}}}
  two: {{upstreams: {two_at}}}
  plain: {{upstreams: {plain}}}
"""


def respond(sock: socket.socket, text: str) -> None:
    request = b""
    while not request.endswith(b"\r\n\r\n") and (more := sock.recv(65536)):
        request += more
    body = text.encode()
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    while sock.recv(65536):
        pass


def answer(text: str, context: ssl.SSLContext | None = None) -> AbstractContextManager[Upstream]:
    """An upstream that answers any HTTP request with `text`, over TLS where there is a context."""

    def handler(sock: socket.socket, _upstream: Upstream) -> None:
        if context is None:
            respond(sock, text)
            return
        with context.wrap_socket(sock, server_side=True) as tls, suppress(OSError):
            respond(tls, text)

    return serving("v4", handler)


@contextmanager
def site(tmp_path: Path) -> Iterator[Proxy]:
    """The proxy before four upstreams; `ca.pem` is what verifies their certificates."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with ExitStack() as stack:

        def over_tls(name: str, text: str, alpn: str) -> str:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.set_alpn_protocols([alpn])
            authority.issue_cert(name).configure_cert(context)
            return stack.enter_context(answer(text, context)).address

        text = CONFIG.format(
            one=ONE,
            one_h2=over_tls(ONE, "one, h2", "h2"),
            one_at=over_tls(ONE, "one", "http/1.1"),
            two_at=over_tls(TWO, "two", "http/1.1"),
            plain=stack.enter_context(answer("plain")).address,
        )
        yield stack.enter_context(running_proxy(text))


def test_curl_reaches_each_name_through_one_port(tmp_path: Path) -> None:
    with site(tmp_path) as proxy:
        port = proxy.port("web")
        for name in (ONE, TWO):
            got = run(
                [
                    need("curl"), "-sS", "--http1.1", "--cacert", tmp_path / "ca.pem",
                    "--connect-to", f"::127.0.0.1:{port}", f"https://{name}:{port}/",
                ]
            )  # fmt: skip
            assert got == name.partition(".")[0]
        url = f"http://127.0.0.1:{port}/"
        got = run([need("curl"), "-sS", "-H", "Host: plain.example.com", url])
        assert got == "plain"
        records = proxy.wait_records(3)
    assert [(one["route"], one["sni"], one["pool"]) for one in records] == [
        ("routes[1]", ONE, "one"),
        ("routes[2]", TWO, "two"),
        ("routes[3]", None, "plain"),
    ]
    assert {one["why"] for one in records} <= {"done", "client_reset"}


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize(("alpn", "route"), [("h2", "routes[0]"), ("http/1.1", "routes[1]")])
def test_openssl_is_routed_by_name_and_protocol(
    version: str, alpn: str, route: str, tmp_path: Path
) -> None:
    with site(tmp_path) as proxy:
        done = subprocess.run(
            [
                need("openssl"), "s_client", "-connect", f"127.0.0.1:{proxy.port('web')}",
                "-servername", ONE, "-alpn", alpn, version, "-verify_return_error",
                "-verify_hostname", ONE, "-CAfile", str(tmp_path / "ca.pem"), "-no_ign_eof",
            ],
            input=b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nQ\n",
            capture_output=True,
            timeout=20,
            check=False,
        )  # fmt: skip
        said = done.stdout.decode(errors="replace")
        assert f"ALPN protocol: {alpn}" in said, said + done.stderr.decode()
        [record] = proxy.wait_records(1)
    assert (record["route"], record["sni"], record["alpn"]) == (route, ONE, alpn)


def test_a_name_that_no_route_has_is_refused(tmp_path: Path) -> None:
    with site(tmp_path) as proxy:
        context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        with pytest.raises(OSError), proxy.connect("web") as client:  # noqa: PT011
            context.wrap_socket(client, server_hostname="example.org")
        [record] = proxy.wait_records(1)
    assert (record["why"], record["sni"], record["phase"]) == ("no_route", "example.org", "route")
