"""spliceproxy as its users run it."""

from __future__ import annotations

import sys
from pathlib import Path

import spliceproxy
from bench.peers.base import Peer


class Ours(Peer):
    """`spliceproxy run FILE`; with `source`, that of another checkout."""

    name = "spliceproxy"
    compared = False

    def __init__(self, directory: Path, name: str = "", source: Path | None = None) -> None:
        super().__init__(directory)
        self.name = name or self.name
        self._source = source

    def version(self) -> str:
        return (
            f"spliceproxy {spliceproxy.__version__}" if self._source is None else str(self._source)
        )

    def template(self, tuning: str) -> str:
        return f"spliceproxy-{tuning}.yaml" if tuning in ("sni", "tls") else "spliceproxy.yaml"

    def command(self, config: Path, workers: int) -> list[str]:
        del workers
        return [sys.executable, "-m", "spliceproxy", "run", str(config)]

    def environment(self) -> dict[str, str]:
        if self._source is None:
            return {}
        # `python -m` would look in the working directory first, which is this checkout.
        return {"PYTHONPATH": str(self._source), "PYTHONSAFEPATH": "1"}
