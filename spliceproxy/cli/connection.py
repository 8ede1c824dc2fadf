"""HTTP with a running proxy, over its UNIX socket or over TCP: answers, and streams of events."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from spliceproxy.cli.client import TOKEN_VARIABLE, VARIABLE, Admin, DoorError
from spliceproxy.errors import UsageError
from spliceproxy.runtime import default_admin_path

_SILENCE = 25.0
"""Seconds without a word after which a stream is taken for dead; its comments come each ten."""
_LONGEST = 4 << 20
"""Bytes of one line of a stream."""


def open_connection(admin: Admin, timeout: float) -> Connection:
    """See Admin.connect."""
    place = admin.place or ""
    if "://" in place:
        return _Tcp(place, _token(admin.token_file), timeout)
    return _Unix(Path(place.removeprefix("unix:")) if place else _default_path(), timeout)


class Connection:
    """A connection that is kept for several requests, and made anew when it is gone."""

    def __init__(self, http_connection: http.client.HTTPConnection, name: str) -> None:
        """`name` is how a user would say where it leads."""
        self._http = http_connection
        self.name = name
        self._headers: dict[str, str] = {}
        self._sock: socket.socket | None = None
        """The socket of the last request, which http.client forgets where nothing follows it."""

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def ask(self, method: str, path: str, order: object = None) -> dict[str, Any]:
        """The answer, a JSON object. Raises DoorError: what went wrong."""
        try:
            response = self._send(method, path, order)
            answer = json.loads(response.read())
            if not isinstance(answer, dict):
                raise ValueError("its answer is no JSON object")
        except (OSError, ValueError, http.client.HTTPException) as error:
            self._fail(error)
        if response.status != http.client.OK:
            self._refused(path, response.status, answer)
        return answer

    def stream(self, path: str) -> Iterator[tuple[str, str]]:
        """Open a stream. Its events come with their names and their data until the other side
        ends; a comment is an event without a name. Raises DoorError, also while it is read."""
        try:
            response = self._send("GET", path, None)
            if response.status != http.client.OK:
                self._refused(path, response.status, json.loads(response.read()))
            assert self._sock is not None
            self._sock.settimeout(_SILENCE)
        except (OSError, ValueError, http.client.HTTPException) as error:
            self._fail(error)
        return self._read(response)

    def _read(self, response: http.client.HTTPResponse) -> Iterator[tuple[str, str]]:
        try:
            yield from _events(response)
        except (OSError, ValueError, http.client.HTTPException) as error:
            self._fail(error)

    def interrupt(self) -> None:
        """Have a stream end that somebody waits for in another thread."""
        if self._sock is not None:
            with suppress(OSError):  # it ended by itself
                self._sock.shutdown(socket.SHUT_RDWR)

    def _send(self, method: str, path: str, order: object) -> http.client.HTTPResponse:
        body = None if order is None else json.dumps(order)
        headers = dict(self._headers)
        if body is not None:
            headers["Content-Type"] = "application/json"
        again = method == "GET" and self._http.sock is not None
        try:
            return self._try(method, path, body, headers)
        except (http.client.RemoteDisconnected, ConnectionError):
            self._http.close()
            if not again:
                raise
        # A connection that was kept may have been closed meanwhile, which says nothing.
        return self._try(method, path, body, headers)

    def _try(
        self, method: str, path: str, body: str | None, headers: dict[str, str]
    ) -> http.client.HTTPResponse:
        self._http.request(method, path, body, headers)
        self._sock = self._http.sock
        return self._http.getresponse()

    def _fail(self, error: Exception) -> NoReturn:
        """Tell what kept the answer away."""
        self._http.close()
        if isinstance(error, TimeoutError):
            text = f"no answer at {self.name} within {self._http.timeout:g} s"
        elif isinstance(error, PermissionError):
            text = f"{self.name}: not permitted; use the user that runs spliceproxy"
        else:
            known = isinstance(error, FileNotFoundError | ConnectionRefusedError)
            why = "" if known else f" ({error})"
            text = (
                f"no spliceproxy answers at {self.name}{why}; is it running? "
                "--admin names another place"
            )
        raise DoorError(text) from None

    def _refused(self, path: str, status: int, answer: Any) -> NoReturn:
        """Tell what the proxy said in place of an answer."""
        said = answer.get("error") if isinstance(answer, dict) else None
        text = str(said or f"{path}: HTTP {status}")
        if status == http.client.UNAUTHORIZED and "Authorization" not in self._headers:
            text += f"; --token-file or {TOKEN_VARIABLE} names it"
        raise DoorError(text, status)


class _Unix(Connection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__(_UnixConnection(path, timeout), str(path))


class _Tcp(Connection):
    def __init__(self, place: str, token: str | None, timeout: float) -> None:
        host, port = _host_and_port(place)
        super().__init__(http.client.HTTPConnection(host, port, timeout=timeout), place)
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(self.timeout)
        try:
            sock.connect(str(self._path))
        except BaseException:
            sock.close()
            raise
        self.sock = sock


def _events(response: http.client.HTTPResponse) -> Iterator[tuple[str, str]]:
    """Server-sent events (HTML, section 9.2): lines of `field: value`, ended by an empty one."""
    name = "message"
    data: list[str] = []
    while raw := response.readline(_LONGEST):
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        field, _, value = line.partition(":")
        if not line:
            if data:
                yield name, "\n".join(data)
            name, data = "message", []
        elif not field:
            yield "", value
        elif field == "event":
            name = value.removeprefix(" ")
        elif field == "data":
            data.append(value.removeprefix(" "))


def _host_and_port(place: str) -> tuple[str, int]:
    right = "write a path, unix:/path or http://host:port"
    try:
        parts = urlsplit(place)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"--admin {place}: {error}; {right}") from None
    if parts.scheme != "http" or not host or parts.path not in ("", "/") or parts.query:
        raise UsageError(f"--admin {place}: no such place; {right}")
    return host, port or http.client.HTTP_PORT


def _token(file: Path | None) -> str | None:
    """The token of the file, or of the environment. Raises DoorError."""
    if file is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no text"
        raise DoorError(f"--token-file {file}: {reason}") from None
    if not token:
        raise DoorError(f"--token-file {file}: it is empty")
    return token


def _default_path() -> Path:
    path = default_admin_path()
    if path is None:
        raise DoorError(f"no XDG_RUNTIME_DIR here: name the socket with --admin or {VARIABLE}")
    return path
