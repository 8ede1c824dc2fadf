"""Real programs that speak TLS, as servers and as clients: each asks for `/fine`, and gets it.

A server speaks one version of TLS alone, and so does a client: what was spoken is known.
"""

from __future__ import annotations

import http.client
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from harness.ports import free_port
from harness.proxy import connect
from harness.tls import Authority
from real_programs import need, program, run

FINE = "fine\n"
VERSIONS = ("1.2", "1.3")
SERVERS = ("openssl", "nginx", "haproxy")
CLIENTS = ("openssl", "curl", "python", "nginx", "haproxy")


@dataclass(frozen=True)
class Call:
    """Who is to be asked, and how."""

    port: int
    name: str
    """The server's, for SNI; its certificate must be for it."""
    version: str
    authority: Authority
    """The one that is trusted."""


@contextmanager
def nginx(directory: Path, http_text: str, port: int) -> Iterator[None]:
    """nginx with this in its `http` block; it accepts at `port` first."""
    directory.mkdir(exist_ok=True)
    config = directory / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(
        f"{user} daemon off; master_process off; pid {directory}/pid;\n"
        f"error_log {directory}/error.log; events {{ worker_connections 4096; }}\n"
        f"http {{ access_log off; client_body_temp_path {directory}/body;\n"
        f"proxy_temp_path {directory}/proxy; client_max_body_size 0;\n"
        f"keepalive_requests 1000000;\n{http_text}\n}}\n"
    )
    command = [need("nginx"), "-p", directory, "-c", config]
    with program(command, directory / "nginx.log", ("127.0.0.1", port)):
        yield


@contextmanager
def haproxy(directory: Path, text: str, port: int) -> Iterator[None]:
    """haproxy with these sections; it accepts at `port` first."""
    directory.mkdir(exist_ok=True)
    config = directory / "haproxy.cfg"
    config.write_text(
        "defaults\n  mode http\n  option http-server-close\n"
        f"  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n{text}"
    )
    command = [need("haproxy"), "-db", "-f", config]
    with program(command, directory / "haproxy.log", ("127.0.0.1", port)):
        yield


@contextmanager
def s_server(directory: Path, port: int, *options: object) -> Iterator[None]:
    """`openssl s_server`, which serves the files of a directory."""
    directory.mkdir(exist_ok=True)
    (directory / FINE.strip()).write_text(FINE)
    command = [need("openssl"), "s_server", "-accept", f"127.0.0.1:{port}", "-WWW", *options]
    log = directory / f"s_server-{port}.log"
    with program(command, log, ("127.0.0.1", port), cwd=directory):
        yield


@contextmanager
def tls_servers(
    directory: Path, certificate: Path, client_ca: Path | None = None
) -> Iterator[dict[tuple[str, str], str]]:
    """All `SERVERS`, for each version one; their addresses by (server, version). With `client_ca`
    they want certificates of that authority from their clients."""
    wants = {"nginx": "", "haproxy": "", "openssl": ()}
    if client_ca is not None:
        wants = {
            "nginx": f"ssl_verify_client on; ssl_client_certificate {client_ca};\n",
            "haproxy": f" verify required ca-file {client_ca}",
            "openssl": ("-Verify", 1, "-verify_return_error", "-CAfile", client_ca),
        }
    ports = {key: free_port() for key in product(SERVERS, VERSIONS)}
    sections = {"nginx": "", "haproxy": ""}
    with ExitStack() as stack:
        for version in VERSIONS:
            sections["nginx"] += (
                f"server {{ listen 127.0.0.1:{ports['nginx', version]} ssl;\n"
                f"ssl_certificate {certificate}; ssl_certificate_key {certificate};\n"
                f"{wants['nginx']}ssl_protocols TLSv{version};\n"
                f"location = /fine {{ return 200 'fine\\n'; }} }}\n"
            )
            sections["haproxy"] += (
                f"listen tls{version}\n"
                f"  bind 127.0.0.1:{ports['haproxy', version]} ssl crt {certificate}"
                f" ssl-min-ver TLSv{version} ssl-max-ver TLSv{version}{wants['haproxy']}\n"
                '  http-request return status 200 content-type text/plain string "fine\\n"\n'
            )
            option = "-tls" + version.replace(".", "_")
            key = ("-cert", certificate, "-key", certificate, *wants["openssl"])
            port = ports["openssl", version]
            stack.enter_context(s_server(directory / "openssl", port, *key, option))
        for server, start in (("nginx", nginx), ("haproxy", haproxy)):
            port = ports[server, VERSIONS[0]]
            stack.enter_context(start(directory / server, sections[server], port))
        yield {key: f"127.0.0.1:{port}" for key, port in ports.items()}


@contextmanager
def tls_clients(directory: Path, calls: Sequence[Call]) -> Iterator[dict[str, Callable[..., str]]]:
    """All `CLIENTS`: functions that make one of these calls, and return the body of the answer."""
    ports = {"nginx": free_port(), "haproxy": free_port()}
    nginx_text = f"server {{ listen 127.0.0.1:{ports['nginx']};\n"
    frontend = f"listen plain\n  bind 127.0.0.1:{ports['haproxy']}\n  http-request set-path /fine\n"
    backends = ""
    for call in calls:
        nginx_text += (
            f"location = {_path(call)} {{ proxy_pass https://127.0.0.1:{call.port}/fine;\n"
            f"proxy_ssl_server_name on; proxy_ssl_name {call.name}; proxy_ssl_verify on;\n"
            f"proxy_ssl_trusted_certificate {call.authority.file};\n"
            f"proxy_ssl_protocols TLSv{call.version}; }}\n"
        )
        backend = f"{call.name}_{call.version}"
        frontend += f"  use_backend {backend} if {{ hdr(x-call) {backend} }}\n"
        backends += (
            f"backend {backend}\n  server us 127.0.0.1:{call.port} ssl sni str({call.name})"
            f" verify required verifyhost {call.name} ca-file {call.authority.file}"
            f" ssl-min-ver TLSv{call.version} ssl-max-ver TLSv{call.version}\n"
        )
    with (
        nginx(directory / "nginx-client", nginx_text + "}", ports["nginx"]),
        haproxy(directory / "haproxy-client", frontend + backends, ports["haproxy"]),
    ):
        yield {
            "openssl": by_openssl,
            "curl": by_curl,
            "python": by_python,
            "nginx": lambda call: _by_proxy(ports["nginx"], call),
            "haproxy": lambda call: _by_proxy(ports["haproxy"], call),
        }


def by_openssl(call: Call, *options: object, name: str = "fine") -> str:
    """With s_client."""
    said = run(
        [
            *(need("openssl"), "s_client", "-quiet", "-verify_return_error"),
            *("-connect", f"127.0.0.1:{call.port}", "-CAfile", call.authority.file),
            *("-servername", call.name, "-verify_hostname", call.name),
            *("-tls" + call.version.replace(".", "_"), *options),
        ],
        input=f"GET /{name} HTTP/1.0\r\n\r\n".encode(),
    )
    return said.replace("\r", "").partition("\n\n")[2]


def by_curl(call: Call, *options: object, path: str = "/fine") -> str:
    """With curl."""
    return run(
        [
            *(need("curl"), "-sS", "--fail", "--max-time", "20", "--cacert", call.authority.file),
            *("--connect-to", f"{call.name}:443:127.0.0.1:{call.port}"),
            *(f"--tlsv{call.version}", "--tls-max", call.version, *options),
            f"https://{call.name}{path}",
        ]
    )


def by_python(call: Call) -> str:
    """With the ssl module."""
    context = call.authority.client(call.version)
    with (
        connect(("127.0.0.1", call.port)) as sock,
        context.wrap_socket(sock, server_hostname=call.name) as client,
    ):
        assert client.version() == f"TLSv{call.version}"
        client.sendall(b"GET /fine HTTP/1.0\r\n\r\n")
        came = b""
        while more := client.recv(65536):
            came += more
        with suppress(OSError):  # who has said everything may be gone already
            client.unwrap()
    return came.partition(b"\r\n\r\n")[2].decode()


def _path(call: Call) -> str:
    return f"/{call.name}/{call.version}"


def _by_proxy(port: int, call: Call) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", _path(call), headers={"x-call": f"{call.name}_{call.version}"})
        response = connection.getresponse()
        body = response.read().decode()
        assert response.status == 200, f"{response.status} {body}"
        return body
    finally:
        connection.close()
