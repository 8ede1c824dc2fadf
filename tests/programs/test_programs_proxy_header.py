"""PROXY headers that haproxy, nginx and curl write, and what haproxy and nginx read in ours.

The headers alone are tried here, without a proxy of ours in between.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from harness.load import read_to_end
from harness.proxy import connect
from harness.proxy_header import take_header
from harness.serving import Upstream, serving
from harness.wait import wait_until
from real_programs import free_port, need, program, run

from spliceproxy.wire.proxy_protocol import (
    LOCAL_V2,
    UNKNOWN_V1,
    Header,
    SocketAddress,
    Ssl,
    Tlvs,
    build_v1,
    build_v2,
)

NAME = "www.example.com"
REQUEST = b"GET / HTTP/1.0\r\n\r\n"
V4, OTHER_V4 = ("203.0.113.7", 51234), ("192.0.2.10", 443)
V6, OTHER_V6 = ("2001:db8::7", 51234), ("2001:db8::10", 443)


def read_header(sock: socket.socket, _upstream: Upstream) -> Header:
    """Take the header, which is the result; then read the request, and answer."""
    found = take_header(sock)
    request = b""
    while not request.endswith(b"\r\n\r\n") and (more := sock.recv(4096)):
        request += more
    sock.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
    return found


def header_of(upstream: Upstream, source: object) -> Header:
    """The one that tells of this client. (Whoever waited for the program came through it too.)"""

    def found() -> Header | None:
        return next((header for header in upstream.results if header.source == source), None)

    header = wait_until(found, 10, f"a header of {source}")
    assert header is not None
    return header


@contextmanager
def haproxy(tmp_path: Path, text: str, ready: int) -> Iterator[None]:
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        "defaults\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n" + text
    )
    command = [need("haproxy"), "-db", "-f", config]
    with program(command, tmp_path / "haproxy.log", ("127.0.0.1", ready)):
        yield


@contextmanager
def nginx(tmp_path: Path, text: str, ready: int) -> Iterator[None]:
    module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    load = f"load_module {module};\n" if module.exists() else ""
    user = "user root;\n" if os.geteuid() == 0 else ""
    config = tmp_path / "nginx.conf"
    config.write_text(
        f"{load}{user}daemon off;\nmaster_process off;\npid {tmp_path}/pid;\n"
        f"error_log {tmp_path}/error.log;\nevents {{}}\n{text}"
    )
    command = [need("nginx"), "-p", tmp_path, "-c", config]
    with program(command, tmp_path / "nginx.log", ("127.0.0.1", ready)):
        yield


def test_what_haproxy_says_of_a_tls_client_is_read(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.issue_cert(NAME).private_key_and_cert_chain_pem.write_to_path(tmp_path / "www.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    authority.issue_cert("client@example.com", common_name="J\u00fcrgen").configure_cert(context)
    context.set_alpn_protocols(["spliced"])
    port = free_port()
    with serving("v4", read_header) as upstream:
        text = f"""
listen tls
  mode tcp
  bind 127.0.0.1:{port} ssl crt {tmp_path}/www.pem ca-file {tmp_path}/ca.pem verify required \
alpn spliced
  unique-id-format %ts-%ci-%cp
  server up {upstream.address} send-proxy-v2 \
proxy-v2-options ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,crc32c,unique-id
"""
        with (
            haproxy(tmp_path, text, port),
            connect(("127.0.0.1", port)) as sock,
            context.wrap_socket(sock, server_hostname=NAME) as client,
        ):
            address = client.getsockname()
            cipher, version = client.cipher(), client.version()
            client.sendall(REQUEST)
            header = header_of(upstream, address)
    assert cipher is not None
    tlvs = header.tlvs
    assert (header.version, header.local, header.family) == (2, False, "tcp4")
    assert (header.source, header.destination) == (address, ("127.0.0.1", port))
    assert tlvs.crc32c
    assert tlvs.authority == NAME
    assert tlvs.alpn == b"spliced"
    assert tlvs.unique_id is not None
    assert tlvs.unique_id.endswith(f"-{address[0]}-{address[1]}".encode())
    assert tlvs.ssl is not None
    assert tlvs.ssl.client == Ssl.TLS | Ssl.CERTIFICATE_NOW | Ssl.CERTIFICATE_IN_SESSION
    assert (tlvs.ssl.verify, tlvs.ssl.cn) == (0, "J\u00fcrgen")
    assert (tlvs.ssl.cipher, tlvs.ssl.version) == (cipher[0], version)
    assert tlvs.ssl.sig_alg is not None
    assert tlvs.ssl.key_alg is not None


@pytest.mark.parametrize(("option", "version"), [("send-proxy", 1), ("send-proxy-v2", 2)])
def test_what_haproxy_says_of_clients_and_in_its_checks_is_read(
    option: str, version: int, tmp_path: Path
) -> None:
    ports = {"v4": free_port(), "v6": free_port("v6")}
    with serving("v4", read_header) as upstream, serving("v4", read_header) as checked:
        text = f"""
listen plain
  mode tcp
  bind 127.0.0.1:{ports["v4"]}
  bind [::1]:{ports["v6"]}
  bind unix@{tmp_path}/plain.sock
  server up {upstream.address} {option}
backend checks
  mode tcp
  option httpchk GET /
  server up {checked.address} {option} check check-send-proxy inter 100ms
"""
        with haproxy(tmp_path, text, ports["v4"]):
            wait_until(lambda: checked.results, 10, "a health check")
            for name, family in (
                (("127.0.0.1", ports["v4"]), "tcp4"),
                (("::1", ports["v6"]), "tcp6"),
                (f"{tmp_path}/plain.sock", "unspec"),
            ):
                with connect(name) as sock:
                    sock.sendall(REQUEST)
                    source = sock.getsockname()[:2] if family != "unspec" else None
                    header = header_of(upstream, source)
                    assert (header.version, header.family) == (version, family)
                    assert header.destination == (name if source else None)
    # Version 1 has no LOCAL; haproxy tells its own two addresses.
    assert {(check.version, check.local) for check in checked.results} == {(version, version == 2)}


def test_the_lines_of_nginx_and_curl_are_read(tmp_path: Path) -> None:
    port = free_port()
    with serving("v4", read_header) as upstream:
        text = (
            f"stream {{ server {{ listen 127.0.0.1:{port}; proxy_pass {upstream.address};"
            " proxy_protocol on; } }"
        )
        with nginx(tmp_path, text, port), connect(("127.0.0.1", port)) as sock:
            sock.sendall(REQUEST)
            header = header_of(upstream, sock.getsockname())
            assert (header.version, header.destination) == (1, ("127.0.0.1", port))
    with serving("v4", read_header) as upstream:
        run([need("curl"), "-s", "--haproxy-protocol", f"http://{upstream.address}/"])
        (header,) = wait_until(lambda: upstream.results, 10, "a header of curl")
        assert (header.version, header.family) == (1, "tcp4")
        assert header.source[0] == "127.0.0.1"
        assert header.destination == upstream.name


WRITTEN: list[tuple[SocketAddress, SocketAddress, tuple[str, int], tuple[str, int]]] = [
    (V4, OTHER_V4, V4, OTHER_V4),
    (V6, OTHER_V6, V6, OTHER_V6),
    (V4, OTHER_V6, ("::ffff:203.0.113.7", 51234), OTHER_V6),
    (("::ffff:203.0.113.7", 51234), ("::ffff:192.0.2.10", 443), V4, OTHER_V4),
]
"""What we tell, and what a reader is to find."""


def answer(port: int, header: bytes) -> list[str]:
    """What a reader tells of a header that came with a request."""
    with connect(("127.0.0.1", port)) as sock:
        sock.sendall(header + REQUEST)
        head, _, body = read_to_end(sock).partition(b"\r\n\r\n")
        assert b" 200 " in head.partition(b"\r\n")[0], head
        return body.decode().split()


def refused(port: int, header: bytes) -> bool:
    """Whether a reader hangs up without an answer."""
    with connect(("127.0.0.1", port)) as sock:
        sock.sendall(header + REQUEST)
        try:
            return sock.recv(1) == b""
        except ConnectionResetError:
            return True


def test_haproxy_reads_what_we_write(tmp_path: Path) -> None:
    port = free_port()
    text = f"""
frontend reader
  mode http
  bind 127.0.0.1:{port} accept-proxy
  http-request return status 200 content-type text/plain lf-string \
"%[src] %[src_port] %[dst] %[dst_port] %[fc_pp_authority] %[fc_pp_unique_id]"
"""
    said = Tlvs(
        alpn=b"h2",
        authority=NAME,
        unique_id=b"connection-1",
        ssl=Ssl(Ssl.TLS, 1, "TLSv1.3", cipher="TLS_AES_256_GCM_SHA384"),
        others=((0xE0, b"ours"),),
        crc32c=True,
    )
    with haproxy(tmp_path, text, port):
        for source, destination, *found in WRITTEN:
            texts = [str(part) for address in found for part in address]
            assert answer(port, build_v1(source, destination))[:4] == texts
            assert answer(port, build_v2(source, destination, said)) == [
                *texts,
                NAME,
                "connection-1",
            ]
        for header in (LOCAL_V2, UNKNOWN_V1, build_v2(None, None, said)):
            assert answer(port, header)[0] == "127.0.0.1"
        broken = bytearray(build_v2(V4, OTHER_V4, said))
        broken[20] ^= 1
        assert refused(port, broken), "haproxy did not look at the checksum"


def test_nginx_reads_what_we_write(tmp_path: Path) -> None:
    port = free_port()
    names = " ".join(f"$proxy_protocol_{n}" for n in ("addr", "port", "server_addr", "server_port"))
    text = (
        f"http {{ access_log off; server {{ listen 127.0.0.1:{port} proxy_protocol;"
        f' return 200 "{names}"; }} }}'
    )
    with nginx(tmp_path, text, port):
        for source, destination, *found in WRITTEN:
            texts = [str(part) for address in found for part in address]
            assert answer(port, build_v1(source, destination)) == texts
            assert answer(port, build_v2(source, destination, Tlvs(authority=NAME))) == texts
        for header in (LOCAL_V2, UNKNOWN_V1, build_v2("", "/run/web.sock")):
            assert answer(port, header) in ([], ["127.0.0.1"])
