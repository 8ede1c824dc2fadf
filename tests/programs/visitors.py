"""`python visitors.py TURNS SECONDS PATH PORT ...`: how long requests take, port by port in turn.

HTTP requests are due at fixed times, half of them on sessions that last and half on a new one each.
One that had to wait for an earlier one counts from when it was due. Prints, for each port, the p99
of each turn in microseconds, as JSON: `{"PORT": {"lasting": [...], "new": [...]}}`.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
import time
from contextlib import suppress

PAUSE = 0.002
"""Seconds between two requests."""
LASTING = 8
"""Sessions that last."""


class Visitor:
    """Requests to one port."""

    def __init__(self, port: int, path: str) -> None:
        self._port = port
        head = f"GET {path} HTTP/1.1\r\nHost: visitors\r\n"
        self._again = f"{head}\r\n".encode()
        self._once = f"{head}Connection: close\r\n\r\n".encode()
        self._lasting = [self._connect() for _ in range(LASTING)]

    def _connect(self) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self._port), 30)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def turn(self, seconds: float) -> tuple[float, float]:
        """The p99 of each kind, in microseconds."""
        times: tuple[list[float], list[float]] = ([], [])
        began = time.perf_counter()
        for number in range(int(seconds / PAUSE)):
            due = began + number * PAUSE
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


def main(turns: str, seconds: str, path: str, *ports: str) -> None:
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -15)
    visitors = {port: Visitor(int(port), path) for port in ports}
    found: dict[str, dict[str, list[float]]] = {port: {"lasting": [], "new": []} for port in ports}
    for visitor in visitors.values():  # what is done once is done
        visitor.turn(0.1)
    gc.disable()
    for _ in range(int(turns)):
        for port, visitor in visitors.items():
            lasting, new = visitor.turn(float(seconds))
            found[port]["lasting"].append(lasting)
            found[port]["new"].append(new)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
