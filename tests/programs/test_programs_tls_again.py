"""TLS on both sides of us, over every family of addresses; and sessions of TLS that are resumed."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import pytest
from harness import upstreams
from harness.load import BLOCK
from harness.ports import free_port
from harness.proxy import Proxy, connect_name, running_proxy
from harness.serving import FAMILIES
from harness.tls import VERSIONS, Authority, TlsPeer
from harness.wait import wait_until
from real_programs import bind_text, need, run
from tls_programs import FINE, Call, by_curl, nginx

NAME = "www.example.com"


@pytest.fixture(scope="module")
def roads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Proxy, Authority]]:
    """A proxy with a listener of every family for a TLS server of every family."""
    directory = tmp_path_factory.mktemp("roads")
    authority = Authority(directory)
    file = authority.certificate(NAME)
    ports = {family: free_port(family) for family in ("v4", "v6")}
    far = {
        "v4": f"127.0.0.1:{ports['v4']}",
        "v6": f"[::1]:{ports['v6']}",
        "unix": f"unix:{directory}/nginx.sock",
    }
    listens = "".join(f"listen {address} ssl;" for address in far.values())
    server = (
        f"server {{ {listens} ssl_certificate {file}; ssl_certificate_key {file};\n"
        "location = /fine { return 200 'fine\\n'; } }"
    )
    lines = ["listeners:"]
    for one, other in product(FAMILIES, FAMILIES):
        bind = bind_text(one, directory, f"{one}_{other}")
        lines.append(
            f"  {one}_{other}: {{bind: '{bind}', tls: {{certificates: {file}}}, pool: {other}}}"
        )
    lines.append("pools:")
    for family, address in far.items():
        tls = f"{{ca: {authority.file}, name: {NAME}}}"
        lines.append(f"  {family}: {{upstreams: '{address}', tls: {tls}}}")
    with nginx(directory, server, ports["v4"]), running_proxy("\n".join(lines)) as proxy:
        yield proxy, authority


@pytest.mark.parametrize("far", FAMILIES)
@pytest.mark.parametrize("near", FAMILIES)
def test_every_road_carries_tls_on_both_sides(
    roads: tuple[Proxy, Authority], near: str, far: str
) -> None:
    proxy, authority = roads
    listener = f"{near}_{far}"
    [address] = proxy.addresses(listener)
    name = connect_name(address)
    unix = isinstance(name, str)
    where = ("--unix-socket", name) if unix else ("--connect-to", f"::{address}")
    command = [need("curl"), "-sS", "--fail", "--max-time", "20", "--cacert", authority.file]
    assert run([*command, *where, f"https://{NAME}/fine"]) == FINE
    records = wait_until(
        lambda: [one for one in proxy.records() if one["listener"] == listener], 10, "the record"
    )
    assert [(one["why"], one["tls_version"]) for one in records] == [("done", "TLSv1.3")]


def session(
    proxy: Proxy, context: ssl.SSLContext, before: ssl.SSLSession | None = None
) -> tuple[bool, ssl.SSLSession | None, bytes | None]:
    """Whether it is an earlier one that goes on; what the next one needs; the certificate."""
    client = TlsPeer(proxy.connect("web"), context, NAME)
    if before is not None:
        client.tls.session = before
    with client:
        client.send(b"hello")
        assert client.read_exactly(5) == b"hello"
        client.close_write()
        assert client.read_to_end() == b""
        return client.tls.session_reused, client.tls.session, client.tls.getpeercert(True)


@pytest.mark.parametrize("client_certificate", ["off", "required"])
@pytest.mark.parametrize("version", VERSIONS)
def test_sessions_are_resumed_until_the_certificate_is_another_one(
    version: str, client_certificate: str, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    file, mine = authority.certificate(NAME), authority.certificate("client.example.com")
    asks = f", client_ca: {authority.file}" if client_certificate == "required" else ""
    with ExitStack() as stack:
        upstream = stack.enter_context(upstreams.echo())
        proxy = stack.enter_context(
            running_proxy(
                f"listeners: {{web: {{bind: '127.0.0.1:0', pool: app, "
                f"tls: {{certificates: {file}{asks}}}}}}}\n"
                f"pools: {{app: {{upstreams: '{upstream.address}'}}}}\n"
            )
        )
        context = authority.client(version, certificate=mine)
        reused, last, first_shown = session(proxy, context)
        assert not reused
        for _ in range(3):
            reused, last, shown = session(proxy, context, last)
            assert (reused, shown) == (True, first_shown)
        authority.certificate(NAME)
        # Who resumes is shown nothing; who cannot is shown the new one, and nobody is turned away.
        wait_until(lambda: not session(proxy, context, last)[0], 10, "a session that is new")
        assert session(proxy, context)[2] != first_shown
        assert {one["why"] for one in proxy.wait_records(6)} == {"done"}


def test_with_several_workers_whoever_cannot_resume_begins_anew(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with (
        upstreams.echo() as upstream,
        running_proxy(
            f"listeners: {{web: {{bind: '127.0.0.1:0', pool: app, "
            f"tls: {{certificates: {authority.certificate(NAME)}}}}}}}\n"
            f"pools: {{app: {{upstreams: '{upstream.address}'}}}}\n",
            workers=4,
        ) as proxy,
    ):
        context = authority.client()
        last, resumed = None, []
        for _ in range(40):
            reused, last, _shown = session(proxy, context, last)
            resumed.append(reused)
        assert {one["why"] for one in proxy.wait_records(40)} == {"done"}
    print(f"{sum(resumed)} of {len(resumed)} were resumed")
    assert not all(resumed), "four workers, and each has keys of its own for its tickets"


def test_bandwidth_holds_for_tls_clients(tmp_path: Path) -> None:
    authority, port, size, rate = Authority(tmp_path), free_port(), 4 * BLOCK, 2 * BLOCK
    (tmp_path / "file").write_bytes(bytes(size))
    text = f"server {{ listen 127.0.0.1:{port}; root {tmp_path}; }}"
    with (
        nginx(tmp_path / "nginx", text, port),
        running_proxy(
            f"listeners: {{web: {{bind: '127.0.0.1:0', pool: app, bandwidth: {{down: 2MiB/s}}, "
            f"tls: {{certificates: {authority.certificate(NAME)}}}}}}}\n"
            f"pools: {{app: {{upstreams: '127.0.0.1:{port}'}}}}\n"
        ) as proxy,
    ):
        call = Call(proxy.port("web"), NAME, "1.3", authority)
        began = time.monotonic()
        assert by_curl(call, "-w", "%{size_download}", "-o", "/dev/null", path="/file") == str(size)
        seconds = time.monotonic() - began
        [record] = proxy.wait_records(1)
    print(f"{size / seconds / BLOCK:.2f} MiB/s")
    assert record["why"] in ("done", "tls_truncated")
    assert seconds >= 0.8 * size / rate
