"""The origins: nginx for HTTP bodies, iperf3 for bulk, an echo, and one more for idle sessions."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from pathlib import Path

from bench.peers.base import SERVICES, Address
from bench.place import Network, Pinning
from bench.programs import (
    Running,
    find,
    free_port,
    script,
    script_environment,
    wait_port,
)

BODIES = (12, 1024, 16 * 1024, 64 * 1024, 256 * 1024, 1024 * 1024)
"""Bytes; the path of each is its number."""


def body(size: int) -> bytes:
    """What the HTTP origin answers at `/size`."""
    return b"hello world\n" if size == 12 else random.Random(size).randbytes(size)


def body_digest(size: int) -> str:
    """Its SHA-256, in hex."""
    return hashlib.sha256(body(size)).hexdigest()


class Origins:
    """All origins, in one network, for as long as the benchmark lasts."""

    def __init__(self, directory: Path, network: Network, pinning: Pinning) -> None:
        """Start them. Raises MissingError or FailedError."""
        host = network.origin_host
        self.addresses: Mapping[str, Address] = {name: (host, free_port()) for name in SERVICES}
        self._prefix = [*network.prefix("origin"), *pinning.prefix("origin")]
        self._probe_prefix = network.prefix("origin")
        self._directory = directory
        self.running: list[Running] = []
        directory.mkdir(parents=True)
        try:
            self._start("http", self._http())
            for service in ("echo", "hold"):
                self._start(service, script("origins.echo", *self.addresses[service]))
            port = self.addresses["bulk"][1]
            self._start("bulk", [find("iperf3"), "-s", "-p", str(port), "-B", host])
        except BaseException:
            self.close()
            raise

    def _http(self) -> list[str]:
        bodies = self._directory / "bodies"
        bodies.mkdir()
        for size in BODIES:
            (bodies / str(size)).write_bytes(body(size))
        host, port = self.addresses["http"]
        text = Path(__file__).with_name("http.conf").read_text()
        values = {"DIRECTORY": str(self._directory), "LISTEN": host, "PORT": str(port)}
        for name, value in values.items():
            text = text.replace(f"@{name}@", value)
        config = self._directory / "http.conf"
        config.write_text(text)
        return [find("nginx"), "-c", str(config)]

    def _start(self, service: str, command: list[str]) -> None:
        log = self._directory / f"{service}.log"
        running = Running([*self._prefix, *command], log, env=script_environment())
        self.running.append(running)
        wait_port(*self.addresses[service], running, self._probe_prefix)

    def close(self) -> None:
        """End them."""
        for running in self.running:
            running.end()
