"""iperf3: bulk in one or both directions over some streams."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from bench.peers.base import Address
from bench.programs import FailedError, find, run

OPTIONS = {"up": (), "down": ("-R",), "bidir": ("--bidir",)}


@dataclass(frozen=True)
class IperfReport:
    """What arrived, both directions together."""

    bytes: int
    gbit_per_second: float


def iperf_command(
    prefix: Sequence[str], address: Address, direction: str, streams: int, seconds: float
) -> list[str]:
    """The command; `direction` is up (client → origin), down, or bidir."""
    host, port = address
    # A digest has been checked before; iperf3's own look at the bytes would cost load CPU only.
    words = ["-c", host, "-p", str(port), "-P", str(streams), "-t", f"{seconds:g}", "-J"]
    return [*prefix, find("iperf3"), *words, *OPTIONS[direction]]


def iperf(
    prefix: Sequence[str], address: Address, direction: str, streams: int, seconds: int
) -> IperfReport:
    """Run iperf3 for so many whole seconds. Raises FailedError."""
    command = iperf_command(prefix, address, direction, streams, seconds)
    return parse_iperf(run(command, seconds + 20))


def parse_iperf(output: str) -> IperfReport:
    """Read iperf3's JSON."""
    end = json.loads(output)["end"]
    sums = [end["sum_received"]]
    if "sum_received_bidir_reverse" in end:
        sums.append(end["sum_received_bidir_reverse"])
    total = sum(each["bytes"] for each in sums)
    if not total:
        raise FailedError("iperf3: nothing arrived")
    return IperfReport(total, sum(each["bits_per_second"] for each in sums) / 1e9)


def start_iperf(
    prefix: Sequence[str], address: Address, direction: str, streams: int, seconds: float
) -> subprocess.Popen[str]:
    """Start iperf3 and go on; parse_iperf() reads its standard output."""
    command = iperf_command(prefix, address, direction, streams, seconds)
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
