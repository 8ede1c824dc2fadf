"""What real clients said (`make_data.py` records it again), cut and recorded in every way."""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
from wire.fuzz_client_hello import fuzz_client_hello, fuzz_http_host, fuzz_protocol
from wire.hello_builder import payload, random_sizes, record, records
from wire.make_data import CLIENTS, DATA, NAME
from wire.make_data import record as record_client

from spliceproxy.wire.client_hello import ClientHello, ClientHelloReader, parse_client_hello
from spliceproxy.wire.http_host import read_http_host
from spliceproxy.wire.need import Need
from spliceproxy.wire.protocol import sniff

TLS10, TLS11, TLS12, TLS13 = 0x0301, 0x0302, 0x0303, 0x0304
ALL = (TLS13, TLS12, TLS11, TLS10)
H2, HTTP1 = b"h2", b"http/1.1"


def said(
    sni: str | None, alpn: tuple[bytes, ...], versions: tuple[int, ...], legacy: int = TLS12
) -> ClientHello:
    return ClientHello(sni, alpn, legacy, versions)


HELLOS = {
    "openssl-tls1.0": said(NAME, (), (TLS10,), TLS10),
    "openssl-tls1.1": said(NAME, (), (TLS11,), TLS11),
    "openssl-tls1.2": said(NAME, (H2, HTTP1), (TLS12,)),
    "openssl-tls1.3": said(NAME, (H2,), (TLS13,)),
    "openssl-tls1.3-psk": said(NAME, (), (TLS13,)),
    "openssl-no-name": said(None, (), ALL),
    "openssl-address": said(None, (), ALL),
    "curl": said(NAME, (H2, HTTP1), ALL),
    "curl-http1-tls1.2": said(NAME, (HTTP1,), (TLS12,)),
    "python": said(NAME, (HTTP1,), (TLS13, TLS12)),
    "node": said(NAME, (), (TLS13, TLS12)),
    "chrome": said(NAME, (H2, HTTP1), (TLS13, TLS12)),
    "chromium": said(NAME, (H2, HTTP1), (TLS13, TLS12)),
    "firefox": said(NAME, (H2, HTTP1), (TLS13, TLS12)),
    "safari": said(NAME, (H2, HTTP1), (TLS13, TLS12)),
}
PLAIN = {
    "plain-curl": ("http", NAME),
    "plain-curl-http2": ("http", None),
    "plain-curl-proxy": ("http", NAME),
    "plain-curl-connect": ("http", NAME),
    "plain-ssh": ("ssh", None),
    "plain-psql-ssl": ("postgres", None),
    "plain-psql": ("postgres", None),
    "plain-redis": ("unknown", None),
}
POST_QUANTUM = ("chrome", "chromium", "firefox", "safari")
X25519MLKEM768 = b"\x11\xec"


def recorded(name: str) -> bytes:
    return DATA.joinpath(f"{name}.bin").read_bytes()


def check(data: bytes) -> ClientHello:
    fuzz_client_hello(data)
    found = parse_client_hello(data)
    assert isinstance(found, ClientHello)
    return found


def test_each_recorded_client_is_known_here_and_can_be_recorded_again() -> None:
    files = {path.stem for path in DATA.iterdir()}
    assert files == HELLOS.keys() | PLAIN.keys()
    assert files <= CLIENTS.keys()


@pytest.mark.parametrize("name", HELLOS)
def test_a_real_hello_says_what_its_client_was_told_to_say(name: str) -> None:
    data = recorded(name)
    assert check(data) == HELLOS[name]
    assert sniff(data) == "tls"
    fuzz_protocol(data)


@pytest.mark.parametrize("name", POST_QUANTUM)
def test_a_hello_with_a_post_quantum_key_is_larger_than_a_segment(name: str) -> None:
    data = recorded(name)
    assert len(data) > 1460
    assert X25519MLKEM768 + b"\x04\xc0" in data, "the key share, of 1216 bytes"


@pytest.mark.parametrize("name", HELLOS)
def test_two_segments_cut_anywhere_give_the_same(name: str) -> None:
    data = recorded(name)
    for cut in range(len(data)):
        reader = ClientHelloReader()
        early = reader.read(data[:cut])
        assert isinstance(early, Need)
        assert early == parse_client_hello(data[:cut])
        assert cut < early.total <= len(data)
        assert reader.read(memoryview(data)) == HELLOS[name]


@pytest.mark.parametrize("name", HELLOS)
def test_byte_by_byte_gives_the_same(name: str) -> None:
    data = recorded(name)
    reader = ClientHelloReader()
    found = [reader.read(data[:seen]) for seen in range(len(data) + 1)]
    assert all(isinstance(early, Need) for early in found[:-1])
    assert found[-1] == HELLOS[name]


@pytest.mark.parametrize("name", HELLOS)
def test_records_of_random_sizes_give_the_same(name: str, seed: int) -> None:
    inner = payload(recorded(name))
    rng = random.Random(seed)
    sizes: list[Iterable[int]] = [itertools.repeat(1), itertools.repeat(3), [4, 20_000]]
    sizes += [random_sizes(rng, most) for most in (3, 50, 500, 500, 500)]
    for some in sizes:
        assert check(records(inner, some)) == HELLOS[name]


@pytest.mark.parametrize("name", HELLOS)
def test_what_a_client_may_send_behind_its_hello_changes_nothing(name: str) -> None:
    change_cipher_spec, early_data = record(b"\1", 20), record(bytes(500), 23)
    assert check(recorded(name) + change_cipher_spec + early_data) == HELLOS[name]


@pytest.mark.parametrize("name", PLAIN)
def test_a_client_without_tls_is_known_by_its_first_bytes(name: str) -> None:
    data = recorded(name)
    protocol, host = PLAIN[name]
    assert sniff(data) == protocol
    assert parse_client_hello(data) is None
    if protocol == "http":
        assert read_http_host(data) == host
        fuzz_http_host(data)
    fuzz_protocol(data)
    fuzz_client_hello(data)


@pytest.mark.parametrize(
    "name",
    [
        "openssl-tls1.2", "openssl-tls1.3", "openssl-no-name", "curl", "python",
        "plain-curl", "plain-curl-http2", "plain-redis",
    ],
)  # fmt: skip
def test_the_clients_of_this_machine_say_the_same_today(name: str) -> None:
    program = CLIENTS[name].command[0]
    if shutil.which(program) is None and not Path(program).exists():
        pytest.skip(f"{program} is not installed")
    data = record_client(CLIENTS[name])
    assert data is not None
    assert sniff(data) == sniff(recorded(name))
    if name in HELLOS:  # the versions are those of its OpenSSL, which others build otherwise
        assert (check(data).sni, check(data).alpn) == (HELLOS[name].sni, HELLOS[name].alpn)
