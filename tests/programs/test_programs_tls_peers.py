"""TLS ended here, passed through and begun here again, on one port, with the programs that are met
in practice on both sides of us."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from harness.proxy import Event, Proxy, running_proxy
from harness.tls import Authority
from real_programs import nginx
from tls_programs import CLIENTS, FINE, SERVERS, VERSIONS, Call, tls_clients, tls_servers

END = "end.example.com"


def pass_name(server: str, version: str) -> str:
    return f"{server}-{version.replace('.', '')}.pass.example.com"


def again_name(server: str, version: str) -> str:
    return pass_name(server, version).replace("pass", "again")


@dataclass
class Scene:
    """A proxy between all of them."""

    proxy: Proxy
    clients: dict[str, Callable[..., str]]
    calls: dict[tuple[str, str], Call]
    """By name and version."""

    def call(self, client: str, name: str, version: str) -> Event:
        """Have a client ask for `name`: the record of its session."""
        before = len(self.proxy.records())
        assert self.clients[client](self.calls[name, version]) == FINE
        record = self.proxy.wait_records(before + 1)[before]
        assert record["sni"] == name
        return record


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("tls")
    ours, theirs = Authority(directory / "ours"), Authority(directory / "theirs")
    with ExitStack() as stack:
        (directory / "plain").mkdir()
        plain = stack.enter_context(nginx(directory / "plain"))
        servers = stack.enter_context(
            tls_servers(directory, theirs.certificate("*.pass.example.com"))
        )
        routes = [
            f"{{sni: {pass_name(*key)}, tls: passthrough, pool: {'-'.join(key)}}}"
            for key in servers
        ]
        routes += [f"{{sni: {again_name(*key)}, pool: again-{'-'.join(key)}}}" for key in servers]
        pools = [
            f"  {'-'.join(key)}: {{upstreams: '{address}'}}\n"
            f"  again-{'-'.join(key)}: {{upstreams: '{address}', "
            f"tls: {{ca: {theirs.file}, name: {pass_name(*key)}}}}}\n"
            for key, address in servers.items()
        ]
        proxy = stack.enter_context(
            running_proxy(
                "listeners:\n"
                "  web:\n"
                "    bind: 127.0.0.1:0\n"
                f"    tls: {{certificates: {ours.certificate(END, '*.again.example.com')}}}\n"
                f"    routes: [{', '.join(routes)}]\n"
                "    pool: plain\n"
                f"pools:\n  plain: {{upstreams: '{plain['v4']}'}}\n{''.join(pools)}"
            )
        )
        port = proxy.port("web")
        calls = [Call(port, END, version, ours) for version in VERSIONS]
        calls += [Call(port, pass_name(*key), key[1], theirs) for key in servers]
        calls += [
            Call(port, again_name(*key), version, ours) for key in servers for version in VERSIONS
        ]
        clients = stack.enter_context(tls_clients(directory, calls))
        yield Scene(proxy, clients, {(call.name, call.version): call for call in calls})


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_ends_its_tls_here(scene: Scene, client: str, version: str) -> None:
    record = scene.call(client, END, version)
    assert (record["pool"], record["tls_version"]) == ("plain", f"TLSv{version}")
    assert record["tls_ms"] is not None
    assert record["tls_error"] is None
    # One that has all it wants may close before it reads our close_notify: its kernel resets then.
    assert record["why"] in ("done", "client_reset"), record


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_passes_through_to_a_server_on_the_same_port(
    scene: Scene, client: str, server: str, version: str
) -> None:
    record = scene.call(client, pass_name(server, version), version)
    assert (record["pool"], record["tls_version"]) == (f"{server}-{version}", None)
    # How it ends is theirs: some close when they have heard close_notify, others before.
    assert record["why"] in ("done", "client_reset", "upstream_reset"), record
    assert record["bytes_down"] > len(FINE) + 500, "the server's certificate is among them"


@pytest.mark.parametrize("near", VERSIONS)
@pytest.mark.parametrize("far", VERSIONS)
@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_clients_tls_ends_here_and_another_one_begins(
    scene: Scene, client: str, server: str, far: str, near: str
) -> None:
    record = scene.call(client, again_name(server, far), near)
    assert (record["pool"], record["tls_version"]) == (f"again-{server}-{far}", f"TLSv{near}")
    assert record["tls_error"] is None or record["why"] == "tls_truncated", record
    # s_server may close before it reads our close_notify, which is a reset then.
    assert record["why"] in ("done", "client_reset", "upstream_reset", "tls_truncated"), record
    assert record["bytes_down"] < len(FINE) + 500, "nothing but the answer"
