"""The benchmark's own parts for TLS, where they could be wrong without a sound."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

import pytest

from bench.certificate import HOST, certificate_files
from bench.load.s_time import parse_s_time
from bench.load.tls import client_hello, hello_script
from bench.origins import NAMES, ORIGINS
from bench.peers.base import SERVICES
from bench.programs import FailedError
from spliceproxy.wire.client_hello import ClientHello, parse_client_hello

PEERS = Path(__file__).parent / "peers"

SAID = """\
Collecting connection statistics for 1 seconds
********

1517 connections in 0.65s; 2333.85 connections/user sec, bytes read 7829237
1517 connections in 2 real seconds, 5161 bytes read per connection
"""


def test_the_sessions_of_s_time_are_counted_once() -> None:
    assert parse_s_time(SAID, 0) == 1517


@pytest.mark.parametrize(
    ("output", "code"),
    [
        ("Collecting connection statistics for 1 seconds\nERROR\n", 1),
        (SAID, 1),
        ("", 0),
        (SAID.replace("1517 connections", "0 connections"), 0),
    ],
    ids=["failed", "code", "silent", "none"],
)
def test_an_s_time_that_failed_is_no_figure(output: str, code: int) -> None:
    with pytest.raises(FailedError):
        parse_s_time(output, code)


def test_a_hello_of_the_load_asks_for_its_name_and_for_tls_1_3() -> None:
    hello = parse_client_hello(client_hello(NAMES[3]))
    assert isinstance(hello, ClientHello)
    assert hello.sni == NAMES[3]
    assert 0x0304 in hello.versions


def test_the_script_for_wrk_has_a_whole_hello_for_each_name() -> None:
    quoted = re.findall(r'^  "((?:\\\d{3})+)"', hello_script(NAMES), re.MULTILINE)
    hellos = [bytes(int(byte) for byte in text.split("\\")[1:]) for text in quoted]
    found = [parse_client_hello(hello) for hello in hellos]
    assert [hello.sni for hello in found if isinstance(hello, ClientHello)] == list(NAMES)


def test_the_certificate_is_made_once_is_for_its_host_and_has_its_key(tmp_path: Path) -> None:
    files = certificate_files(tmp_path)
    chain = Path(files["CHAIN"]).read_bytes()
    assert certificate_files(tmp_path) == files
    assert Path(files["CHAIN"]).read_bytes() == chain
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files["CHAIN"], files["KEY"])
    server.load_cert_chain(files["PEM"])
    client = ssl.create_default_context(cafile=files["CA"])
    agreed, shown = _shake(client, server)
    assert agreed == "TLSv1.3"
    assert ("DNS", HOST) in shown


def _shake(client: ssl.SSLContext, server: ssl.SSLContext) -> tuple[str | None, list[object]]:
    """A handshake in memory: the version, and the names of the certificate."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(to_client, to_server, server_hostname=HOST)
    there = server.wrap_bio(to_server, to_client, server_side=True)
    for end in (here, there, here, there):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    certificate = here.getpeercert()
    assert certificate is not None
    names = certificate["subjectAltName"]
    assert isinstance(names, tuple)
    return here.version(), list(names)


@pytest.mark.parametrize("path", sorted(PEERS.glob("*-*.*")), ids=lambda path: path.name)
def test_a_file_for_a_peer_names_only_what_it_will_be_given(path: Path) -> None:
    given = {"LISTEN", "WORKERS", "DIRECTORY", "MODULE", "CHAIN", "KEY", "PEM"}
    given |= {service.upper() for service in SERVICES}
    for origin in ORIGINS:
        given |= {f"{origin.upper()}_{what}" for what in ("ORIGIN", "HOST", "PORT")}
    asked = set(re.findall(r"@([A-Z0-9_]+)@", path.read_text()))
    assert asked <= given
    assert {"ECHO", "ECHO_ORIGIN"} <= asked or {"ECHO", "ECHO_HOST", "ECHO_PORT"} <= asked


@pytest.mark.parametrize("path", sorted(PEERS.glob("*-sni.*")), ids=lambda path: path.name)
def test_every_peer_is_told_of_every_name(path: Path) -> None:
    text = path.read_text()
    for number, name in enumerate(NAMES):
        assert name in text
        assert f"@NAME{number}_" in text
