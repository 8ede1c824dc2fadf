"""The operator's door as an HTTP client on its UNIX socket meets it."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("door", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(str(self._path))


def request(
    path: Path, method: str, target: str, body: object = None
) -> tuple[int, dict[str, Any]]:
    """The status and the JSON of one answer; `body` is sent as JSON, bytes as they are."""
    connection = _Connection(path)
    try:
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body)
        connection.request(method, target, sent)
        response = connection.getresponse()
        assert response.headers["Content-Type"].startswith("application/json")
        return response.status, json.loads(response.read())
    finally:
        connection.close()
