"""The doors of a proxy as HTTP clients meet them, by UNIX sockets and by TCP."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from harness.proxy import Proxy

Where = Path | tuple[str, int]
"""The path of a UNIX socket, or a host and a port."""
TIMEOUT = 10.0


class Connection(http.client.HTTPConnection):
    """A connection that is kept between requests."""

    def __init__(self, where: Where, timeout: float = TIMEOUT) -> None:
        host, port = ("door", None) if isinstance(where, Path) else where
        super().__init__(host, port, timeout=timeout)
        self._where = where

    def connect(self) -> None:
        self.sock = connected(self._where, self.timeout or TIMEOUT)


def connected(where: Where, timeout: float = TIMEOUT) -> socket.socket:
    """A connection to a door, with which nothing was said so far."""
    if isinstance(where, tuple):
        return socket.create_connection(where, timeout)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(timeout)
    sock.connect(str(where))
    return sock


class Answer:
    """One answer, as it came."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def json(self) -> dict[str, Any]:
        assert self.headers["Content-Type"].startswith("application/json")
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


def ask(
    where: Where,
    method: str,
    target: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One answer; `body` is sent as JSON, bytes as they are."""
    with closing(Connection(where)) as connection:
        return ask_by(connection, method, target, body, headers)


def ask_by(
    connection: Connection,
    method: str,
    target: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """The same by a connection that is there."""
    sent = body if body is None or isinstance(body, bytes) else json.dumps(body)
    connection.request(method, target, sent, dict(headers or {}))
    return Answer(connection.getresponse())


def request(
    where: Where,
    method: str,
    target: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, dict[str, Any]]:
    """The status and the JSON of one answer."""
    answer = ask(where, method, target, body, headers)
    return answer.status, answer.json


def bearer(token: str) -> dict[str, str]:
    """The header that brings a token."""
    return {"Authorization": f"Bearer {token}"}


def write_token(door: Path) -> str:
    """The write token, as the UNIX socket tells it."""
    return str(request(door, "GET", "/api/v1/token")[1]["write"])


def say(where: Where, *texts: bytes, timeout: float = TIMEOUT) -> bytes:
    """All that is answered to these bytes, until the other side closes."""
    with closing(connected(where, timeout)) as sock:
        for text in texts:
            sock.sendall(text)
        return heard(sock)


def heard(sock: socket.socket) -> bytes:
    """What comes until the other side closes, or resets."""
    found = b""
    try:
        while data := sock.recv(65536):
            found += data
    except ConnectionError:
        pass
    return found


def tcp_doors(proxy: Proxy, *, metrics: bool = False) -> list[tuple[str, int]]:
    """Where the doors of TCP are, by the log of the process that opened them last."""
    found = {}
    for line in proxy.log("door open"):
        host, _, port = line["address"].rpartition(":")
        if line["metrics"] == metrics and not line["address"].startswith("unix:"):
            found[host.strip("[]"), int(port)] = None
    return list(found)


@contextmanager
def streamed(where: Where, target: str, headers: Mapping[str, str] | None = None) -> Iterator[Any]:
    """The lines of a stream, as a file to be read."""
    with closing(Connection(where)) as connection:
        connection.request("GET", target, headers=dict(headers or {}))
        response = connection.getresponse()
        assert response.status == 200, response.read()
        assert response.headers["Content-Type"] == "text/event-stream"
        yield response
