"""How sessions with TLS begin and end: half-closed, cut off, slow, silent, and what is no TLS."""

from __future__ import annotations

import hashlib
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from harness import upstreams
from harness.load import digest, drain_digest, read_to_end, stream_bytes
from harness.ports import free_port
from harness.proxy import Proxy, running_proxy
from harness.serving import Upstream, serving
from harness.tls import VERSIONS, Authority, TlsPeer
from harness.wait import wait_until
from real_programs import need
from tls_programs import FINE, Call, by_curl, nginx

NAME = "www.example.com"
SIZE = 8 * 1024 * 1024


@contextmanager
def ending(
    authority: Authority, upstream: Upstream | str, keys: str = "", more: str = "", pool: str = ""
) -> Iterator[Proxy]:
    """A proxy that ends TLS before an upstream; `keys` of the listener, `pool` of the pool."""
    address = upstream if isinstance(upstream, str) else upstream.address
    with running_proxy(
        f"{more}\nlisteners:\n  web:\n    bind: 127.0.0.1:0\n    pool: app\n"
        f"    tls: {{certificates: {authority.certificate(NAME)}}}\n    {keys}\n"
        f"pools: {{app: {{upstreams: [{address}]{pool}}}}}\n"
    ) as proxy:
        yield proxy


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_that_half_closes_gets_its_answer(
    version: str, authority: Authority, seed: int
) -> None:
    with upstreams.sink() as upstream, ending(authority, upstream) as proxy:
        with TlsPeer(proxy.connect("web"), authority.client(version), NAME) as client:
            client.send(stream_bytes(SIZE, seed))
            client.close_write()
            assert client.read_to_end().decode() == digest(SIZE, seed)
        [record] = proxy.wait_records(1)
    assert (record["why"], record["closed_by"], record["how"]) == ("done", "client", "fin")
    assert record["bytes_up"] == SIZE


@pytest.mark.parametrize("version", VERSIONS)
def test_pythons_own_half_close_is_one(version: str, authority: Authority) -> None:
    def until_the_end(sock: socket.socket, _upstream: Upstream) -> int:
        return drain_digest(sock)[0]

    with serving("v4", until_the_end) as upstream, ending(authority, upstream) as proxy:
        context = authority.client(version)
        with (
            proxy.connect("web") as plain,
            context.wrap_socket(plain, server_hostname=NAME) as client,
        ):
            client.sendall(b"all of it")
            client.unwrap().close()  # close_notify, and reading to the other one
        [record] = proxy.wait_records(1)
        assert upstream.results == [9]
    assert (record["why"], record["tls_error"]) == ("done", None)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_upstream_that_half_closes_hears_the_client_to_its_end(
    version: str, authority: Authority, seed: int
) -> None:
    with upstreams.half_close() as upstream, ending(authority, upstream) as proxy:
        with TlsPeer(proxy.connect("web"), authority.client(version), NAME) as client:
            assert client.read_to_end() == b"enough\n"
            client.send(stream_bytes(SIZE, seed))
            client.close_write()
            wait_until(lambda: upstream.results, 10, "the upstream's view")
        assert upstream.results == [(SIZE, digest(SIZE, seed))]
        [record] = proxy.wait_records(1)
    assert (record["why"], record["closed_by"]) == ("done", "upstream")


def until_reset(sock: socket.socket, _upstream: Upstream) -> tuple[str, int]:
    """How it ended, and the bytes before."""
    total = 0
    try:
        while data := sock.recv(65536):
            total += len(data)
    except ConnectionResetError:
        return "reset", total
    return "fin", total


@pytest.mark.parametrize("version", VERSIONS)
def test_bytes_that_were_cut_off_end_in_a_reset_after_all_that_came(
    version: str, authority: Authority, seed: int
) -> None:
    with serving("v4", until_reset) as upstream, ending(authority, upstream) as proxy:
        with TlsPeer(proxy.connect("web"), authority.client(version), NAME) as client:
            client.send(stream_bytes(SIZE, seed))
            client.sock.shutdown(socket.SHUT_WR)  # as anybody on the way could do it
            with suppress(ConnectionResetError, ssl.SSLEOFError):
                client.recv()
        wait_until(lambda: upstream.results, 10, "the upstream's view")
        assert upstream.results == [("reset", SIZE)]
        [record] = proxy.wait_records(1)
    assert (record["why"], record["closed_by"]) == ("tls_truncated", "client")
    assert record["tls_error"] == "FIN without close_notify"
    assert record["bytes_up"] == SIZE


@pytest.mark.parametrize("version", VERSIONS)
def test_a_killed_client_never_looks_finished(version: str, authority: Authority) -> None:
    with serving("v4", until_reset) as upstream, ending(authority, upstream) as proxy:
        with s_client(proxy, version) as client:
            assert client.stdin is not None
            client.stdin.write(b"half of it\n")
            client.stdin.flush()
            wait_until(lambda: upstream.accepted, 10, "its session")
            client.kill()
        wait_until(lambda: upstream.results, 10, "the upstream's view")
        [(how, _)] = upstream.results
        [record] = proxy.wait_records(1)
    assert how == "reset"
    assert (record["why"], record["closed_by"]) == ("tls_truncated", "client")


@contextmanager
def s_client(proxy: Proxy, version: str) -> Iterator[subprocess.Popen[bytes]]:
    """`openssl s_client`, which obeys a line of `R` or `k`."""
    command = [need("openssl"), "s_client", "-connect", f"127.0.0.1:{proxy.port('web')}"]
    with subprocess.Popen(
        [*command, "-servername", NAME, "-tls" + version.replace(".", "_")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_renegotiation_is_refused_with_an_alert(authority: Authority) -> None:
    with upstreams.echo() as upstream, ending(authority, upstream) as proxy:
        with s_client(proxy, "1.2") as client:
            said, _ = client.communicate(b"R\n", timeout=20)
        [record] = proxy.wait_records(1)
    assert b"RENEGOTIATING" in said
    assert b"no renegotiation" in said
    assert record["why"] in ("done", "tls_truncated", "tls_error", "client_reset")
    assert record["bytes_up"] == 0


def test_a_client_may_change_its_keys_in_the_middle(authority: Authority) -> None:
    with upstreams.echo() as upstream, ending(authority, upstream) as proxy:
        with s_client(proxy, "1.3") as client:
            assert client.stdin is not None
            assert client.stdout is not None
            said = b""
            for number in range(20):
                for line in (b"K\n", b"number %d\n" % number):
                    client.stdin.write(line)
                    client.stdin.flush()
                    while (b"KEYUPDATE" if line == b"K\n" else line) not in said:
                        more = client.stdout.read1(65536)
                        assert more, said
                        said += more
                said = b""
            client.stdin.close()
            client.wait(10)
        [record] = proxy.wait_records(1)
    assert (record["why"], record["tls_error"]) == ("done", None)


def test_a_handshake_one_byte_at_a_time_is_one(authority: Authority) -> None:
    with upstreams.echo() as upstream, ending(authority, upstream) as proxy:
        for version in VERSIONS:
            plain = proxy.connect("web")
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with SlowPeer(plain, authority.client(version), NAME) as client:
                client.send(b"hello")
                assert client.read_exactly(5) == b"hello"
                client.close_write()
                assert client.read_to_end() == b""
        records = proxy.wait_records(2)
    assert {one["why"] for one in records} == {"done"}


class SlowPeer(TlsPeer):
    """One that sends byte by byte."""

    def flush(self) -> None:
        for byte in self.outgoing.read():
            self.sock.sendall(bytes([byte]))


@pytest.mark.parametrize(
    ("first", "answer", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n", b"", "http request"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", b"", "wrong version number"),
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", b"\x15\x03", "length too short"),
    ],
    ids=["http", "ssh", "a broken hello"],
)
def test_what_is_no_tls_ends_at_once_and_costs_no_upstream(
    first: bytes, answer: bytes, reason: str, authority: Authority
) -> None:
    """An alert goes only to those who seem to speak TLS."""
    with upstreams.echo() as upstream, ending(authority, upstream) as proxy:
        with proxy.connect("web") as client:
            client.sendall(first)
            assert read_to_end(client)[:2] == answer
        [record] = proxy.wait_records(1)
        assert upstream.accepted == 0
    assert (record["why"], record["tls_error"]) == ("tls_handshake", reason)


def test_clients_that_say_nothing_or_only_hello_are_gone_in_time(authority: Authority) -> None:
    more = "timeouts: {preread: 300ms, handshake: 400ms}"
    with upstreams.echo() as upstream, ending(authority, upstream, more=more) as proxy:
        with proxy.connect("web") as client, pytest.raises(ConnectionResetError):
            client.recv(1)
        peer = TlsPeer(proxy.connect("web"), authority.client(), NAME)
        with peer.sock as client:
            with suppress(ssl.SSLWantReadError):
                peer.tls.do_handshake()
            peer.flush()
            with pytest.raises(ConnectionResetError):
                drain_digest(client)
        silent, waiting = proxy.wait_records(2)
        assert upstream.accepted == 0
    assert (silent["why"], silent["phase"]) == ("preread_timeout", "preread")
    assert (waiting["why"], waiting["phase"]) == ("tls_handshake", "tls")
    assert waiting["tls_error"] == "the handshake took too long"
    assert 300 <= silent["duration_ms"] < 3000
    assert 400 <= waiting["duration_ms"] < 3000


def test_curl_announces_a_client_before_its_tls(authority: Authority, tmp_path: Path) -> None:
    port = free_port()
    text = f"server {{ listen 127.0.0.1:{port}; return 200 'fine\\n'; }}"
    keys = "accept_proxy: {from: [127.0.0.0/8], others: refuse}"
    with (
        nginx(tmp_path / "nginx", text, port),
        ending(authority, f"127.0.0.1:{port}", keys) as proxy,
    ):
        for version in VERSIONS:
            call = Call(proxy.port("web"), NAME, version, authority)
            assert by_curl(call, "--haproxy-protocol") == FINE
        records = proxy.wait_records(2)
    assert [one["tls_version"] for one in records] == ["TLSv1.2", "TLSv1.3"]
    assert {one["sni"] for one in records} == {NAME}
    assert all(one["client"] == one["peer"] for one in records), "curl tells of itself"


def test_who_may_not_come_in_costs_no_handshake(authority: Authority) -> None:
    keys = "access: [deny: 127.0.0.1]"
    with upstreams.echo() as upstream, ending(authority, upstream, keys) as proxy:
        peer = TlsPeer(proxy.connect("web"), authority.client(), NAME)
        with peer.sock, pytest.raises((ConnectionResetError, BrokenPipeError)):
            peer.shake_hands()
        [record] = proxy.wait_records(1)
        assert upstream.accepted == 0
    assert (record["why"], record["tls_ms"], record["phase"]) == ("access_denied", None, "accept")


def test_max_sessions_holds_for_clients_in_their_handshake_too(authority: Authority) -> None:
    with upstreams.echo() as upstream, ending(authority, upstream, "max_sessions: 2") as proxy:
        context = authority.client()
        with proxy.connect("web"), TlsPeer(proxy.connect("web"), context, NAME) as second:
            waiting = TlsPeer(proxy.connect("web"), context, NAME)
            with suppress(ssl.SSLWantReadError):
                waiting.tls.do_handshake()
            waiting.flush()
            for _ in range(10):  # it is served meanwhile, and nobody else is
                second.send(b"hello")
                assert second.read_exactly(5) == b"hello"
            waiting.sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                waiting.sock.recv(1)
            waiting.sock.settimeout(10)
        with waiting:
            waiting.send(b"hello")
            assert waiting.read_exactly(5) == b"hello"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_request_is_replayed_where_the_first_upstream_ends_without_a_word(
    version: str, authority: Authority, seed: int
) -> None:
    """The upstreams see plain bytes; what was kept are those, and they are sent once to each."""
    request = stream_bytes(5000, seed)

    def answers(sock: socket.socket, _upstream: Upstream) -> bytes:
        came = b""
        while len(came) < len(request) and (more := sock.recv(65536)):
            came += more
        sock.sendall(hashlib.sha256(came).hexdigest().encode())
        return came

    with upstreams.resets(after=5000) as dying, serving("v4", answers) as well:
        both, pool = f"{dying.address}, {well.address}", ", replay: 16KiB, eject: off"
        with ending(authority, both, pool=pool) as proxy:
            for _ in range(4):
                with TlsPeer(proxy.connect("web"), authority.client(version), NAME) as client:
                    client.send(request)
                    assert client.read_exactly(64).decode() == digest(5000, seed)
                    assert client.read_to_end() == b""
                    client.close_write()
            records = proxy.wait_records(4)
        assert well.results == [request] * 4
        assert dying.accepted == sum(one["retries"] for one in records) > 0
    assert {one["why"] for one in records} == {"done"}
