"""TLS under load while certificates, configurations and processes change: nobody loses by it."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from harness.door import request
from harness.generations import generations
from harness.ports import free_port
from harness.proxy import Proxy, running_proxy
from harness.talkers import TALKERS, TLS_NAME, Talker, talkers
from harness.tls import Authority, TlsPeer
from harness.upstreams import echo
from harness.wait import wait_until
from real_programs import need, nginx
from tls_programs import nginx as tls_nginx

REPLACED = 12
UPGRADES = 3


@contextmanager
def wrk(port: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Requests over TLS without an end, on connections of their own each, and on ones that last."""
    url = f"https://127.0.0.1:{port}/fine"
    with ExitStack() as stack:
        loads = []
        for close in (("-H", "Connection: close"), ()):
            how = ["-c", "16", "-t", "1", "-d", "300s", "--timeout", "20s", *close]
            load = subprocess.Popen([need("wrk"), *how, url], stdout=subprocess.PIPE, text=True)
            loads.append(stack.enter_context(load))
            stack.callback(load.kill)
        yield loads


def nobody_lost(loads: list[subprocess.Popen[str]], crowd: list[Talker], requests: int) -> None:
    """All that was asked for came, and the sessions that last have lasted."""
    assert all(load.poll() is None for load in loads), "wrk ended before the changes did"
    for load in loads:
        load.send_signal(signal.SIGINT)  # its result comes now
        said = load.communicate(timeout=60)[0]
        print(said)
        assert "Socket errors" not in said
        assert "Non-2xx" not in said
        assert int(re.findall(r"(\d+) requests in", said)[0]) > requests
    for one in crowd:
        one.leave()
    print(f"{sum(one.rounds for one in crowd)} rounds of {len(crowd)} sessions")
    assert [one.trouble for one in crowd] == [""] * len(crowd)
    assert min(one.rounds for one in crowd) > 0


def serial(path: Path) -> int:
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


def shown(proxy: Proxy, authority: Authority) -> int:
    """The serial number of the certificate that a new client is shown."""
    with TlsPeer(proxy.connect("web"), authority.client(), TLS_NAME) as client:
        der = client.tls.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).serial_number


@contextmanager
def origin(directory: Path, authority: Authority, *, tls: bool) -> Iterator[str]:
    """nginx, and how a pool says it; with TLS where that begins again behind us."""
    if not tls:
        (directory / "nginx").mkdir()
        with nginx(directory / "nginx") as found:
            yield f"'{found['v4']}'"
        return
    port, file = free_port(), authority.certificate(TLS_NAME, file="upstream.crt")
    server = (
        f"server {{ listen 127.0.0.1:{port} ssl backlog=4096; ssl_certificate {file};\n"
        f"ssl_certificate_key {file}; location = /fine {{ return 200 'fine\\n'; }} }}"
    )
    with tls_nginx(directory / "nginx", server, port):
        yield f"'127.0.0.1:{port}', tls: {{ca: {authority.file}, name: {TLS_NAME}}}"


def config(files: Path, web: str, talk: str, more: str = "") -> str:
    tls = f"tls: {{certificates: {files}/}}"
    return (
        "listeners:\n"
        f"  web: {{bind: '127.0.0.1:0', {tls}, pool: web}}\n"
        f"  talk: {{bind: '127.0.0.1:0', {tls}, pool: talk}}\n"
        f"pools:\n  web: {{upstreams: {web}}}\n  talk: {{upstreams: {talk}}}\n{more}"
    )


@pytest.mark.parametrize(("workers", "again"), [(1, False), (2, True)])
def test_certificates_replaced_again_and_again_cost_no_request(
    workers: int, again: bool, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    files = tmp_path / "live"
    files.mkdir()
    with ExitStack() as stack:
        web = stack.enter_context(origin(tmp_path, authority, tls=again))
        voice = stack.enter_context(echo())
        file = authority.certificate(TLS_NAME, file="live/www.pem")
        text = config(files, web, voice.address)
        proxy = stack.enter_context(running_proxy(text, workers=workers))
        head = proxy.config.read_text().removesuffix(text)
        crowd = [*stack.enter_context(talkers(proxy.address("talk"), authority.client()))]
        loads = stack.enter_context(wrk(proxy.port("web")))
        serials = {serial(file)}
        for number in range(REPLACED):
            key = "rsa" if number % 4 == 3 else "ecdsa"
            new = serial(authority.certificate(TLS_NAME, file="live/www.pem", key=key))
            if number % 3 == 2:  # a reload may come first
                more = f"  more: {{upstreams: '127.0.0.1:{number + 1}'}}\n"
                proxy.config.write_text(head + config(files, web, voice.address, more))
                proxy.signal(signal.SIGHUP)
            for _ in range(2 * workers):  # each worker has it, before long
                wait_until(lambda new=new: shown(proxy, authority) == new, 10, "the new one")
            serials.add(new)
        assert len(serials) == REPLACED + 1
        nobody_lost(loads, crowd, 200)
        assert len(proxy.log("reloaded")) == REPLACED // 3
        errors = {(one["why"], one["tls_error"]) for one in proxy.records()}
    assert not {why for why, _ in errors} & {"tls_handshake", "tls_error", "internal_error"}, errors


def test_an_upstream_drained_under_https_costs_no_request(tmp_path: Path) -> None:
    authority, door = Authority(tmp_path), tmp_path / "admin.sock"
    authority.certificate(TLS_NAME, file="www.pem")
    with ExitStack() as stack:
        origins = []
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            origins.append(stack.enter_context(nginx(tmp_path / name))["v4"])
        voice = stack.enter_context(echo())
        both = f"['{origins[0]}', '{origins[1]}']"
        text = f"admin: {{bind: 'unix:{door}'}}\n" + config(tmp_path, both, voice.address)
        proxy = stack.enter_context(running_proxy(text, workers=2))
        crowd = stack.enter_context(talkers(proxy.address("talk"), authority.client()))
        loads = stack.enter_context(wrk(proxy.port("web")))
        for round_ in range(4):
            target = {"target": f"pool/web/{origins[round_ % 2]}"}
            for verb in ("drain", "undrain"):
                code, answer = request(door, "POST", f"/api/v1/{verb}", target)
                assert code == 200, answer
                before = len(proxy.records())
                proxy.wait_records(before + 100, 30)
        nobody_lost(loads, crowd, 200)
        assert len(crowd) == TALKERS


@pytest.mark.parametrize(("workers", "again"), [(1, True), (2, False)])
def test_upgrades_under_https_cost_no_request_and_no_session(
    workers: int, again: bool, tmp_path: Path
) -> None:
    authority, files = Authority(tmp_path), tmp_path / "live"
    files.mkdir()
    authority.certificate(TLS_NAME, file="live/www.pem")
    with ExitStack() as stack:
        web = stack.enter_context(origin(tmp_path, authority, tls=again))
        voice = stack.enter_context(echo())
        text = config(files, web, voice.address)
        proxy = stack.enter_context(generations(text, tmp_path, workers=workers))
        first = proxy.proxy
        crowd = [*stack.enter_context(talkers(first.address("talk"), authority.client()))]
        loads = stack.enter_context(wrk(first.port("web")))
        for _ in range(UPGRADES):
            new = serial(authority.certificate(TLS_NAME, file="live/www.pem"))
            proxy.upgrade()
            wait_until(lambda new=new: shown(first, authority) == new, 10, "the new one")
            crowd += stack.enter_context(talkers(first.address("talk"), authority.client()))
        nobody_lost(loads, crowd, 200)
        proxy.wait_alone()
        whys = {record["why"] for record in first.records()}
        print(whys)
        # A side that has closed already answers our close_notify with a reset.
        assert whys <= {"done", "client_reset", "tls_truncated", "upstream_reset"}, whys
