"""What an intruder would try at the admin port, while a client talks through the data plane:
nothing gets in, and the client does not notice."""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness.door import ask, bearer, connected, heard, request, say, tcp_doors, write_token
from harness.fds import fd_kinds
from harness.proxy import Proxy, running_proxy
from harness.upstreams import echo
from harness.wait import wait_until

YAML = """\
admin: {{bind: ["unix:{directory}/admin.sock", "127.0.0.1:0"]}}
listeners:
  web: {{bind: "127.0.0.1:0", pool: app}}
pools:
  app: {{upstreams: ["{upstream}"]}}
"""
pytestmark = pytest.mark.alone
WORST = 0.5
"""Seconds for one message there and back, at the most, on a machine with other things to do."""


class Talker:
    """A client that sends a message through the proxy, waits for it to come back, and so on."""

    def __init__(self, proxy: Proxy) -> None:
        self.worst = 0.0
        self.messages = 0
        self._failure: BaseException | None = None
        self._over = threading.Event()
        self._sock = proxy.connect("web")
        self._thread = threading.Thread(target=self._talk)
        self._thread.start()

    def _talk(self) -> None:
        try:
            while not self._over.is_set():
                began = time.monotonic()
                self._sock.sendall(b"still here")
                assert self._sock.recv(100) == b"still here"
                self.worst = max(self.worst, time.monotonic() - began)
                self.messages += 1
                self._over.wait(0.002)
        except BaseException as error:
            self._failure = error

    def end(self) -> None:
        """Raises what went wrong."""
        self._over.set()
        self._thread.join()
        self._sock.close()
        if self._failure is not None:
            raise self._failure


@dataclass
class House:
    """What the intruder meets."""

    proxy: Proxy
    where: tuple[str, int]
    unix: Path
    talker: Talker

    @property
    def host(self) -> str:
        return f"{self.where[0]}:{self.where[1]}"

    def status(self) -> dict[str, Any]:
        return request(self.unix, "GET", "/api/v1/status")[1]


@contextmanager
def house(directory: Path) -> Iterator[House]:
    with echo() as upstream:
        text = YAML.format(directory=directory, upstream=upstream.address)
        with running_proxy(text) as proxy:
            talker = Talker(proxy)
            [where] = tcp_doors(proxy)
            try:
                yield House(proxy, where, directory / "admin.sock", talker)
            finally:
                talker.end()


@pytest.fixture
def besieged(tmp_path: Path) -> Iterator[House]:
    """Afterwards nothing has changed, and nobody has noticed anything."""
    with house(tmp_path) as found:
        wait_until(lambda: found.talker.messages, 10, "a session")
        before = found.status()
        yield found
        after = found.status()
        for key in ("pid", "ready", "sessions", "config_files"):
            assert after[key] == before[key], key
        assert after["workers"][0]["pid"] == before["workers"][0]["pid"]
        assert [one["states"] for one in after["pools"][0]["upstreams"]] == [["up"]]
        assert not after["listeners"][0]["draining"]
        lines = [line for line in found.proxy.log() if line["level"] not in ("debug", "info")]
        assert not lines
        for event in ("draining", "reloaded", "sessions reset", "upgrading"):
            assert not found.proxy.log(event)
        wait_until(lambda: found.talker.messages > 100, 10, "some talk")
        print(f"{found.talker.messages} messages, the slowest {found.talker.worst * 1000:.1f} ms")
        assert found.talker.worst < WORST


ORDERS = {
    "/api/v1/drain": {"target": "all", "over": 0},
    "/api/v1/undrain": {"target": "all"},
    "/api/v1/reset": {"where": {"listener": "web"}},
    "/api/v1/reload": {},
    "/api/v1/upgrade": {},
}


def orders(house: House, headers: dict[str, str], query: str = "") -> set[int]:
    """The statuses of all orders with these headers."""
    return {
        request(house.where, "POST", path + query, body, headers)[0]
        for path, body in ORDERS.items()
    }


def test_without_the_token_no_order_is_carried_out(besieged: House) -> None:
    token = write_token(besieged.unix)
    guesses = [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {token}"},
        {"Authorization": token},
        {"X-Token": token, "Cookie": f"token={token}", "Token": token},
        *(bearer(token[:length]) for length in (1, 8, len(token) - 1)),
        bearer(token + "="),
        bearer(token.swapcase()),
        bearer("x" * len(token)),
        bearer("x" * 8000),
    ]
    for headers in guesses:
        assert orders(besieged, headers) == {401}, headers
    assert orders(besieged, {}, f"?token={token}&access_token={token}") == {401}
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    body = f"token={token}".encode()
    assert request(besieged.where, "POST", "/api/v1/reload", body, form)[0] == 401


def test_a_page_elsewhere_reads_and_drives_nothing_even_with_the_token(besieged: House) -> None:
    token = bearer(write_token(besieged.unix))
    foreign = [
        {"Host": "evil.example"},
        {"Host": f"evil.example:{besieged.where[1]}"},
        {"Host": f"{besieged.where[0]}.evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://localhost:{besieged.where[1] + 1}"},
        {"Origin": f"http://{besieged.host}.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": f"http://{besieged.host}"},
        {"Host": "evil.example", "Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"},
    ]
    for headers in foreign:
        assert orders(besieged, token | headers) == {403}, headers
        code, answer = request(besieged.where, "GET", "/api/v1/status", headers=headers)
        assert (code, list(answer)) == (403, ["error"])
        assert ask(besieged.where, "OPTIONS", "/api/v1/drain", headers=headers).status == 403
    answer = ask(besieged.where, "OPTIONS", "/api/v1/drain", headers=token)
    assert answer.status == 405
    assert not [name for name in answer.headers if name.startswith("Access-Control")]


def test_a_forwarded_address_opens_no_door(besieged: House) -> None:
    headers = {
        "X-Forwarded-For": "127.0.0.1",
        "X-Forwarded-Host": "localhost",
        "X-Real-IP": "127.0.0.1",
        "Forwarded": "for=127.0.0.1;host=localhost",
        "X-HTTP-Method-Override": "POST",
        "X-Original-URL": "/api/v1/reload",
    }
    assert orders(besieged, headers) == {401}
    assert request(besieged.where, "GET", "/api/v1/reload", headers=headers)[0] == 401
    foreign = headers | {"Host": "evil.example"}
    assert request(besieged.where, "GET", "/api/v1/status", headers=foreign)[0] == 403


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_an_order_by_another_method_is_none(method: str, besieged: House) -> None:
    token = bearer(write_token(besieged.unix))
    for path in ORDERS:
        assert ask(besieged.where, method, path, headers=token).status == 405
        assert ask(besieged.where, method, path).status == 401


PATHS = (
    "/api/v1/../v1/reload",
    "/api/v1/%72eload",
    "//api/v1/reload",
    "/api//v1/reload",
    "/api/v1/reload/",
    "/api/v1/reload%00",
    "/api/v1/reload;x=y",
    "/api/v1/reload%2f",
    "/API/v1/reload",
    "/healthz/../api/v1/reload",
    "/app.js/../api/v1/reload",
    "/../../../../etc/passwd",
    "/..%2f..%2f..%2fetc%2fpasswd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/.git/config",
    "/page/index.html",
    "/__init__.py",
    "/api/v1/pools/../../../etc/passwd",
    "/api/v1/pools/%2e%2e",
    "/api/v1/pools/..",
)


def test_no_path_leads_around_the_guard_or_out_of_the_house(besieged: House) -> None:
    for path in PATHS:
        for method in ("GET", "POST"):
            text = f"{method} {path} HTTP/1.1\r\nHost: {besieged.host}\r\nConnection: close\r\n\r\n"
            answer = say(besieged.where, text.encode())
            assert answer.split(b" ", 2)[1] in (b"400", b"401", b"404", b"405"), (path, answer)
            assert b"root:" not in answer


def test_requests_that_hide_in_others_meet_the_guard(besieged: House) -> None:
    order = f"POST /api/v1/reload HTTP/1.1\r\nHost: {besieged.host}\r\n\r\n".encode()
    head = f"GET /healthz HTTP/1.1\r\nHost: {besieged.host}\r\n".encode()
    attempts = [
        head + b"\r\n" + order * 20,
        head + b"Content-Length: %d\r\n\r\n" % len(order) + order,
        head + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(order) + order,
        head + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + order,
        head + b"Transfer-Encoding: chunked\r\n\r\n0\r\nHost: x\r\n\r\n" + order,
        head + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n" + order,
        head + b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n" + order,
        head + b"X: a\nPOST /api/v1/reload HTTP/1.1\nHost: x\n\n",
        b"CONNECT %s HTTP/1.1\r\nHost: x\r\n\r\n" % besieged.host.encode() + order,
        b"GET http://evil.example/api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + order,
    ]
    for text in attempts:
        with closing(connected(besieged.where, 3)) as sock:
            sock.sendall(text)
            sock.shutdown(socket.SHUT_WR)
            assert b'"changes"' not in heard(sock), text


def test_garbage_of_every_kind_is_refused(besieged: House) -> None:
    with closing(open("/dev/urandom", "rb")) as noise:
        for size in (1, 10, 100, 1000, 10_000, 100_000, 1_000_000):
            for end in (b"", b"\r\n\r\n"):
                with closing(connected(besieged.where, 15)) as sock:
                    try:
                        sock.sendall(noise.read(size) + end)
                        sock.shutdown(socket.SHUT_WR)
                    except OSError:
                        continue
                    assert b" 200 " not in heard(sock)[:20]
    token = bearer(write_token(besieged.unix))
    for body in (b"[" * 60_000, b"{" * 60_000, b'{"target": ' * 5_000, b"\xff" * 60_000, b"null"):
        code, answer = request(besieged.where, "POST", "/api/v1/drain", body, token)
        assert (code, list(answer)) == (400, ["error"])


def test_oversized_requests_cost_nobody_else_anything(besieged: House) -> None:
    head = f"POST /api/v1/drain HTTP/1.1\r\nHost: {besieged.host}\r\n".encode()
    before = memory(besieged.proxy.pid)
    for text in (
        head + b"X: " + b"x" * 10_000_000,
        head + b"X: x\r\n" * 1_000_000,
        head + b"Content-Length: 100000000\r\n\r\n" + b"x" * 20_000_000,
        head + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 2_000_000,
        b"x" * 20_000_000,
        (head.replace(b"POST /api/v1/drain", b"GET /healthz") + b"\r\n") * 100_000,
    ):
        with closing(connected(besieged.where)) as sock:
            try:
                sock.sendall(text)
            except OSError:
                continue
            heard(sock)
    assert memory(besieged.proxy.pid) < before + 50_000_000


def memory(pid: int) -> int:
    """Bytes that a process has in memory now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def test_slow_ones_are_shown_out_after_ten_seconds_and_hold_up_nobody(besieged: House) -> None:
    head = f"POST /api/v1/drain HTTP/1.1\r\nHost: {besieged.host}\r\n".encode()
    token = f"Authorization: Bearer {write_token(besieged.unix)}\r\n".encode()
    began = time.monotonic()
    with ExitStack() as stack:
        slow = [stack.enter_context(closing(connected(besieged.where, 15))) for _ in range(60)]
        for number, sock in enumerate(slow):
            sock.sendall(
                (head + b"X: ", head + token + b"Content-Length: 60000\r\n\r\n{")[number % 2]
            )
        asked = 0
        while time.monotonic() - began < 5:
            for sock in slow:
                sock.sendall(b" ")
            assert ask(besieged.where, "GET", "/api/v1/status").status == 200
            asked += 1
        assert asked > 20
        for sock in slow:
            assert heard(sock).startswith(b"HTTP/1.1 408 ")
    assert 9 < time.monotonic() - began < 14


def test_thousands_that_say_nothing_keep_nobody_out(besieged: House) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    crowd = 3000
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, crowd + 500)), hard))
    with ExitStack() as stack:
        for number in range(crowd):
            sock = stack.enter_context(closing(connected(besieged.where)))
            if number % 3 == 0:
                sock.send(b"GET /api/v1/sta")
        began = time.monotonic()
        assert ask(besieged.where, "GET", "/api/v1/status").status == 200
        assert request(besieged.unix, "GET", "/api/v1/status")[0] == 200
        assert time.monotonic() - began < 2
        connections = fd_kinds(besieged.proxy.pid).get("socket", 0)
        assert connections < 400
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_streams_that_are_held_open_leave_the_rest_alone(besieged: House) -> None:
    head = f"GET /api/v1/stream?records=all HTTP/1.1\r\nHost: {besieged.host}\r\n\r\n".encode()
    with ExitStack() as stack:
        streams = [stack.enter_context(closing(connected(besieged.where))) for _ in range(40)]
        answers = []
        for sock in streams:
            sock.sendall(head)
            answers.append(sock.recv(4096).split(b" ", 2)[1])
        assert answers.count(b"200") == 16
        assert answers.count(b"429") == 24
        assert request(besieged.where, "GET", "/api/v1/status")[0] == 200
        with closing(connected(besieged.unix)) as local:
            local.sendall(head)
            assert local.recv(15) == b"HTTP/1.1 200 OK"

    def free() -> bool:
        with closing(connected(besieged.where)) as sock:
            sock.sendall(head)
            return sock.recv(15) == b"HTTP/1.1 200 OK"

    wait_until(free, 5, "a stream")


def test_what_can_be_read_tells_no_secret(besieged: House) -> None:
    token = write_token(besieged.unix)
    for path in ("status", "config", "listeners", "pools", "upstreams", "sessions"):
        answer = ask(besieged.where, "GET", f"/api/v1/{path}")
        assert answer.status == 200
        assert token.encode() not in answer.body
    assert ask(besieged.where, "GET", "/api/v1/token").status == 404
    assert token not in besieged.proxy.stderr
    environment = Path(f"/proc/{besieged.proxy.pid}/environ").read_bytes()
    assert token.encode() not in environment + os.fsencode(str(besieged.proxy.directory))
