"""`access:` and `on_refuse:` of listeners, as clients and records see them."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from harness import upstreams
from harness.fds import open_fds, rss_bytes
from harness.proxy import Proxy, connect
from harness.wait import wait_until
from session_support import (
    check_record,
    expect_refusal,
    one_record,
    proxy_yaml,
    running_proxy,
)

UNUSABLE = "a file of networks cannot be used: the last good list stays"


def come_from(proxy: Proxy, ip: str, listener: str = "web", index: int = 0) -> str:
    """What a client with this address gets: the upstream's name, "reset" or, for FIN, nothing."""
    name = proxy.address(listener, index)
    try:
        with socket.create_connection(name, 10, source_address=(ip, 0)) as client:  # type: ignore[arg-type]
            return client.makefile("rb").read().decode()
    except ConnectionResetError:
        return "reset"


def access(*rules: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {"access": list(rules), **keys}


def test_the_first_rule_that_holds_the_client_decides() -> None:
    rules = access(
        {"allow": "127.0.0.5"},
        {"deny": ["127.0.0.0/29", "127.0.1.0/24"]},
        {"allow": "127.0.1.7"},
        {"deny": "127.0.2.9"},
    )
    with (
        upstreams.named("up") as upstream,
        running_proxy(proxy_yaml(upstream.address, listener=rules)) as proxy,
    ):
        assert come_from(proxy, "127.0.0.5") == "up"
        assert come_from(proxy, "127.0.0.4") == "reset"
        assert come_from(proxy, "127.0.0.8") == "up"  # no rule
        assert come_from(proxy, "127.0.1.7") == "reset"  # a later rule does not help
        assert come_from(proxy, "127.0.2.9") == "reset"
        assert come_from(proxy, "127.0.2.8") == "up"
        whys = Counter(record["why"] for record in proxy.wait_records(6))
    assert whys == {"done": 3, "access_denied": 3}


@pytest.mark.parametrize("denied", ["::1", "::/0", "::/127"])
def test_ipv6_clients_are_refused_by_ipv6_networks(denied: str) -> None:
    with (
        upstreams.named("up") as upstream,
        running_proxy(
            proxy_yaml(
                upstream.address,
                bind=["127.0.0.1:0", "[::1]:0"],
                listener=access({"deny": denied}),
            )
        ) as proxy,
    ):
        assert come_from(proxy, "127.0.0.1", index=0) == "up"
        assert come_from(proxy, "::1", index=1) == "reset"


HAND_OVER = """
import os, socket, sys
sock = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
os.dup2(sock.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="web")
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Starts a program with a listening socket for both families, as systemd does."""


@pytest.mark.parametrize("denied", ["127.0.0.3", "::ffff:127.0.0.2/127"])
def test_an_ipv4_client_in_ipv6_clothes_is_an_ipv4_client(denied: str) -> None:
    text = partial(proxy_yaml, listener=access({"deny": denied}))
    with (
        upstreams.named("up") as upstream,
        running_proxy(text(upstream.address), wrapper=(sys.executable, "-c", HAND_OVER)) as proxy,
    ):
        port = proxy.port("web")

        def ask(ip: str) -> str:
            try:
                with socket.create_connection(("127.0.0.1", port), 10, (ip, 0)) as client:
                    return client.makefile("rb").read().decode()
            except ConnectionResetError:
                return "reset"

        assert ask("127.0.0.1") == "up"
        assert ask("127.0.0.3") == "reset"
        records = proxy.wait_records(2)
    assert all(record["client"].startswith("[::ffff:127.0.0.") for record in records)


def test_a_client_of_a_unix_socket_is_in_no_network(tmp_path: Path) -> None:
    rules = access({"deny": ["0.0.0.0/0", "::/0"]})
    text = partial(proxy_yaml, bind=f"unix:{tmp_path}/socket", listener=rules)
    with (
        upstreams.named("up") as upstream,
        running_proxy(text(upstream.address)) as proxy,
        proxy.connect("web") as client,
    ):
        assert client.makefile("rb").read() == b"up"


def test_the_record_of_a_refused_client_names_no_pool_and_no_upstream() -> None:
    with (
        upstreams.echo() as upstream,
        running_proxy(
            proxy_yaml(upstream.address, listener=access({"deny": "127.0.0.0/8"}))
        ) as proxy,
    ):
        expect_refusal(proxy)
        record = one_record(proxy)
        assert not upstream.results
    check_record(
        record,
        phase="accept",
        closed_by="proxy",
        how="reset",
        why="access_denied",
        pool=None,
        upstream=None,
    )


def test_on_refuse_close_ends_with_fin_also_where_the_client_spoke_first() -> None:
    rules = access({"deny": "127.0.0.0/8"}, on_refuse="close")
    with (
        upstreams.echo() as upstream,
        running_proxy(proxy_yaml(upstream.address, listener=rules)) as proxy,
    ):
        [pid] = proxy.worker_pids()
        for first in (b"", b"GET / HTTP/1.0\r\n\r\n"):
            os.kill(pid, signal.SIGSTOP)  # so that the bytes are there before the accept
            with proxy.connect("web") as client:
                client.sendall(first)
                os.kill(pid, signal.SIGCONT)
                assert client.recv(1) == b""
        records = proxy.wait_records(2)
    assert {(record["how"], record["why"]) for record in records} == {("close", "access_denied")}


def curl(proxy: Proxy) -> int:
    """curl's exit code: 52 is an empty reply, 56 a reset; curl(1)."""
    host, port = proxy.address("web")
    return subprocess.run(
        ["curl", "-sS", "-m", "10", f"http://{host}:{port}/"], capture_output=True, check=False
    ).returncode


# 7, 55: the reset is there before curl has connected, or sent.
@pytest.mark.parametrize(("on_refuse", "codes"), [("reset", {7, 55, 56}), ("close", {52, 55, 56})])
def test_curl_is_told_of_a_refusal_at_once(on_refuse: str, codes: set[int]) -> None:
    rules = access({"deny": "127.0.0.0/8"}, on_refuse=on_refuse)
    with (
        upstreams.stall() as upstream,
        running_proxy(proxy_yaml(upstream.address, listener=rules)) as proxy,
    ):
        assert curl(proxy) in codes


def write(path: Path, text: str) -> None:
    """Replace the file by rename, as whoever writes lists should."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


def in_place(path: Path, text: str) -> None:
    path.write_text(text)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("change", [write, in_place])
def test_a_list_is_obeyed_and_followed_as_it_changes(
    tmp_path: Path, change: Callable[[Path, str], None], workers: int
) -> None:
    path = tmp_path / "blocklist.txt"
    path.write_text("# bad guys\n127.0.0.2 # one\n\n127.0.0.8/29 ; some\r\n2001:db8::/32\n")
    with (
        upstreams.named("up") as upstream,
        running_proxy(
            proxy_yaml(upstream.address, listener=access({"deny": f"file:{path}"})),
            workers=workers,
        ) as proxy,
    ):

        def got(ip: str) -> set[str]:
            return {come_from(proxy, ip) for _ in range(4 * workers)}

        assert (got("127.0.0.2"), got("127.0.0.9"), got("127.0.0.3")) == (
            {"reset"},
            {"reset"},
            {"up"},
        )
        change(path, "127.0.0.3\n")
        assert proxy.wait_log("access changed")["listener"] == "web"
        assert (got("127.0.0.2"), got("127.0.0.3")) == ({"up"}, {"reset"})
        change(path, "127.0.0.3\n127.0.0.999\n")
        said = proxy.wait_log(UNUSABLE)
        assert said["problems"][0].startswith(f'{path}:2:1: "127.0.0.999" is no network; ')
        assert (got("127.0.0.2"), got("127.0.0.3")) == ({"up"}, {"reset"})
        path.unlink()
        wait_until(lambda: len(proxy.log(UNUSABLE)) == 2, 10, "the missing list in the log")
        assert got("127.0.0.3") == {"reset"}
        change(path, "127.0.0.4\n")
        wait_until(lambda: len(proxy.log("access changed")) == 2, 10, "the next list")
        assert proxy.log("a file of networks can be used again")
        assert (got("127.0.0.3"), got("127.0.0.4")) == ({"up"}, {"reset"})


def test_a_reload_brings_new_rules_and_says_which_and_a_missing_list_stops_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "blocklist.txt"
    path.write_text("127.0.0.7\n")

    def reload(proxy: Proxy, event: str, *rules: dict[str, Any]) -> dict[str, Any]:
        head = [line for line in proxy.config.read_text().splitlines() if ": off" in line]
        text = proxy_yaml(upstream.address, listener=access(*rules), workers=1)
        proxy.config.write_text("\n".join([*head, text]))
        before = len(proxy.log(event))
        proxy.signal(signal.SIGHUP)
        return wait_until(lambda: proxy.log(event)[before:], 10, event)[0]

    with upstreams.named("up") as upstream:
        text = proxy_yaml(upstream.address, listener=access({"deny": "127.0.0.2"}), workers=1)
        with running_proxy(text) as proxy:
            said = reload(proxy, "reloaded", {"allow": "127.0.0.3"}, {"deny": f"file:{path}"})
            assert said["changes"] == [
                "~ listener web: - access deny 127.0.0.2",
                "~ listener web: + access allow 127.0.0.3",
                f"~ listener web: + access deny file:{path}",
            ]
            assert come_from(proxy, "127.0.0.2") == "up"
            assert come_from(proxy, "127.0.0.7") == "reset"
            said = reload(proxy, "not reloaded: nothing has changed", {"deny": "file:/no/such"})
            assert said["problems"] == [
                "/no/such: listeners.web.access[0].deny: no such file; check its name and directory"
            ]
            assert come_from(proxy, "127.0.0.7") == "reset"
            path.write_text("127.0.0.8\n")
            proxy.wait_log("access changed")
            assert come_from(proxy, "127.0.0.8") == "reset"


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_list_that_is_missing_at_the_start_is_an_error(tmp_path: Path, command: str) -> None:
    path = tmp_path / "app.yaml"
    path.write_text(proxy_yaml("127.0.0.1:9", listener=access({"deny": f"file:{tmp_path}/no"})))
    arguments = [sys.executable, "-m", "spliceproxy", command, path]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 78
    assert done.stderr == (
        f"{tmp_path}/no: listeners.web.access[0].deny: no such file; check its name and directory\n"
    )


def test_a_worker_that_comes_back_refuses_by_the_list_of_now(tmp_path: Path) -> None:
    path = tmp_path / "blocklist.txt"
    path.write_text("127.0.0.2\n")
    with (
        upstreams.named("up") as upstream,
        running_proxy(
            proxy_yaml(upstream.address, listener=access({"deny": f"file:{path}"}))
        ) as proxy,
    ):
        path.write_text("127.0.0.3\n")
        proxy.wait_log("access changed")
        [pid] = proxy.worker_pids()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(proxy.log("worker started")) == 2, 10, "a new worker")
        assert come_from(proxy, "127.0.0.3") == "reset"
        assert come_from(proxy, "127.0.0.2") == "up"


def test_twenty_thousand_refused_clients_leave_everything_as_before() -> None:
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    number = 20_000
    rules = access({"deny": "127.0.0.0/24"}, max_sessions=2)
    with (
        upstreams.named("up") as upstream,
        running_proxy(proxy_yaml(upstream.address, listener=rules)) as proxy,
    ):
        name = proxy.address("web")
        [pid] = proxy.worker_pids()
        for _ in range(500):
            come_from(proxy, "127.0.0.2")
        assert come_from(proxy, "127.0.1.1") == "up"
        proxy.wait_records(501)  # and so their sockets are closed
        fds, memory = len(open_fds(pid)), rss_bytes(pid)
        for _ in range(number // 50):
            with ExitStack() as stack:
                for _ in range(50):
                    with suppress(ConnectionResetError):
                        client = stack.enter_context(connect(name))
                        if chance.random() < 0.5:
                            client.send(b"let me in")
        assert come_from(proxy, "127.0.1.1") == "up"
        whys = Counter(record["why"] for record in proxy.wait_records(number + 502, 30))
        assert len(open_fds(pid)) == fds
        assert rss_bytes(pid) < memory + 4 * 1024 * 1024
        wait_until(lambda: len(upstream.results) == 2, 10, "no more than two sessions")
        assert proxy.worker_pids() == [pid]
    assert whys == {"access_denied": number + 500, "done": 2}
