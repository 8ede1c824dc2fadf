"""How long a worker keeps its clients waiting while a pool of 10,000 upstreams is reloaded.

    PYTHONPATH=tests python -m bench.pauses

Sessions send a byte to an echo each millisecond and wait for it; beside them new sessions come and
go. Meanwhile the configuration is reloaded, with the weight of one upstream, of a tenth of them,
or of all of them changed. Printed are the longest waits, as the clock has them, and as processor
time of the workers, in which other programs of the machine do not count.
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import BinaryIO

from harness.proxy import Proxy, running_proxy

SIZE = 10_000
RELOADS = 10
SESSIONS = 8
TURN = 0.001
"""Seconds between two bytes."""
NEW_EACH = 5
"""One new session in so many turns."""

ECHO = """
import asyncio
async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()
async def main():
    server = await asyncio.start_server(echo, "0.0.0.0", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


@dataclass(slots=True)
class Waits:
    """The longest waits of clients since the last look, in milliseconds."""

    clock: float = 0.0
    processor: float = 0.0
    number: int = 0


def text_of(port: int, weights: list[int], balance: str, health: str) -> str:
    """A configuration with 10,000 loopback addresses that all lead to one port."""
    lines = [
        f"workers: 2\nhealth: {health}\nlog: {{sessions: {{keep: errors}}}}",
        "listeners: {web: {bind: '127.0.0.1:0', pool: app}}",
        f"pools:\n  app:\n    balance: {balance}\n    upstreams:",
    ]
    lines += [
        f"      - {{address: '127.1.{n >> 8}.{n & 255}:{port}', weight: {weight}}}"
        for n, weight in enumerate(weights)
    ]
    return "\n".join(lines) + "\n"


def cpu_clock(pid: int) -> int:
    """The clock of a process's processor time (clock_getcpuclockid(3))."""
    return (~pid << 3) | 2


class Clients(threading.Thread):
    """Sessions that are asked again and again, and new ones beside them."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(daemon=True)
        self._proxy = proxy
        self._clocks = [cpu_clock(pid) for pid in proxy.worker_pids()]
        self._over = threading.Event()
        self._waits = Waits()

    def look(self) -> Waits:
        """What was seen since the last look."""
        waits, self._waits = self._waits, Waits()
        return waits

    def end(self) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        with ExitStack() as stack:
            lasting = [stack.enter_context(self._proxy.connect("web")) for _ in range(SESSIONS)]
            for one in lasting:
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            turn = 0
            while not self._over.wait(TURN):
                turn += 1
                self._timed(lambda one=lasting[turn % SESSIONS]: ask(one))
                if turn % NEW_EACH == 0:
                    self._timed(self._visit)

    def _visit(self) -> None:
        with self._proxy.connect("web") as client:
            ask(client)

    def _timed(self, call: Callable[[], None]) -> None:
        used = [time.clock_gettime(clock) for clock in self._clocks]
        began = time.monotonic()
        call()
        lasted = time.monotonic() - began
        cost = max(
            time.clock_gettime(clock) - before
            for clock, before in zip(self._clocks, used, strict=True)
        )
        waits = self._waits
        waits.number += 1
        waits.clock = max(waits.clock, lasted * 1000)
        waits.processor = max(waits.processor, cost * 1000)


def ask(sock: socket.socket) -> None:
    sock.sendall(b"x")
    if sock.recv(1) != b"x":
        raise AssertionError("an echo answered with something else")


@contextmanager
def echoes() -> Iterator[int]:
    """One process that answers on all addresses of this machine; its port."""
    with subprocess.Popen([sys.executable, "-c", ECHO], stdout=subprocess.PIPE, text=True) as one:
        assert one.stdout is not None
        try:
            yield int(one.stdout.readline())
        finally:
            one.kill()


def measure(balance: str, health: str) -> None:
    """Print a line for each reload."""
    print(f"{balance}, health {health}")
    with echoes() as port:
        weights = [2] * SIZE
        with (
            running_proxy(text_of(port, weights, balance, health)) as proxy,
            (proxy.directory / "stderr").open("rb") as log,
        ):
            supervisor = cpu_clock(proxy.pid)
            clients = Clients(proxy)
            clients.start()
            time.sleep(2)
            say("no reload", clients.look(), 0.0, 0.0)
            for number in range(RELOADS):
                some = (1, SIZE // 10, SIZE)[number % 3]
                for index in range(some):
                    weights[index] = 3 if weights[index] == 2 else 2
                proxy.config.write_text("admin: off\n" + text_of(port, weights, balance, health))
                log.read()
                before = time.clock_gettime(supervisor)
                proxy.signal(signal.SIGHUP)
                took = wait_reloaded(log)
                time.sleep(0.3)
                spent = (time.clock_gettime(supervisor) - before) * 1000
                say(f"{some} weights", clients.look(), took, spent)
            clients.end()


def wait_reloaded(log: BinaryIO) -> float:
    """How long the reload took that is logged next, in milliseconds. Its line is long, and to read
    it as JSON would keep the clients waiting, which are a thread of this process."""
    line = b""
    while b'"reloaded"' not in line or not line.endswith(b"\n"):
        time.sleep(0.02)
        line = line[-1000:] + log.read()
    return float(re.findall(rb'"milliseconds":\s*([\d.]+)', line)[-1])


def say(what: str, waits: Waits, took: float, spent: float) -> None:
    print(
        f"  {what:>14}: reload {took:6.1f} ms ({spent:6.1f} of processor time), "
        f"longest wait of {waits.number:4}: {waits.clock:5.1f} ms ({waits.processor:4.1f})",
        flush=True,
    )


def main() -> None:
    with suppress(KeyboardInterrupt):
        for balance in sys.argv[1:] or ["round_robin", "least_sessions"]:
            measure(balance, "off")
        measure("round_robin", "{check: tcp, interval: 10s}")


if __name__ == "__main__":
    main()
