"""Proxies before this one: haproxy, nginx and curl tell it of their clients."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from harness import upstreams
from harness.proxy import Proxy, connect, running_proxy
from harness.wait import wait_until
from real_programs import free_port, need, run
from test_programs_proxy_header import haproxy, nginx

CONFIG = """
listeners:
  web:
    bind: 127.0.0.1:0
    accept_proxy: {{from: [127.0.0.0/8], others: refuse}}
    pool: app
pools: {{app: {{upstreams: {address}}}}}
"""


def wait_client(proxy: Proxy, client: socket.socket) -> None:
    """Wait for the record that names this client of the proxy before ours."""
    name = "{}:{}".format(*client.getsockname())
    wait_until(
        lambda: any(one["client"] == name for one in proxy.records()), 10, f"a record of {name}"
    )


@pytest.mark.parametrize("option", ["send-proxy", "send-proxy-v2", "send-proxy-v2 check"])
def test_haproxy_tells_of_its_clients(option: str, tmp_path: Path) -> None:
    port = free_port()
    with upstreams.echo() as upstream, running_proxy(CONFIG.format(address=upstream.address)) as us:
        text = f"""
listen plain
  mode tcp
  bind 127.0.0.1:{port}
  server us 127.0.0.1:{us.port("web")} {option} inter 100ms
"""
        with haproxy(tmp_path, text, port), connect(("127.0.0.1", port)) as client:
            client.sendall(b"hello")
            assert client.recv(5) == b"hello"
            client.shutdown(socket.SHUT_WR)
            wait_client(us, client)
        assert all(one["why"] != "bad_proxy_header" for one in us.records())


def test_nginx_tells_of_its_clients(tmp_path: Path) -> None:
    port = free_port()
    with upstreams.echo() as upstream, running_proxy(CONFIG.format(address=upstream.address)) as us:
        text = (
            f"stream {{ server {{ listen 127.0.0.1:{port}; "
            f"proxy_pass 127.0.0.1:{us.port('web')}; proxy_protocol on; }} }}"
        )
        with nginx(tmp_path, text, port), connect(("127.0.0.1", port)) as client:
            client.sendall(b"hello")
            assert client.recv(5) == b"hello"
            client.shutdown(socket.SHUT_WR)
            wait_client(us, client)


def test_curl_tells_of_the_client_that_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("found")
    port = free_port()
    text = f"http {{ server {{ listen 127.0.0.1:{port}; root {tmp_path}; access_log off; }} }}"
    with (
        nginx(tmp_path, text, port),
        running_proxy(CONFIG.format(address=f"127.0.0.1:{port}")) as us,
    ):
        for extra in ((), ("--haproxy-clientip", "203.0.113.7")):
            url = f"http://127.0.0.1:{us.port('web')}/index.html"
            command = [need("curl"), "-sS", "--haproxy-protocol", *extra, url]
            if extra and "haproxy-clientip" not in run([need("curl"), "--help", "all"]):
                continue
            assert run(command) == "found"
        records = us.wait_records(1)
    assert all(one["why"] == "done" for one in records)
