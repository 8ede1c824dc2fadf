"""Sessions with TLS die by reference count: OpenSSL's memory must not wait for the collector."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from harness import upstreams
from harness.load import read_to_end
from harness.proxy import Proxy, running_proxy
from harness.serving import Upstream, reset, serving
from harness.tls import VERSIONS, Authority, TlsPeer
from harness.wait import wait_until

NAME = "www.example.com"
EACH = 20
LEAVE = b"leave"
HOOK = Path(__file__).with_name("collected")


class Scene:
    """A proxy, those who sign, and the version of TLS that clients speak."""

    def __init__(self, proxy: Proxy, authority: Authority, file: Path) -> None:
        self.proxy = proxy
        self.authority = authority
        self.version = ""
        self._file = file

    def peer(self, listener: str = "web", name: str = NAME) -> TlsPeer:
        context = self.authority.client(self.version, certificate=self.authority.directory / "me")
        return TlsPeer(self.proxy.connect(listener), context, name)

    def collected(self) -> dict[str, int]:
        """What only the collector finds in the worker, by type, since the last time."""
        [worker] = self.proxy.worker_pids()
        self._file.unlink(missing_ok=True)
        os.kill(worker, signal.SIGRTMIN)
        wait_until(self._file.exists, 10, "the worker's answer")
        found: dict[str, int] = json.loads(self._file.read_text())
        return found


def done(scene: Scene) -> None:
    with scene.peer() as client:
        client.send(b"hello" * 10_000)
        assert client.read_exactly(50_000) == b"hello" * 10_000
        client.close_write()
        assert client.read_to_end() == b""


def cut_off(scene: Scene) -> None:
    with scene.peer() as client:
        client.send(b"hello")
        assert client.read_exactly(5) == b"hello"


def reset_by_the_client(scene: Scene) -> None:
    with scene.peer() as client:
        client.send(b"hello")
        assert client.read_exactly(5) == b"hello"
        reset(client.sock)


def reset_by_the_upstream(scene: Scene) -> None:
    with suppress(ConnectionError, ssl.SSLEOFError), scene.peer("resetting") as client:
        client.send(b"hello")
        client.read_to_end()


def tampered(scene: Scene) -> None:
    with scene.peer() as client, suppress(ssl.SSLError, ConnectionError):
        client.tls.write(b"hello")
        record = bytearray(client.outgoing.read())
        record[-1] ^= 1
        client.sock.sendall(record)
        client.read_to_end()


def no_tls(scene: Scene) -> None:
    with scene.proxy.connect("web") as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        read_to_end(client)


def no_certificate(scene: Scene) -> None:
    context = scene.authority.client(scene.version)
    with (
        suppress(ssl.SSLError, ConnectionError),
        TlsPeer(scene.proxy.connect("web"), context, NAME) as client,
    ):
        client.recv()


def gone_in_its_handshake(scene: Scene) -> None:
    client = scene.peer()
    with client.sock:
        with suppress(ssl.SSLWantReadError):
            client.tls.do_handshake()
        client.flush()
        client.sock.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            read_to_end(client.sock)


def nobody_there(scene: Scene) -> None:
    with suppress(ConnectionError, ssl.SSLEOFError), scene.peer("refused") as client:
        client.recv()


def begun_again(scene: Scene) -> None:
    with scene.peer("again") as client:
        client.send(b"hello" * 10_000)
        assert client.read_exactly(50_000) == b"hello" * 10_000
        client.close_write()
        assert client.read_to_end() == b""


def cut_off_by_the_upstream(scene: Scene) -> None:
    with scene.peer("again") as client, suppress(ConnectionError, ssl.SSLEOFError):
        client.send(LEAVE)
        client.read_to_end()


def an_upstream_of_a_stranger(scene: Scene) -> None:
    with suppress(ConnectionError, ssl.SSLEOFError), scene.peer("stranger") as client:
        client.recv()


def an_upstream_without_tls(scene: Scene) -> None:
    with suppress(ConnectionError, ssl.SSLEOFError), scene.peer("clear") as client:
        client.recv()


@contextmanager
def tls_echo(authority: Authority) -> Iterator[Upstream]:
    """Echoes, in TLS; one that is told to leave does so at once."""
    context = authority.server(authority.certificate(NAME))

    def handler(sock: socket.socket, _upstream: Upstream) -> None:
        with suppress(ssl.SSLError), TlsPeer(sock.dup(), context) as peer:
            while data := peer.recv():
                if data == LEAVE:
                    return
                peer.send(data)
            peer.close_write()

    with serving("v4", handler) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with made(tmp_path_factory.mktemp("garbage")) as found:
        yield found


@contextmanager
def made(directory: Path) -> Iterator[Scene]:
    authority, file = Authority(directory), directory / "collected.json"
    authority.certificate("client.example.com", file="me")
    tls = f"tls: {{certificates: {authority.certificate(NAME)}, client_ca: {authority.file}}}"
    env = {"PYTHONPATH": f"{HOOK}:{os.environ.get('PYTHONPATH', '')}", "COLLECTED": str(file)}
    begins = f"tls: {{ca: {authority.file}, name: {NAME}}}"
    with ExitStack() as stack:
        enter = stack.enter_context
        pools = {
            "web": enter(upstreams.echo()).address,
            "resetting": f"{enter(upstreams.resets()).address}, replay: 16KiB",
            "refused": enter(upstreams.refuse()).address,
            "again": f"{enter(tls_echo(authority)).address}, {begins}",
            "stranger": f"{enter(tls_echo(Authority(directory / 'other'))).address}, {begins}",
            "clear": f"{enter(upstreams.named('nobody')).address}, {begins}",
        }
        text = "listeners:\n" + "".join(
            f"  {name}: {{bind: '127.0.0.1:0', pool: {name}, {tls}}}\n" for name in pools
        )
        text += "pools:\n" + "".join(
            f"  {name}: {{upstreams: {keys}}}\n" for name, keys in pools.items()
        )
        with running_proxy(text, env=env) as proxy:
            yield Scene(proxy, authority, file)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "behaves",
    [
        done,
        cut_off,
        reset_by_the_client,
        reset_by_the_upstream,
        tampered,
        no_tls,
        no_certificate,
        gone_in_its_handshake,
        nobody_there,
        begun_again,
        cut_off_by_the_upstream,
        an_upstream_of_a_stranger,
        an_upstream_without_tls,
    ],
)
def test_nothing_of_a_session_is_left_to_the_collector(
    scene: Scene, behaves: Callable[[Scene], None], version: str
) -> None:
    scene.version = version
    for number in (1, EACH):  # the first one makes what is made once
        before = len(scene.proxy.records())
        for _ in range(number):
            behaves(scene)
        records = scene.proxy.wait_records(before + number)[before:]
        found = scene.collected()
    print({(one["why"], one["tls_error"]) for one in records})
    assert not found
