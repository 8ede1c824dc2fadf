"""What is offered to TLS clients, as programs see it: certificates by name and kind of key,
versions, ciphers and application protocols; and nothing that is weak."""

from __future__ import annotations

import re
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from harness import upstreams
from harness.ports import free_port
from harness.proxy import Event, Proxy, running_proxy
from harness.tls import VERSIONS, Authority, TlsPeer
from harness.wait import wait_until
from real_programs import need, run
from tls_programs import FINE, Call, by_curl, nginx

WWW, MAIL, ANY = "www.example.com", "mail.example.com", "*.example.com"
SIGNATURES = {"rsa": "rsa_pss_rsae_sha256", "ecdsa": "ecdsa_secp256r1_sha256"}
STRONG = {
    f"ECDHE-{key}-{cipher}"
    for key in ("RSA", "ECDSA")
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
}
"""All that may be spoken with TLS 1.2."""
WEAK_TOO = "ALL:COMPLEMENTOFALL:@SECLEVEL=0"


@contextmanager
def shows(tls: str, upstream: str) -> Iterator[Proxy]:
    """A proxy with this `tls` before an upstream."""
    with running_proxy(
        f"listeners: {{web: {{bind: '127.0.0.1:0', tls: {{{tls}}}, pool: app}}}}\n"
        f"pools: {{app: {{upstreams: '{upstream}'}}}}\n"
    ) as proxy:
        yield proxy


@dataclass
class Scene:
    proxy: Proxy
    authority: Authority


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Certificates: of www both kinds, of mail and all others one."""
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    files = [authority.certificate(WWW, key=key) for key in SIGNATURES]
    files += [authority.certificate(MAIL), authority.certificate(ANY, key="rsa")]
    with ExitStack() as stack:
        upstream = stack.enter_context(upstreams.echo())
        listed = ", ".join(map(str, files))
        proxy = stack.enter_context(shows(f"certificates: [{listed}]", upstream.address))
        yield Scene(proxy, authority)


def s_client(proxy: Proxy, *options: object) -> subprocess.CompletedProcess[str]:
    """What `openssl s_client` says of a handshake, whether it is well or not."""
    return subprocess.run(
        [
            *(need("openssl"), "s_client", "-connect", f"127.0.0.1:{proxy.port('web')}"),
            *map(str, options),
        ],
        input="",
        capture_output=True,
        text=True,
        timeout=20,
    )


def shown(said: str) -> tuple[list[str], str]:
    """Names and kind of key of the certificate that s_client was shown."""
    [pem] = re.findall(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", said, re.DOTALL)
    certificate = x509.load_pem_x509_certificate(pem.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    kind = type(certificate.public_key()).__name__
    return names.get_values_for_type(x509.DNSName), "rsa" if "RSA" in kind else "ecdsa"


@pytest.mark.parametrize(
    ("asked", "has"),
    [(WWW, WWW), (MAIL, MAIL), ("other.example.com", ANY), ("a.b.example.com", WWW), ("", WWW)],
    ids=["exact", "exact among others", "wildcard", "no deeper wildcard", "no name"],
)
def test_each_name_is_shown_its_certificate(scene: Scene, asked: str, has: str) -> None:
    name = ["-servername", asked] if asked else ["-noservername"]
    names, _ = shown(s_client(scene.proxy, *name).stdout)
    assert names == [has]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("key", SIGNATURES)
def test_a_name_with_keys_of_two_kinds_shows_each_client_the_one_that_it_knows(
    scene: Scene, key: str, version: str
) -> None:
    tls = "-tls" + version.replace(".", "_")
    said = s_client(scene.proxy, "-servername", WWW, tls, "-sigalgs", SIGNATURES[key]).stdout
    assert shown(said) == ([WWW], key)


def test_a_client_that_knows_both_kinds_of_keys_is_shown_the_faster_one(scene: Scene) -> None:
    assert shown(s_client(scene.proxy, "-servername", WWW).stdout) == ([WWW], "ecdsa")


def weak_client(version: ssl.TLSVersion, cipher: str = WEAK_TOO) -> ssl.SSLContext:
    """A client that takes whatever a server is content with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_ciphers(cipher)
    return context


def agree(proxy: Proxy, context: ssl.SSLContext) -> tuple[str, str]:
    """The cipher that was agreed on, or the alert; and the client's address."""
    sock = proxy.connect("web")
    address = "{}:{}".format(*sock.getsockname())
    try:
        with TlsPeer(sock, context, WWW) as client:
            client.send(b"hello")
            assert client.read_exactly(5) == b"hello"
            cipher = client.tls.cipher()
            assert cipher is not None
            client.close_write()
            return cipher[0], address
    except ssl.SSLError as error:
        return str(error.reason), address


def why_not(proxy: Proxy, *clients: str) -> list[Event]:
    """The records of these clients, whose handshakes failed."""

    def found() -> list[Event] | None:
        # A session that went well may have had the same port before.
        ended = [one for one in proxy.records() if one["why"] != "done"]
        records = [one for one in ended if one["client"] in clients]
        return records if len(records) == len(clients) else None

    records = wait_until(found, 10, "their records")
    assert records is not None
    assert {one["why"] for one in records} == {"tls_handshake"}
    assert {one["upstream"] for one in records} == {None}
    return records


def test_of_all_ciphers_of_tls_1_2_only_strong_ones_are_spoken(scene: Scene) -> None:
    known = run([need("openssl"), "ciphers", "-tls1_2", "-s", WEAK_TOO]).strip().split(":")
    version = ssl.TLSVersion.TLSv1_2
    refused = []
    for cipher in known:
        said, client = agree(scene.proxy, weak_client(version, f"{cipher}:@SECLEVEL=0"))
        if cipher in STRONG:
            assert said == cipher
        else:
            assert said == "SSLV3_ALERT_HANDSHAKE_FAILURE"
            refused.append(client)
    print(f"{len(known)} ciphers were offered, one after the other")
    assert len(refused) == len(known) - len(STRONG) > 80
    records = why_not(scene.proxy, *refused)
    assert {one["tls_error"] for one in records} == {"no shared cipher"}


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_are_refused(scene: Scene, version: ssl.TLSVersion) -> None:
    said, client = agree(scene.proxy, weak_client(version))
    assert said == "TLSV1_ALERT_PROTOCOL_VERSION"
    [record] = why_not(scene.proxy, client)
    assert record["tls_error"] == "unsupported protocol"


def test_min_version_1_3_refuses_1_2(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = f"certificates: {authority.certificate(WWW)}, min_version: 1.3"
    with upstreams.echo() as upstream, shows(tls, upstream.address) as proxy:
        assert agree(proxy, authority.client("1.2"))[0] == "TLSV1_ALERT_PROTOCOL_VERSION"
        assert agree(proxy, authority.client("1.3"))[0] in (
            "TLS_AES_256_GCM_SHA384",
            "TLS_CHACHA20_POLY1305_SHA256",
            "TLS_AES_128_GCM_SHA256",
        )
        assert upstream.accepted == 1


def test_h2_is_agreed_on_and_spoken_between_curl_and_nginx(tmp_path: Path) -> None:
    authority, port = Authority(tmp_path), free_port()
    tls = f"certificates: {authority.certificate(WWW)}, alpn: [h2, http/1.1]"
    # This nginx speaks either of both without TLS, never both on one port.
    text = f"server {{ listen 127.0.0.1:{port} http2; return 200 'fine\\n'; }}"
    with nginx(tmp_path, text, port), shows(tls, f"127.0.0.1:{port}") as proxy:
        call = Call(proxy.port("web"), WWW, "1.3", authority)
        said = by_curl(call, "--http2", "-w", "HTTP/%{http_version}")
        assert said == f"{FINE}HTTP/2"
        [record] = proxy.wait_records(1)
    # This curl says GOAWAY, and no close_notify.
    assert record["alpn"] == "h2"
    assert record["why"] in ("done", "tls_truncated"), "curl 7.88 says GOAWAY, and no close_notify"


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [("h2,http/1.1", "h2"), ("http/1.1,h2", "h2"), ("spdy,http/1.1", "http/1.1"), ("spdy", None)],
)
def test_the_first_protocol_of_ours_that_a_client_offers_is_agreed_on(
    offered: str, agreed: str | None, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    tls = f"certificates: {authority.certificate(WWW)}, alpn: [h2, http/1.1]"
    with upstreams.echo() as upstream, shows(tls, upstream.address) as proxy:
        said = s_client(proxy, "-servername", WWW, "-alpn", offered).stdout
        assert ("No ALPN negotiated" if agreed is None else f"ALPN protocol: {agreed}\n") in said
        [record] = proxy.wait_records(1)
    assert record["alpn"] == agreed
