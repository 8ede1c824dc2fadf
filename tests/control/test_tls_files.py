"""control/tls/: which files are read, which certificate is for whom, what workers are told."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
import trustme
from harness.found import find_upstreams
from harness.health import MACHINE
from harness.issued import authority, chain_of, key_of, write_pem

from spliceproxy import config
from spliceproxy.config import Config, ConfigError
from spliceproxy.control.plan import make_snapshot
from spliceproxy.control.slots import UpstreamSlots
from spliceproxy.control.tls import Certificates, check_certificates
from spliceproxy.ipc import PoolTlsPlan, TlsPlan
from spliceproxy.relay.tls_context import load_chain


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def configuration(tls: str, pool: str = "off") -> Config:
    text = f"listeners: {{web: {{bind: '127.0.0.1:0', pool: app, tls: {tls}}}}}\n"
    return config.loads(
        f"{text}pools: {{app: {{upstreams: 127.0.0.1:9, tls: {pool}}}}}\n", "a.yaml"
    )


def plan(certificates: str, more: str = "") -> TlsPlan:
    loaded = configuration(f"{{certificates: {certificates}{more}}}")
    part = Certificates()
    part.load(loaded)
    return part.plans(loaded).listeners["web"]


def pool_plan(tls: str) -> PoolTlsPlan:
    loaded = configuration("off", tls)
    part = Certificates()
    part.load(loaded)
    return part.plans(loaded).pools["app"]


def names(told: TlsPlan) -> list[tuple[str, ...]]:
    return [one.names for one in told.certificates]


def wrong(tls: str, pool: str = "off") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Certificates().load(configuration(tls, pool))
    here = f"{Path.cwd()}/"
    return [line.replace(here, "") for line in str(caught.value).splitlines()]


def write(issued: trustme.LeafCert, chain: str, key: str) -> None:
    Path(chain).parent.mkdir(exist_ok=True)
    Path(chain).write_bytes(chain_of(issued))
    Path(key).write_bytes(key_of(issued))


def test_paths_are_meant_from_the_configuration_file_not_from_where_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "elsewhere").mkdir()
    write_pem(tmp_path / "etc/www.pem", "www.example.com")
    (tmp_path / "etc/a.yaml").write_text(
        "listeners: {web: {bind: ':1', pool: app, tls: {certificates: www.pem}}}\n"
        "pools: {app: {upstreams: 127.0.0.1:9, tls: {certificate: www.pem, ca: ca.pem}}}\n"
    )
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = config.load(Path("../etc/a.yaml"))
    web, app = loaded.listeners["web"].tls, loaded.pools["app"].tls
    assert web is not None
    assert app is not None
    assert app.certificate is not None
    assert Path(web.certificates[0].chain).resolve() == tmp_path / "etc/www.pem"
    assert Path(app.certificate.chain).is_file()
    assert app.ca is not None
    assert Path(app.ca).is_absolute()


def test_a_file_with_both_and_a_chain_with_its_key_elsewhere() -> None:
    write_pem(Path("www.pem"), "www.example.com")
    write(authority().issue_cert("mail.example.com"), "mail.crt", "secret.key")
    told = plan("[www.pem, {chain: mail.crt, key: secret.key}]")
    assert names(told) == [("www.example.com",), ("mail.example.com",)]


def test_in_a_directory_each_certificate_finds_its_key_whatever_the_files_are_called() -> None:
    write(authority().issue_cert("k8s.example.com"), "certs/tls.crt", "certs/tls.key")
    write(authority().issue_cert("made.example.com"), "certs/made.pem", "certs/made-key.pem")
    write_pem(Path("certs/both.pem"), "both.example.com")
    Path("certs/ca.crt").write_bytes(authority().cert_pem.bytes())
    Path("certs/README").write_text("no certificate")
    Path("certs/.hidden.pem").write_text("no certificate")
    assert names(plan("certs/")) == [
        ("both.example.com",),
        ("made.example.com",),
        ("k8s.example.com",),
    ]


def test_of_what_certbot_writes_the_full_chain_is_shown_and_once() -> None:
    issued = authority().create_child_ca().issue_cert("www.example.com")
    write(issued, "live/fullchain.pem", "live/privkey.pem")
    own, above = issued.cert_chain_pems
    own.write_to_path("live/cert.pem")
    above.write_to_path("live/chain.pem")
    [shown] = plan("live").certificates
    assert shown.names == ("www.example.com",)
    assert shown.chains[0].count("BEGIN CERTIFICATE") == 2


def test_certificates_of_one_name_with_two_kinds_of_keys_are_used_together() -> None:
    ca = authority()
    for kind, file in ((trustme.KeyType.ECDSA, "a.pem"), (trustme.KeyType.RSA, "b.pem")):
        issued = ca.issue_cert("www.example.com", key_type=kind)
        Path(file).write_bytes(chain_of(issued) + key_of(issued))
    issued = ca.issue_cert("www.example.com", "old.example.com", key_type=trustme.KeyType.RSA)
    Path("c.pem").write_bytes(chain_of(issued) + key_of(issued))
    told = plan("[a.pem, b.pem, c.pem]")
    assert names(told) == [("www.example.com",), ("old.example.com",)]
    assert [len(one.chains) for one in told.certificates] == [2, 1]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for chain in told.certificates[0].chains:
        load_chain(context, chain)
    text = "for www.example.com another certificate is shown, which comes before it"
    loaded = configuration("{certificates: [a.pem, b.pem, c.pem]}")
    assert check_certificates(loaded) == [f"{Path.cwd()}/c.pem: listeners.web.tls: {text}"]


def test_the_first_certificate_is_the_default_and_may_have_no_name() -> None:
    write_pem(Path("ip.pem"), "10.0.0.1")
    write_pem(Path("www.pem"), "www.example.com", "*.example.com")
    assert names(plan("[ip.pem, www.pem]")) == [(), ("www.example.com", "*.example.com")]
    assert names(plan("[www.pem, ip.pem]")) == [("www.example.com", "*.example.com")]
    assert check_certificates(configuration("{certificates: [www.pem, ip.pem]}")) == [
        (
            f"{Path.cwd()}/ip.pem: listeners.web.tls: it is for no name, so that it could only be "
            "the first certificate"
        )
    ]


def test_all_of_tls_reaches_the_workers_and_nothing_where_there_is_none() -> None:
    write_pem(Path("www.pem"), "www.example.com")
    authority().cert_pem.write_to_path("ca.pem")
    told = plan("www.pem", ", min_version: 1.3, alpn: [h2, http/1.1]")
    assert (told.min_version, told.alpn, told.timeout) == ("1.3", ("h2", "http/1.1"), 10.0)
    assert (told.client_ca, told.client_certificate) == ("", "off")
    for word in ("optional", "required"):
        told = plan("www.pem", f", client_ca: ca.pem, client_certificate: {word}")
        assert told.client_certificate == word
    assert plan("www.pem", ", client_ca: ca.pem").client_certificate == "required"
    assert told.client_ca.encode().split() == authority().cert_pem.bytes().split()
    assert pool_plan("on") == PoolTlsPlan()
    assert pool_plan("{name: A.example.com, verify: off}") == PoolTlsPlan(
        verify=False, name="a.example.com"
    )
    mine = pool_plan("{ca: ca.pem, certificate: www.pem}")
    assert mine.ca == told.client_ca
    assert "PRIVATE KEY" in mine.certificate
    assert "PRIVATE" not in repr(mine) + repr(told)
    nothing = Certificates()
    loaded = configuration("off")
    nothing.load(loaded)
    assert nothing.plans(loaded).listeners == nothing.plans(loaded).pools == {}


def test_a_listener_with_tls_reads_the_client_hello_and_knows_what_passes_through() -> None:
    write_pem(Path("www.pem"), "www.example.com")
    loaded = config.loads(
        "listeners: {web: {bind: ':1', pool: app, tls: {certificates: www.pem}, routes: "
        "[{sni: db.example.com, tls: passthrough, pool: app}, {sni: a.example.com, pool: app}]}}\n"
        "pools: {app: {upstreams: '127.0.0.1:1'}}\n",
        "a.yaml",
    )
    made = make_snapshot(loaded, find_upstreams(loaded), MACHINE, 1, 0, UpstreamSlots())
    intake = made.listeners[0].intake
    assert intake is not None
    assert intake.hello
    assert [route.passthrough for route in intake.routes] == [True, False]


def test_everything_that_is_wrong_is_told_at_once_each_with_its_file_and_key() -> None:
    write_pem(Path("www.pem"), "www.example.com")
    authority().cert_pem.write_to_path("ca.pem")
    Path("key.pem").write_bytes(key_of(authority().issue_cert("a.b")))
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken/a.pem").write_bytes(b"x")
    Path("broken/b.crt").write_bytes(chain_of(authority().issue_cert("b.example.com")))
    certificates = (
        "[gone.pem, ca.pem, key.pem, {chain: www.pem, key: ca.pem}, {chain: www.pem, key: gone},"
        " empty/, broken/, {chain: www.pem, key: key.pem}]"
    )
    lines = wrong(
        f"{{certificates: {certificates}, client_ca: gone-ca.pem}}",
        "{ca: key.pem, certificate: {chain: empty, key: key.pem}}",
    )
    at = "listeners.web.tls.certificates"
    assert lines == [
        f"gone.pem: {at}[0]: no such file; check its name and directory",
        (
            f"ca.pem: {at}[1]: it has no private key; put it into the same file, or write "
            "{chain: …, key: …}"
        ),
        f"key.pem: {at}[2]: there is only a key in it; write the certificate's file as chain",
        f"ca.pem: {at}[3]: there is no private key in it; name the file that has it",
        f"gone: {at}[4]: no such file; check its name and directory",
        f"empty: {at}[5]: there is no certificate in it; put *.pem or *.crt there",
        (
            f"broken/a.pem: {at}[6]: there is no certificate in PEM; "
            "it begins with -----BEGIN CERTIFICATE-----"
        ),
        (
            f"broken/b.crt: {at}[6]: no file beside it has its private key; "
            "put the key there, not encrypted"
        ),
        (
            f"key.pem: {at}[7]: the key belongs to another certificate; "
            "are both from the same request?"
        ),
        "empty: pools.app.tls.certificate: is a directory; name a file in it",
        "gone-ca.pem: listeners.web.tls.client_ca: no such file; check its name and directory",
        (
            "key.pem: pools.app.tls.ca: there is no certificate in PEM; "
            "it begins with -----BEGIN CERTIFICATE-----"
        ),
    ]


def test_a_pipe_or_a_file_that_is_too_large_is_not_read() -> None:
    os.mkfifo("pipe.pem")
    with Path("large.pem").open("wb") as file:
        file.truncate(5 * 1024 * 1024)
    fifo, large = wrong("{certificates: [pipe.pem, large.pem]}")
    assert "is not a regular file" in fifo
    assert "is larger than 4 MiB; is this a certificate?" in large
