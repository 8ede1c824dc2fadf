"""No proxy at all: what the machine, the load and the origins can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.peers.base import Address, Peer, Target


class Direct(Peer):
    """The origins themselves."""

    name = "direct"
    compared = False

    def version(self) -> str:
        return "no proxy"

    def start(
        self,
        tuning: str,
        workers: int,
        listen: str,
        origins: Mapping[str, Address],
        prefix: Sequence[str],
    ) -> Target:
        del tuning, workers, listen, prefix
        return Target(self.name, dict(origins), None, self.compared)
