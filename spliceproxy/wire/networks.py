"""Which of many networks holds an address: the first rule that fits, found by one bisection.

Rules are ordered, and may overlap in any way. They are cut once into stretches of addresses for
which the answer is the same, so that a lookup costs as much among ten thousand rules as among ten.
An IPv4 address that comes in IPv6 clothes (::ffff:192.0.2.1, RFC 4291 section 2.5.5.2) is IPv4.
"""

from __future__ import annotations

import heapq
import socket
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:  # a worker needs no such class
    from ipaddress import IPv4Network, IPv6Network

IpNetwork: TypeAlias = "IPv4Network | IPv6Network"

NONE = -1
"""No rule fits."""

_MAPPED = bytes(10) + b"\xff\xff"
_Stretches = tuple[Sequence[int], Sequence[int]]


@dataclass(frozen=True, slots=True)
class NetworkTable:
    """Addresses as numbers: where each stretch begins, and the answer in it."""

    v4: _Stretches
    v6: _Stretches

    def find(self, ip: str) -> int:
        """The answer of the first rule whose network holds `ip`; NONE where there is none.

        `ip` is as the kernel writes it, with or without a zone (`fe80::1%eth0`). What is no IP
        address, such as the empty text of a UNIX client, is in no network.
        """
        packed = packed_ip(ip)
        if not packed:
            return NONE
        starts, answers = self.v4 if len(packed) == 4 else self.v6
        return answers[bisect_right(starts, int.from_bytes(packed)) - 1]


def packed_ip(ip: str) -> bytes:
    """An IP address as `NetworkTable.find` takes it: 4 bytes or 16, and none where it is none."""
    try:
        if ":" not in ip:
            return socket.inet_pton(socket.AF_INET, ip)
        packed = socket.inet_pton(socket.AF_INET6, ip.partition("%")[0])
    except OSError:
        return b""
    return packed[12:] if packed.startswith(_MAPPED) else packed


def make_table(rules: Iterable[tuple[IpNetwork, int]]) -> NetworkTable:
    """The table of ordered rules, each a network and its answer, a number that is not negative."""
    by_version: dict[int, list[tuple[int, int, int]]] = {4: [], 6: []}
    for network, answer in rules:
        first, last = int(network.network_address), int(network.broadcast_address)
        by_version[network.version].append((first, last, answer))
    starts, answers = _stretches(by_version[4], 1 << 32)
    # Arrays are a tenth of the tuples, and travel to the workers at once.
    v4 = array("I", starts), array("i", answers)
    return NetworkTable(v4, _stretches(by_version[6], 1 << 128))


def _stretches(rules: list[tuple[int, int, int]], end: int) -> _Stretches:
    """Cut rules (first address, last address, answer) where the first that fits changes; no
    address is `end` or more."""
    firsts, ends = (rule[0] for rule in rules), (rule[1] + 1 for rule in rules)
    edges = sorted({0, *firsts, *ends} - {end})
    waiting = sorted((first, order) for order, (first, _, _) in enumerate(rules))
    waiting.reverse()
    open_rules: list[int] = []
    starts, answers = [0], [NONE]
    for edge in edges:
        while waiting and waiting[-1][0] == edge:
            heapq.heappush(open_rules, waiting.pop()[1])
        while open_rules and rules[open_rules[0]][1] < edge:
            heapq.heappop(open_rules)
        answer = rules[open_rules[0]][2] if open_rules else NONE
        if edge == 0:
            answers[0] = answer
        elif answer != answers[-1]:
            starts.append(edge)
            answers.append(answer)
    return tuple(starts), tuple(answers)
