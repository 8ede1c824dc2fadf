"""Networks as people write them, one by one or in a file of their own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

from spliceproxy.config import files
from spliceproxy.config.problems import ConfigError, Place, Problem, Source, show

IpNetwork = IPv4Network | IPv6Network

RIGHT = "write a network such as 192.0.2.0/24 or 2001:db8::/32, or an IP address"

_MAX_BYTES = 16 * 1024 * 1024
"""Bytes of one file of networks at most: half a million of them fit."""
_COMMENT = re.compile("[#;]")
_MAPPED = IPv6Network("::ffff:0:0/96")


@dataclass(frozen=True, slots=True)
class NetworkFile:
    """A file that lists networks."""

    path: str
    """Absolute."""

    def __str__(self) -> str:
        return f"file:{self.path}"


NetworkSource = IPv4Network | IPv6Network | NetworkFile


def parse_source(text: str) -> NetworkSource:
    """A network, an IP address or `file:/path`. Raises ValueError("wrong; right")."""
    if not text.startswith("file:"):
        return parse_network(text)
    path = text.removeprefix("file:")
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise ValueError(f"{show(text)} names no file; write file: and an absolute path")
    return NetworkFile(path)


def parse_network(text: str) -> IpNetwork:
    """A network, or the network of one IP address. Raises ValueError("wrong; right").

    IPv4 in IPv6 clothes (::ffff:192.0.2.0/120) is IPv4: so its clients are known.
    """
    try:
        if "%" in text:  # a zone, which would be dropped without a word
            raise ValueError
        network = ip_network(text)
    except ValueError:
        raise ValueError(_wrong(text)) from None
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
    return network


def _wrong(text: str) -> str:
    if text in ("all", "any", "*"):
        return f"{show(text)} is no network; write [0.0.0.0/0, ::/0] for everybody"
    if text.startswith("/"):
        return f"{show(text)} is a path; write file:{text}"
    if "%" in text:
        return (
            f"{show(text)} has a zone, and a network holds addresses of all of them; leave it out"
        )
    try:
        right = f"write {ip_network(text, strict=False)}"
    except ValueError:
        return f"{show(text)} is no network; {RIGHT}"
    return f"{show(text)} has bits behind its prefix; {right}"


def read_networks(path: Path) -> tuple[Source, list[IpNetwork]]:
    """The text of a file of networks, and what it lists: one in each line, # or ; begins a comment.

    Raises ConfigError with all that is wrong. A file with nothing in it is wrong: it may be one
    that is being written.
    """
    source = files.read(path, most=_MAX_BYTES)
    if not source.text.strip():
        text = "the file is empty; write networks into it, or a line # none"
        raise ConfigError([Problem(source.name, (), text)])
    return source, networks_in(source)


def networks_in(source: Source) -> list[IpNetwork]:
    """The networks in the text of such a file. Raises ConfigError with all that is wrong."""
    found: list[IpNetwork] = []
    problems: list[Problem] = []
    for number, line in enumerate(source.lines, 1):
        text = _COMMENT.split(line, maxsplit=1)[0].strip()
        if not text:
            continue
        try:
            found.append(parse_network(text))
        except ValueError as error:
            place = Place(source, number, line.index(text) + 1)
            problems.append(Problem(place, (), str(error)))
    if problems:
        raise ConfigError(problems)
    return found
