"""What a peer is: a program, its configuration file, and the ports at which it serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.certificate import certificate_files
from bench.cpu import process_tree
from bench.programs import Running, free_port, wait_echo

SERVICES = ("http", "echo", "bulk", "hold", "sni", "https", "tls_echo")
"""What clients are served; a peer's file has a listener for each that its tuning is for.

`sni` passes TLS on to the origin that its name says, any other name to the echo; `https` and
`tls_echo` end TLS in front of `http` and `echo`.
"""

_FILES = Path(__file__).parent

Address = tuple[str, int]


@dataclass
class Target:
    """One way to the origins: through a peer, or straight."""

    name: str
    addresses: Mapping[str, Address]
    """Where clients find each service."""
    running: Running | None = None
    compared: bool = field(default=True)
    """Whether ours is compared with it: not direct, and not ours itself."""

    @property
    def pids(self) -> Sequence[int]:
        """All processes of the proxy; none where there is no proxy."""
        return () if self.running is None else process_tree(self.running.pid)

    def end(self) -> None:
        """Stop the proxy."""
        if self.running is not None:
            self.running.end()


class Peer:
    """Starts one kind of proxy. A subclass says which file, which values in it, which command.

    A file is a template: `@HTTP@` is the port of a listener, `@HTTP_ORIGIN@` where its origin is
    (`@HTTP_HOST@` and `@HTTP_PORT@` apart), `@LISTEN@` the address to listen at, `@WORKERS@` the
    number of workers or threads, `@DIRECTORY@` a directory of its own. `@CHAIN@`, `@KEY@` and
    `@PEM@` (both) are the files of the certificate.
    """

    name = ""
    compared = True

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def version(self) -> str:
        """The program and its version, in one line. Raises MissingError where there is none."""
        raise NotImplementedError

    def template(self, tuning: str) -> str:
        """The file for a tuning: `small`, `bulk`, `sni` or `tls`."""
        raise NotImplementedError

    def values(self) -> dict[str, str]:
        """More of the template's names, where it has more."""
        return {}

    def command(self, config: Path, workers: int) -> list[str]:
        """What to run. Raises MissingError."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """What to add to the environment."""
        return {}

    def start(
        self,
        tuning: str,
        workers: int,
        listen: str,
        origins: Mapping[str, Address],
        prefix: Sequence[str],
    ) -> Target:
        """Start it, and wait until it accepts. Raises MissingError or FailedError."""
        ports = {service: free_port() for service in SERVICES}
        directory = self._directory / f"{self.name}-{tuning}-{workers}-{ports['http']}"
        directory.mkdir(parents=True)
        values = {
            "LISTEN": listen,
            "WORKERS": str(workers),
            "DIRECTORY": str(directory),
            **certificate_files(self._directory),
            **self.values(),
        }
        for service, port in ports.items():
            values[service.upper()] = str(port)
        for service, (host, port) in origins.items():
            values[f"{service.upper()}_ORIGIN"] = f"{host}:{port}"
            values[f"{service.upper()}_HOST"] = host
            values[f"{service.upper()}_PORT"] = str(port)
        template = _FILES / self.template(tuning)
        config = directory / template.name
        config.write_text(_fill(template.read_text(), values))
        running = Running(
            [*prefix, *self.command(config, workers)],
            directory / "output.log",
            env=self.environment(),
        )
        try:
            outside = prefix if "netns" in prefix else ()
            wait_echo(listen, ports["echo"], running, outside)
        except BaseException:
            running.end()
            raise
        addresses = {service: (listen, port) for service, port in ports.items()}
        return Target(self.name, addresses, running, self.compared)


def _fill(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text
