"""Where things run: which CPUs, and which network.

CPUs. The kernel is told once, in the same way for every peer, so that it does not deal the cards
anew for each: see README.md for what shares which CPU and why.

Networks. `Loopback` is one host. `Veth` is three network namespaces in a row, joined by virtual
cables with an MTU of 1500 and segmentation left to TCP, so that segments are as small as on a
wire; for `direct` the middle one forwards packets.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.programs import FailedError, MissingError, find, run, script

PINNINGS = ("split", "free")


@dataclass(frozen=True)
class Pinning:
    """The CPUs of each part, as taskset has them; empty: any."""

    proxy: str
    load: str
    origin: str
    text: str

    def prefix(self, part: str) -> list[str]:
        """What goes in front of the command of a `proxy`, `load` or `origin`."""
        cpus = {"proxy": self.proxy, "load": self.load, "origin": self.origin}[part]
        return [find("taskset", "util-linux"), "-c", cpus] if cpus else []


def choose_pinning(kind: str, workers: int) -> Pinning:
    """How a workload with so many workers is laid out on the CPUs that this process may use."""
    cpus = sorted(os.sched_getaffinity(0))
    if kind == "free" or len(cpus) <= workers:
        return Pinning("", "", "", f"any of {len(cpus)} CPUs for all")
    proxy = ",".join(map(str, cpus[:workers]))
    rest = cpus[workers:]
    if len(rest) == 1:
        load = str(rest[0])
        return Pinning(proxy, load, load, f"proxy on {proxy}; load and origin on {load}")
    load, origin = str(rest[0]), ",".join(map(str, rest[1:]))
    return Pinning(proxy, load, origin, f"proxy on {proxy}; load on {load}; origin on {origin}")


class Loopback:
    """One host."""

    name = "loopback"
    client_host = "127.0.0.1"
    """The address at which clients reach a proxy."""
    origin_host = "127.0.0.1"

    def prefix(self, _part: str) -> list[str]:
        """What goes in front of a command to run it in that part's network."""
        return []

    def close(self) -> None:
        """Nothing was made."""


class Veth:
    """Three namespaces: load, proxy, origin."""

    name = "veth"
    client_host = "10.91.1.1"
    origin_host = "10.91.2.2"

    def __init__(self) -> None:
        """Make them. Raises MissingError where this user may not."""
        if os.geteuid() != 0:
            raise MissingError("network namespaces need root")
        self._ip = find("ip", "iproute2")
        tag = f"bench{os.getpid()}"
        self._names = {part: f"{tag}-{part}" for part in ("load", "proxy", "origin")}
        try:
            self._make(tag)
        except FailedError as error:
            self.close()
            raise MissingError(f"network namespaces: {error}") from error

    def prefix(self, part: str) -> list[str]:
        """What goes in front of a command to run it in that part's network."""
        return [self._ip, "netns", "exec", self._names[part]]

    def close(self) -> None:
        """Remove them; the cables go with them."""
        for name in self._names.values():
            with suppress(OSError):
                subprocess.run([self._ip, "netns", "del", name], capture_output=True)

    def _make(self, tag: str) -> None:
        for part, name in self._names.items():
            self._run("netns", "add", name)
            self._in(part, "link", "set", "lo", "up")
        pid = tag.removeprefix("bench")
        self._cable("load", "10.91.1.2", "proxy", "10.91.1.1", f"va{pid}")
        self._cable("proxy", "10.91.2.1", "origin", "10.91.2.2", f"vb{pid}")
        self._in("load", "route", "add", "default", "via", "10.91.1.1")
        self._in("origin", "route", "add", "default", "via", "10.91.2.1")
        for part in self._names:
            self._sysctl(part, "net.ipv4.ip_forward", "1")
            # As wide as on the host: thousands of sessions go from one address to one address.
            self._sysctl(part, "net.ipv4.ip_local_port_range", "32768 60999")
            self._sysctl(part, "net.core.somaxconn", "4096")

    def _cable(self, one: str, address: str, other: str, other_address: str, name: str) -> None:
        ends = (f"{name}0", f"{name}1")
        self._run("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for part, end, where in ((one, ends[0], address), (other, ends[1], other_address)):
            self._run("link", "set", end, "netns", self._names[part])
            self._in(part, "address", "add", f"{where}/24", "dev", end)
            self._in(part, "link", "set", end, "mtu", "1500")
            # Without this, TCP hands 64 KiB packets to the cable, whatever its MTU.
            run([*self.prefix(part), *script("offload", end)], 20)
            self._in(part, "link", "set", end, "up")

    def _run(self, *words: str) -> None:
        done = subprocess.run([self._ip, *words], capture_output=True, text=True)
        if done.returncode != 0:
            raise FailedError(f"ip {' '.join(words)}: {done.stderr.strip()}")

    def _in(self, part: str, *words: str) -> None:
        self._run("-n", self._names[part], *words)

    def _sysctl(self, part: str, key: str, value: str) -> None:
        path = Path("/proc/sys") / key.replace(".", "/")
        command = [*self.prefix(part), "sh", "-c", 'echo "$1" > "$2"', "sh", value, str(path)]
        subprocess.run(command, capture_output=True)


Network = Loopback | Veth
