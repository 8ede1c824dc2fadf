"""`python visitors.py TURNS SECONDS PAUSE URL ...`: how long requests take, one URL after another.

HTTP requests are due each PAUSE seconds, half of them on sessions that last and half on a new one
each; with https, each new one is a whole handshake. A request that had to wait for an earlier one
counts from when it was due. Prints the p99 of each turn, in microseconds, as JSON: a list of
`{"lasting": [...], "new": [...]}`, one for each URL.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import ssl
import sys
import time
from contextlib import suppress
from urllib.parse import urlsplit

LASTING = 8
"""Sessions that last."""


class Visitor:
    """Requests to one URL."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname, parts.port)
        self._tls = None
        if parts.scheme == "https":
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._tls.check_hostname = False
            self._tls.verify_mode = ssl.CERT_NONE
        head = f"GET {parts.path} HTTP/1.1\r\nHost: visitors\r\n"
        self._again = f"{head}\r\n".encode()
        self._once = f"{head}Connection: close\r\n\r\n".encode()
        self._lasting = [self._connect() for _ in range(LASTING)]

    def _connect(self) -> socket.socket:
        client = socket.create_connection(self._address, 30)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client if self._tls is None else self._tls.wrap_socket(client)

    def turn(self, seconds: float, pause: float) -> tuple[float, float]:
        """The p99 of each kind, in microseconds."""
        times: tuple[list[float], list[float]] = ([], [])
        began = time.perf_counter()
        for number in range(int(seconds / pause)):
            due = began + number * pause
            wait = due - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            if number % 2:
                self._visit()
            else:
                self._ask(self._lasting[number // 2 % LASTING])
            times[number % 2].append(time.perf_counter() - due)
        return p99_us(times[0]), p99_us(times[1])

    def _ask(self, client: socket.socket) -> None:
        client.sendall(self._again)
        if not client.recv(65536).startswith(b"HTTP/1.1 200"):
            sys.exit("no answer")

    def _visit(self) -> None:
        with self._connect() as client:
            client.sendall(self._once)
            if not client.recv(65536).startswith(b"HTTP/1.1 200"):
                sys.exit("no answer on a new session")


def p99_us(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)] * 1e6


def main(turns: str, seconds: str, pause: str, *urls: str) -> None:
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -15)
    visitors = [Visitor(url) for url in urls]
    found: list[dict[str, list[float]]] = [{"lasting": [], "new": []} for _ in urls]
    for visitor in visitors:  # what is done once is done
        visitor.turn(0.1, float(pause))
    gc.disable()
    for _ in range(int(turns)):
        for visitor, p99 in zip(visitors, found, strict=True):
            lasting, new = visitor.turn(float(seconds), float(pause))
            p99["lasting"].append(lasting)
            p99["new"].append(new)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
