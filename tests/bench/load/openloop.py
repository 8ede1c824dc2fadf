"""`python -m bench.load.openloop HOST PORT PATH RATE SECONDS CONNECTIONS SEED`: open-loop requests.

Requests are due at times fixed before the run: on a grid of 250 µs, a random number at each point
(Poisson), drawn from the seed. A request that is late, because an earlier one has not been
answered or this program was busy, counts from the time at which it was due, so a stall of the
proxy is seen by every request that it made wait ("coordinated omission" hides all but one).

`RATE` 0 is a closed loop instead: every connection asks again at once; it tells the capacity.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import os
import random
import select
import socket
import sys
import time
from collections import deque
from contextlib import suppress

from bench.load.quantiles import quantiles_us

GRID = 250_000
"""Nanoseconds."""
_WARM_UP = 0.2
"""Seconds whose requests are sent and not counted."""


class Load:
    """Connections, each with at most one request on its way."""

    def __init__(self, host: str, port: int, path: str, connections: int) -> None:
        self._request = f"GET {path} HTTP/1.1\r\nHost: o\r\n\r\n".encode()
        self._sockets: dict[int, socket.socket] = {}
        self._due: dict[int, int] = {}
        self._epoll = select.epoll()
        for _ in range(connections):
            sock = socket.create_connection((host, port), 20)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            self._sockets[sock.fileno()] = sock
            self._epoll.register(sock.fileno(), select.EPOLLIN)
        self._free = deque(self._sockets)
        self._length = self._learn_length()

    def _learn_length(self) -> int:
        """Bytes of one answer; all are alike, so that none needs to be parsed later."""
        sock = next(iter(self._sockets.values()))
        sock.setblocking(True)
        sock.sendall(self._request)
        data = b""
        while b"\r\n\r\n" not in data:
            data += sock.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        [size] = [int(line[15:]) for line in head.split(b"\r\n") if line[:15].lower() == _LENGTH]
        while len(body) < size:
            body += sock.recv(65536)
        sock.setblocking(False)
        return len(head) + 4 + size

    def open_loop(self, schedule: list[int]) -> list[int]:
        """Send each request when it is due; how long after that its answer came, nanoseconds."""
        times: list[int] = []
        waiting: deque[int] = deque()
        timer = _grid_timer()
        self._epoll.register(timer, select.EPOLLIN)
        began = time.perf_counter_ns()
        coming = deque(due + began for due in schedule)
        deadline = began + schedule[-1] + 5_000_000_000
        while len(times) < len(schedule) and time.perf_counter_ns() < deadline:
            for fd, _ in self._epoll.poll(1):
                if fd == timer:
                    os.read(timer, 8)  # without it, the timer does not go on
                else:
                    self._answered(fd, times)
            now = time.perf_counter_ns()
            while coming and coming[0] <= now:
                waiting.append(coming.popleft())
            while waiting and self._free:
                self._ask(self._free.popleft(), waiting.popleft())
        # What was not answered at all waited at least until now.
        now = time.perf_counter_ns()
        times += [now - due for due in (*waiting, *self._due.values())]
        return times

    def closed_loop(self, seconds: float) -> float:
        """Requests a second that can be had at most."""
        times: list[int] = []
        began = time.perf_counter_ns()
        while time.perf_counter_ns() - began < seconds * 1e9:
            now = time.perf_counter_ns()
            while self._free:
                self._ask(self._free.popleft(), now)
            for fd, _ in self._epoll.poll(1):
                self._answered(fd, times)
        return len(times) / seconds

    def _ask(self, fd: int, due: int) -> None:
        self._due[fd] = due
        self._sockets[fd].send(self._request)

    def _answered(self, fd: int, times: list[int]) -> None:
        if len(self._sockets[fd].recv(65536)) != self._length:
            sys.exit("an answer is cut short")
        times.append(time.perf_counter_ns() - self._due.pop(fd))
        self._free.append(fd)


_LENGTH = b"content-length:"


def _grid_timer() -> int:
    """A timerfd that fires on the grid: epoll's own timeout knows milliseconds only."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK)
    times = (ctypes.c_long * 4)(0, GRID, 0, GRID)  # struct itimerspec: interval, first
    if fd < 0 or libc.timerfd_settime(fd, 0, times, None) != 0:
        raise OSError(ctypes.get_errno(), "timerfd")
    return fd


def poisson_schedule(rate: float, seconds: float, seed: int) -> list[int]:
    """When the requests are due, nanoseconds from the beginning, each on the grid."""
    chance = random.Random(seed)
    mean = rate * GRID / 1e9
    floor = math.exp(-mean)
    schedule = []
    for point in range(1, int(seconds * 1e9 / GRID) + 1):
        product = chance.random()
        while product > floor:  # Knuth's method: fine for means of a few requests
            schedule.append(point * GRID)
            product *= chance.random()
    return schedule


def main(arguments: list[str]) -> None:
    """Run, and print one line of JSON."""
    host, port, path, rate, seconds, connections, seed = arguments
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -15)
    load = Load(host, int(port), path, int(connections))
    gc.disable()
    if float(rate) == 0:
        print(json.dumps({"per_second": load.closed_loop(float(seconds))}))
        return
    schedule = poisson_schedule(float(rate), float(seconds) + _WARM_UP, int(seed))
    skipped = sum(due < _WARM_UP * 1e9 for due in schedule)
    print(json.dumps(quantiles_us(load.open_loop(schedule)[skipped:])))


if __name__ == "__main__":
    main(sys.argv[1:])
