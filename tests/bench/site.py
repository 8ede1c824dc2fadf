"""What stands while the benchmark runs: networks, origins, and proxies; made when first needed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from harness.load import digest

from bench.certificate import certificate_files
from bench.cpu import process_tree
from bench.load.digest import ECHO_BYTES, ECHO_SEED
from bench.load.tls import AGREED, offer
from bench.origins import BODIES, NAMES, Origins, body
from bench.peers.base import Address, Peer, Target
from bench.place import Loopback, Network, Pinning, Veth, choose_pinning
from bench.programs import FailedError, MissingError, run, script
from bench.workloads.base import Workload

_NETWORKS: dict[str, type[Network]] = {"loopback": Loopback, "veth": Veth}


class Site:
    """Keeps one network of a kind, one set of origins in it, and one proxy for each way to run it.

    What could not be made is in `missing`, with the reason, and is not tried again.
    """

    def __init__(self, directory: Path, peers: Sequence[Peer], pinning: str | None) -> None:
        """`pinning` is one for all workloads; None leaves each its own."""
        self.missing: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self._directory = directory
        self._pinning = pinning
        self._networks: dict[str, Network] = {}
        self._origins: dict[tuple[str, str], Origins] = {}
        self._targets: dict[tuple[str, ...], Target] = {}
        self._bodies = {str(size): _twice(size) for size in BODIES}
        self._bodies["echo"] = digest(ECHO_BYTES, ECHO_SEED)
        self._peers = []
        for peer in peers:
            try:
                self.versions[peer.name] = peer.version()
                self._peers.append(peer)
            except MissingError as error:
                self.missing[peer.name] = str(error)

    def pinning(self, workload: Workload) -> Pinning:
        """The CPUs of a workload's parts."""
        return choose_pinning(self._pinning or workload.pin, workload.workers)

    def network(self, workload: Workload) -> Network:
        """Its network. Raises MissingError."""
        name = workload.network
        if name in self.missing:
            raise MissingError(self.missing[name])
        if name not in self._networks:
            try:
                self._networks[name] = _NETWORKS[name]()
            except MissingError as error:
                self.missing[name] = str(error)
                raise
        return self._networks[name]

    def targets(self, workload: Workload) -> tuple[list[Target], list[str]]:
        """A running proxy of every peer, as the workload wants it, and why one is not there.

        Raises MissingError or FailedError where network or origins are not there.
        """
        self._origins_of(self.network(workload), self.pinning(workload))
        found, failures = [], []
        for peer in self._peers:
            try:
                found.append(self.target(workload, peer))
            except (MissingError, FailedError) as error:
                failures.append(f"{peer.name}: {error}")
        return found, failures

    def target(self, workload: Workload, peer: Peer) -> Target:
        """One of them; a proxy that has just started where the workload wants it fresh."""
        network, pinning = self.network(workload), self.pinning(workload)
        template = workload.tuning if peer.name != "direct" else ""
        key = (peer.name, template, str(workload.workers), network.name, pinning.proxy)
        if key in self._targets:
            if not workload.fresh:
                return self._targets[key]
            self._targets.pop(key).end()
        origins = self._origins_of(network, pinning)
        prefix = [*network.prefix("proxy"), *pinning.prefix("proxy")]
        host = network.client_host
        target = peer.start(workload.tuning, workload.workers, host, origins.addresses, prefix)
        self._targets[key] = target
        if not workload.fresh:
            self._check(target, template, network, origins.addresses)
        return target

    def pids(self) -> list[int]:
        """Every process of the origins and the proxies."""
        running = [each for origins in self._origins.values() for each in origins.running]
        running += [each.running for each in self._targets.values() if each.running]
        return [pid for each in running for pid in process_tree(each.pid)]

    def renew(self, workload: Workload, target: Target) -> Target:
        """The same target, started anew."""
        [peer] = [each for each in self._peers if each.name == target.name]
        return self.target(workload, peer)

    def _origins_of(self, network: Network, pinning: Pinning) -> Origins:
        key = (network.name, pinning.origin)
        if key not in self._origins:
            directory = self._directory / f"origins-{len(self._origins)}"
            self._origins[key] = Origins(directory, network, pinning)
        return self._origins[key]

    def _check(
        self, target: Target, tuning: str, network: Network, origins: Mapping[str, Address]
    ) -> None:
        """Every byte of every body and of an echo is as it was sent, or FailedError is raised."""
        where = target.addresses
        expected: Mapping[str, object]
        if tuning == "sni":
            command = script("load.named", *where["sni"])
            ports = {name: origins[name.partition(".")[0]][1] for name in NAMES}
            expected = {**ports, "echo": self._bodies["echo"]}
        elif tuning == "tls":
            authority = certificate_files(self._directory)["CA"]
            words = [authority, *where["https"], *where["tls_echo"]]
            command = [*offer(), *script("load.tls_digest", *words)]
            expected = {**self._bodies, "agreed": AGREED}
        else:
            command = script("load.digest", *where["http"], *where["echo"])
            expected = self._bodies
        found = json.loads(run([*network.prefix("load"), *command], 60))
        if found != expected:
            wrong = sorted(key for key in expected if found.get(key) != expected[key])
            raise FailedError(
                f"{target.name}: what came through is not what was sent ({', '.join(wrong)})"
            )

    def close(self) -> None:
        """End all of it."""
        for target in self._targets.values():
            target.end()
        for origins in self._origins.values():
            origins.close()
        for network in self._networks.values():
            network.close()


def _twice(size: int) -> str:
    return sha256(body(size) * 2).hexdigest()
