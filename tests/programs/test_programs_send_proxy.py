"""nginx and haproxy behind us, both wanting a PROXY header: what they tell, and what they log."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness.load import read_to_end
from harness.proxy import Proxy, running_proxy
from harness.serving import FAMILIES
from harness.wait import wait_until
from real_programs import free_port, need, program

REQUEST = b"GET /client HTTP/1.0\r\n\r\n"
TOLD = " ".join(f"$proxy_protocol_{n}" for n in ("addr", "port", "server_addr", "server_port"))

Addresses = dict[str, str]


@contextmanager
def nginx(directory: Path) -> Iterator[Addresses]:
    """Answers with what the header says; its address by family."""
    ports = {family: free_port(family) for family in ("v4", "v6")}
    user = "user root;" if os.geteuid() == 0 else ""
    config = directory / "nginx.conf"
    config.write_text(
        f"""{user} daemon off; master_process off; pid {directory}/pid;
error_log {directory}/error.log info;
events {{}}
http {{
  access_log {directory}/access.log;
  server {{
    listen 127.0.0.1:{ports["v4"]} proxy_protocol;
    listen [::1]:{ports["v6"]} proxy_protocol;
    listen unix:{directory}/up.sock proxy_protocol;
    return 200 "{TOLD}";
  }}
}}
"""
    )
    command = [need("nginx"), "-p", directory, "-c", config]
    with program(command, directory / "nginx.log", ("127.0.0.1", ports["v4"])):
        yield addresses(directory, ports)


@contextmanager
def haproxy(directory: Path) -> Iterator[Addresses]:
    """The same, and the header's unique id behind it."""
    ports = {family: free_port(family) for family in ("v4", "v6")}
    config = directory / "haproxy.cfg"
    config.write_text(
        f"""
global
  log stdout format raw local0
defaults
  timeout connect 5s
  timeout client 5s
  timeout server 5s
  log global
frontend reader
  mode http
  option httplog
  option dontlognull
  bind 127.0.0.1:{ports["v4"]} accept-proxy
  bind [::1]:{ports["v6"]} accept-proxy
  bind unix@{directory}/up.sock accept-proxy
  http-request return status 200 content-type text/plain lf-string \
"%[src] %[src_port] %[dst] %[dst_port] %[fc_pp_unique_id]"
"""
    )
    command = [need("haproxy"), "-db", "-f", config]
    with program(command, directory / "haproxy.log", ("127.0.0.1", ports["v4"])):
        yield addresses(directory, ports)


def addresses(directory: Path, ports: dict[str, int]) -> Addresses:
    return {
        "v4": f"127.0.0.1:{ports['v4']}",
        "v6": f"[::1]:{ports['v6']}",
        "unix": f"unix:{directory}/up.sock",
    }


def yaml(directory: Path, upstreams: Addresses, version: str, health: str) -> str:
    """One listener and one pool for each family of upstreams; each listener is on all families."""
    listeners, pools = "listeners:\n", "pools:\n"
    for family, upstream in upstreams.items():
        binds = f"['127.0.0.1:0', '[::1]:0', 'unix:{directory}/{family}.sock', '0.0.0.0:0']"
        listeners += f"  {family}: {{bind: {binds}, pool: {family}}}\n"
        pools += (
            f"  {family}: {{upstreams: '{upstream}', send_proxy: {version}, "
            f"health: {{check: {health}, interval: 100ms}}}}\n"
        )
    return listeners + pools


def ask(proxy: Proxy, listener: str, index: int) -> tuple[list[str], list[str]]:
    """What the server tells, and the words that it should begin with."""
    with proxy.connect(listener, index) as sock:
        words: list[str] = []
        if sock.family != socket.AF_UNIX:
            ends = (*sock.getsockname()[:2], *sock.getpeername()[:2])
            words = [str(part) for part in ends]
        sock.sendall(REQUEST)
        head, _, body = read_to_end(sock).partition(b"\r\n\r\n")
        assert b" 200 " in head.partition(b"\r\n")[0], head
        return body.decode().split(), words


@pytest.mark.parametrize("health", ["tcp", "http"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_nginx_hears_of_every_client_and_logs_no_error(
    version: str, health: str, tmp_path: Path
) -> None:
    with (
        nginx(tmp_path) as upstreams,
        running_proxy(yaml(tmp_path, upstreams, version, health)) as proxy,
    ):
        # The program() that waited for nginx came without a header.
        errors = (tmp_path / "error.log").read_text().count("broken header")
        access = tmp_path / "access.log"
        for family in FAMILIES:
            for index in range(4):
                told, words = ask(proxy, family, index)
                if words:
                    assert told == words
        if health == "http":
            wait_until(lambda: access.read_text().count("(health check)") >= 15, 15, "checks")
        else:
            wait_tcp_checks(upstreams["v4"])
        assert proxy.log("upstream down") == []
        text = (tmp_path / "error.log").read_text()
        assert text.count("broken header") == errors, text
        assert "[error]" not in text.replace("broken header", "")
        assert '"GET /client HTTP/1.0" 400' not in access.read_text()


@pytest.mark.parametrize("health", ["tcp", "http"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_haproxy_hears_of_every_client_and_logs_no_error(
    version: str, health: str, tmp_path: Path
) -> None:
    with (
        haproxy(tmp_path) as upstreams,
        running_proxy(yaml(tmp_path, upstreams, version, health)) as proxy,
    ):
        log = tmp_path / "haproxy.log"
        for number, (family, index) in enumerate((f, i) for f in FAMILIES for i in range(4)):
            told, words = ask(proxy, family, index)
            record = proxy.wait_records(number + 1)[number]
            assert record["bytes_up"] == len(REQUEST)
            if words:
                assert told == ([*words, record["session"]] if version == "v2" else words)
        if health == "http":
            wait_until(lambda: log.read_text().count('"GET / HTTP/1.1"') >= 15, 15, "checks")
        else:
            wait_tcp_checks(upstreams["v4"])
        assert proxy.log("upstream down") == []
        said = log.read_text()
        assert "PROXY" not in said
        assert "BADREQ" not in said


def wait_tcp_checks(address: str) -> None:
    """Until five of them were made: they say FIN first, so that our side is in TIME_WAIT."""
    port = int(address.rpartition(":")[2])

    def ended() -> int:
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        return sum(f":{port:04X} 06 " in line for line in lines)

    wait_until(lambda: ended() >= 5, 15, "five checks")


def test_without_it_both_would_have_logged_errors(tmp_path: Path) -> None:
    """Which shows that the tests above can fail."""
    (tmp_path / "n").mkdir()
    (tmp_path / "h").mkdir()
    with nginx(tmp_path / "n") as first, haproxy(tmp_path / "h") as second:
        for directory, upstreams in ((tmp_path / "n", first), (tmp_path / "h", second)):
            with running_proxy(yaml(directory, upstreams, "off", "http")) as proxy:
                proxy.wait_log("upstream down", timeout=15)
        assert "broken header" in (tmp_path / "n" / "error.log").read_text()
        assert "PROXY" in (tmp_path / "h" / "haproxy.log").read_text()
