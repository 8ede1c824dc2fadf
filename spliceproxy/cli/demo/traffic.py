"""The demo's clients: short HTTP requests, each on a connection of its own."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter

REQUESTS_PER_SECOND = 50
TIMEOUT = 5.0
"""Seconds after which a request counts as failed."""


class Traffic(threading.Thread):
    """Sends one request after the other, and counts who answered."""

    def __init__(self, port: int) -> None:
        super().__init__(name="traffic", daemon=True)
        self._port = port
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._answered: Counter[str] = Counter()
        self._failed = 0

    def statistics(self) -> tuple[Counter[str], int]:
        """How many requests each upstream answered, by its name, and how many failed."""
        with self._lock:
            return self._answered.copy(), self._failed

    def stop(self) -> None:
        """Send no more; returns when the last request is over."""
        self._ended.set()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        due = time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            due = max(due, time.monotonic() - 1) + 1 / REQUESTS_PER_SECOND
            self._request()

    def _request(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT)
        try:
            connection.request("GET", "/")
            name = connection.getresponse().read().decode().split()[-1]
        except (OSError, http.client.HTTPException, IndexError):
            with self._lock:
                self._failed += 1
        else:
            with self._lock:
                self._answered[name] += 1
        finally:
            connection.close()
