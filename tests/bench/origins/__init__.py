"""The origins: nginx for HTTP bodies and for ClientHellos, iperf3 for bulk, an echo, and one more
for idle sessions."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from pathlib import Path

from bench.peers.base import Address
from bench.place import Network, Pinning
from bench.programs import (
    Running,
    find,
    free_port,
    script,
    script_environment,
    wait_port,
)

NAMES = tuple(f"name{number}.bench.example" for number in range(8))
"""What TLS clients ask for; each has an origin of its own, `name0` and so on, which answers with
its port, in plain text: what it costs to route a ClientHello is not hidden by cryptography."""
ORIGINS = ("http", "echo", "bulk", "hold", *(name.partition(".")[0] for name in NAMES))

BODIES = (12, 1024, 16 * 1024, 64 * 1024, 256 * 1024, 1024 * 1024)
"""Bytes; the path of each is its number."""
LARGE = 8 * 1024 * 1024
"""One more of them, for bulk over HTTP."""


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
        addresses = {name: (host, free_port()) for name in ORIGINS}
        # Without a proxy nothing is routed: all names are answered by the first one's origin.
        self.addresses: Mapping[str, Address] = {**addresses, "sni": addresses["name0"]}
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
        (bodies / str(LARGE)).write_bytes(body(LARGE))
        host, port = self.addresses["http"]
        text = Path(__file__).with_name("http.conf").read_text()
        named = [self.addresses[name][1] for name in ORIGINS if name.startswith("name")]
        values = {
            "DIRECTORY": str(self._directory),
            "LISTEN": host,
            "PORT": str(port),
            "NAMED": " ".join(f"listen {host}:{each} backlog=4096;" for each in named),
        }
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
