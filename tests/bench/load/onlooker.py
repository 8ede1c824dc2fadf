"""Asks what the dashboard and Prometheus ask, as often, and does nothing with the answers.

python -m bench.load.onlooker PAGE_PORT METRICS_PORT
"""

from __future__ import annotations

import http.client
import sys
import threading
import time
from itertools import count

ROUND = ("/api/v1/status", "/api/v1/traffic", "/api/v1/sessions?sort=age&limit=100")
"""What the page asks in each round of two seconds."""


def main(page: int, metrics: int) -> None:
    """Ask until somebody ends this process."""
    threading.Thread(target=_follow, args=(page,), daemon=True).start()
    asked = http.client.HTTPConnection("127.0.0.1", page)
    scraped = http.client.HTTPConnection("127.0.0.1", metrics)
    began = time.monotonic()
    for second in count(1):
        _get(scraped, "/metrics")
        for path in ROUND if second % 2 else ():
            _get(asked, path)
        time.sleep(max(0.0, began + second - time.monotonic()))


def _get(connection: http.client.HTTPConnection, path: str) -> None:
    connection.request("GET", path)
    response = connection.getresponse()
    assert response.status == 200, (path, response.status)
    response.read()


def _follow(page: int) -> None:
    """Read the stream of events and of errors."""
    connection = http.client.HTTPConnection("127.0.0.1", page)
    connection.request("GET", "/api/v1/stream")
    response = connection.getresponse()
    assert response.status == 200, response.status
    while response.read1(65536):
        pass


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
