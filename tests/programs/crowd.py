"""`python crowd.py HOST PORT NUMBER HEX`: clients that connect, send these bytes, and then nothing.

It says `there` when all are connected, then waits until the other side has ended every one of them,
and says how long after its own beginning the first and the last ended, in seconds, as JSON.
"""

from __future__ import annotations

import json
import resource
import select
import socket
import sys
import time


def connect_all(host: str, port: int, number: int, words: bytes) -> dict[int, socket.socket]:
    clients = {}
    for _ in range(number):
        client = socket.create_connection((host, port), 60)
        client.setblocking(False)
        if words:
            client.send(words)
        clients[client.fileno()] = client
    return clients


def wait_ends(clients: dict[int, socket.socket]) -> list[float]:
    """When they ended, on the monotonic clock, in order. What comes before the end is read."""
    ends: list[float] = []
    watch = select.epoll(len(clients))
    for fd in clients:
        watch.register(fd, select.EPOLLIN | select.EPOLLRDHUP)
    while clients:
        for fd, _ in watch.poll():
            try:
                ended = not clients[fd].recv(65536)
            except ConnectionError:
                ended = True
            if ended:
                ends.append(time.monotonic())
                clients.pop(fd).close()
    return ends


def main(host: str, port: str, number: str, words: str = "") -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    began = time.monotonic()
    clients = connect_all(host, int(port), int(number), bytes.fromhex(words))
    print(f"there {time.monotonic() - began:.3f}", flush=True)
    ends = wait_ends(clients)
    print(json.dumps({"first": ends[0] - began, "last": ends[-1] - began}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
