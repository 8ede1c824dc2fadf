"""HAProxy in TCP mode."""

from __future__ import annotations

from pathlib import Path

from bench.peers.base import Peer
from bench.programs import find, run


class HAProxy(Peer):
    """One process; small messages without splice, bulk with."""

    name = "haproxy"

    def version(self) -> str:
        return run([find("haproxy"), "-v"], 10).splitlines()[0].split(" - ")[0]

    def template(self, tuning: str) -> str:
        return f"haproxy-{tuning}.cfg"

    def command(self, config: Path, workers: int) -> list[str]:
        del workers
        return [find("haproxy"), "-f", str(config)]
