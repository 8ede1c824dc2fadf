"""TLS begun here, with nginx, HAProxy and OpenSSL as upstreams: sessions and health checks."""

from __future__ import annotations

import http.client
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest
from harness.load import read_to_end
from harness.proxy import Event, Proxy, connect, running_proxy
from harness.tls import Authority
from harness.wait import wait_until
from real_programs import free_port, need, run
from tls_programs import FINE, SERVERS, VERSIONS, Call, by_curl, haproxy, nginx, tls_servers

NAME, END = "app.example.com", "www.example.com"
KEYS = list(product(SERVERS, VERSIONS))
REQUEST = b"GET /fine HTTP/1.0\r\n\r\n"
FALSE = {
    "name": ("{{ca: {ca}, name: other.example.com, certificate: {me}}}", "Hostname mismatch"),
    "authority": ("{{ca: {stranger}, name: {name}, certificate: {me}}}", "certificate"),
}
"""What makes an upstream one that cannot prove itself."""


@dataclass
class Scene:
    """A proxy before all servers, which want certificates of their clients."""

    proxy: Proxy
    ours: Authority

    def ask(self, listener: str) -> tuple[bytes, Event]:
        """What a client without TLS is answered, and the record."""
        known = {record["session"] for record in self.proxy.records()}
        came = b""
        try:
            with self.proxy.connect(listener) as client:
                client.sendall(REQUEST)
                came = read_to_end(client)
        except ConnectionError:
            pass
        return came, self.record(listener, known)

    def record(self, listener: str, known: set[str]) -> Event:
        """The one that came since."""

        def new() -> Event | None:
            records = self.proxy.records()
            return next(
                (
                    one
                    for one in records
                    if one["listener"] == listener and one["session"] not in known
                ),
                None,
            )

        found = wait_until(new, 10, "a record")
        assert found is not None
        return found


def named(what: str, key: tuple[str, str]) -> str:
    return f"{what}-{key[0]}-{key[1].replace('.', '')}"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("tls")
    ours, theirs = Authority(directory / "ours"), Authority(directory / "theirs")
    stranger = Authority(directory / "stranger")
    me, expired = theirs.certificate("me"), theirs.certificate("late", expired=True)
    with ExitStack() as stack:
        certificate = theirs.certificate(NAME)
        servers = stack.enter_context(tls_servers(directory, certificate, theirs.file))
        known = f"{{ca: {theirs.file}, name: {NAME}"
        kinds = {
            "good": f"{known}, certificate: {me}}}",
            "none": f"{known}}}",
            "late": f"{known}, certificate: {expired}}}",
        } | {
            why: text.format(ca=theirs.file, me=me, stranger=stranger.file, name=NAME)
            for why, (text, _) in FALSE.items()
        }
        listeners = pools = ""
        for kind, key in product(kinds, KEYS):
            name = named(kind, key)
            pool = f"upstreams: '{servers[key]}', tls: {kinds[kind]}"
            check = "health: {check: http, path: /fine, interval: 300ms, timeout: 3s}"
            for each, text in ((name, pool), (f"checked-{name}", f"{pool}, {check}")):
                listeners += f"  {each}: {{bind: 127.0.0.1:0, pool: {each}}}\n"
                pools += f"  {each}: {{{text}}}\n"
            if kind == "good":
                listeners += (
                    f"  tls-{name}: {{bind: 127.0.0.1:0, pool: {name}, "
                    f"tls: {{certificates: {ours.certificate(END)}}}}}\n"
                )
        proxy = stack.enter_context(running_proxy(f"listeners:\n{listeners}pools:\n{pools}"))
        yield Scene(proxy, ours)


@pytest.mark.parametrize("key", KEYS, ids="-".join)
def test_a_client_in_clear_is_served_by_tls(scene: Scene, key: tuple[str, str]) -> None:
    name = named("good", key)
    came, record = scene.ask(name)
    assert came.endswith(b"fine\n")
    # Who has answered need not wait for close_notify: s_server does not send one at all.
    whys = ("done", "upstream_reset", "tls_truncated") if key[0] == "openssl" else ("done",)
    assert record["why"] in whys, record
    assert (record["tls_version"], record["bytes_up"]) == (None, len(REQUEST))


@pytest.mark.parametrize("outside", VERSIONS)
@pytest.mark.parametrize("key", KEYS, ids="-".join)
def test_tls_that_ended_here_begins_again(scene: Scene, key: tuple[str, str], outside: str) -> None:
    name = f"tls-{named('good', key)}"
    known = {record["session"] for record in scene.proxy.records()}
    call = Call(scene.proxy.port(name), END, outside, scene.ours)
    if key[0] == "openssl":  # -WWW serves HTTP/1.0
        assert by_curl(call, "--http1.0") == FINE
    else:
        assert by_curl(call) == FINE
    record = scene.record(name, known)
    assert record["tls_version"] == f"TLSv{outside}"
    assert record["upstream"]


@pytest.mark.parametrize("why", FALSE)
@pytest.mark.parametrize("key", KEYS, ids="-".join)
def test_a_server_that_cannot_prove_itself_is_not_spoken_with(
    scene: Scene, key: tuple[str, str], why: str
) -> None:
    name = named(why, key)
    came, record = scene.ask(name)
    assert came == b""
    assert (record["why"], record["phase"]) == ("tls_handshake", "connect")
    assert "certificate verify failed" in record["tls_error"]
    assert FALSE[why][1] in record["tls_error"]
    checked = f"checked-{name}"
    down = scene.proxy.wait_log("upstream down", where=lambda line: line["pool"] == checked)
    assert FALSE[why][1] in down["reason"]


@pytest.mark.parametrize("what", ["none", "late"])
@pytest.mark.parametrize("key", KEYS, ids="-".join)
def test_a_server_that_does_not_like_our_certificate_says_why(
    scene: Scene, key: tuple[str, str], what: str
) -> None:
    came, record = scene.ask(named(what, key))
    if key[0] == "nginx":  # it takes any, to answer in HTTP
        assert b" 400 Bad Request" in came
        assert b"certificate" in came
        return
    assert came == b""
    assert record["why"] in ("tls_handshake", "tls_error", "upstream_reset"), record
    if record["why"] != "upstream_reset":  # which may come before the alert is read
        assert record["closed_by"] == ("upstream" if key[1] == "1.3" else "proxy")
        assert "alert" in record["tls_error"]


def test_checks_by_http_pass_where_sessions_do_and_not_where_they_do_not(scene: Scene) -> None:
    kinds = (*FALSE, "none", "late")
    bad = {f"checked-{named(kind, key)}" for kind, key in product(kinds, KEYS)}

    def down() -> set[str]:
        return {line["pool"] for line in scene.proxy.log("upstream down")}

    wait_until(lambda: down() >= bad, 20, "the end of those that fail")
    assert down() == bad
    assert scene.proxy.log("upstream up") == []


@contextmanager
def announced(directory: Path, certificate: Path) -> Iterator[dict[str, str]]:
    """nginx and HAProxy that want a PROXY header, and then TLS; both tell what it says."""
    ports = {name: free_port() for name in ("nginx", "haproxy")}
    with (
        nginx(
            directory / "nginx",
            f"server {{ listen 127.0.0.1:{ports['nginx']} ssl proxy_protocol;"
            f" ssl_certificate {certificate}; ssl_certificate_key {certificate};"
            ' return 200 "$proxy_protocol_addr $proxy_protocol_port\\n"; }',
            ports["nginx"],
        ),
        haproxy(
            directory / "haproxy",
            f"listen tls\n  bind 127.0.0.1:{ports['haproxy']} accept-proxy ssl crt {certificate}\n"
            "  http-request return status 200 content-type text/plain lf-string "
            '"%[src] %[src_port] %[fc_pp_authority]\\n"\n',
            ports["haproxy"],
        ),
    ):
        yield {name: f"127.0.0.1:{port}" for name, port in ports.items()}


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_proxy_header_goes_before_tls_and_tells_of_a_client_whose_tls_ended_here(
    tmp_path: Path, version: str
) -> None:
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    with announced(tmp_path, theirs.certificate(NAME)) as servers:
        text, pools = "listeners:\n", "pools:\n"
        for name, address in servers.items():
            tls = f"{{certificates: {ours.certificate(END)}, alpn: http/1.1}}"
            text += f"  {name}: {{bind: 127.0.0.1:0, pool: {name}, tls: {tls}}}\n"
            text += f"  {name}-clear: {{bind: 127.0.0.1:0, pool: {name}}}\n"
            pools += (
                f"  {name}: {{upstreams: '{address}', send_proxy: {version}, "
                f"tls: {{ca: {theirs.file}, name: {NAME}}}, "
                "health: {check: http, interval: 100ms, timeout: 3s}}\n"
            )
        with running_proxy(text + pools) as proxy:
            for name in servers:
                with connect(proxy.address(f"{name}-clear")) as client:
                    client.sendall(REQUEST)
                    assert words(read_to_end(client)) == words_of(client)
            for server, told in (("haproxy", [END] * (version == "v2")), ("nginx", [])):
                if (server, version) == ("nginx", "v2") and small_headers():
                    continue
                with (
                    connect(proxy.address(server)) as plain,
                    ours.client(alpn=["http/1.1"]).wrap_socket(
                        plain, server_hostname=END
                    ) as client,
                ):
                    client.sendall(REQUEST)
                    said = words(b"".join(iter(lambda: client.recv(65536), b"")))
                    assert said == [*words_of(client), *told]
            assert proxy.log("upstream down") == []


def words(response: bytes) -> list[str]:
    return response.rpartition(b"\r\n\r\n")[2].decode().split()


def words_of(sock: socket.socket) -> list[str]:
    ip, port = sock.getsockname()
    return [ip, str(port)]


def small_headers() -> bool:
    """Whether this nginx takes 107 bytes of a header before TLS, which is too few for what version
    2 tells of a client with TLS. Those from 1.23.2 on take 4096."""
    said = run([need("nginx"), "-v"], with_stderr=True)
    found = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", said)
    assert found is not None
    return tuple(map(int, found.groups())) < (1, 23, 2)


def test_the_name_that_http_is_asked_by_is_the_one_of_tls(tmp_path: Path) -> None:
    """HAProxy with `strict-sni` and a rule for the Host, as a server of many names has them."""
    theirs, port = Authority(tmp_path / "theirs"), free_port()
    text = (
        f"listen tls\n  bind 127.0.0.1:{port} ssl strict-sni crt {theirs.certificate(NAME)}\n"
        "  http-request deny deny_status 421 unless { ssl_fc_sni -m str " + NAME + " }"
        " { req.hdr(host),host_only -m str " + NAME + " }\n"
        "  http-request return status 200\n"
    )
    with haproxy(tmp_path / "haproxy", text, port):
        yaml = (
            "listeners:\n  web: {bind: 127.0.0.1:0, pool: app}\npools:\n"
            f"  app: {{upstreams: '127.0.0.1:{port}', tls: {{ca: {theirs.file}, name: {NAME}}},\n"
            "    health: {check: http, interval: 100ms, timeout: 3s, fall: 1}}\n"
        )
        with running_proxy(yaml) as proxy:
            for host, status in ((NAME, 200), ("other.example.com", 421)):
                connection = http.client.HTTPConnection("127.0.0.1", proxy.port("web"), timeout=10)
                connection.request("GET", "/", headers={"Host": host})
                assert connection.getresponse().status == status
                connection.close()
            assert proxy.log("upstream down") == []
