"""From an address of the configuration to what bind() and connect() take, and back to text."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from spliceproxy.control.machine import has_ipv6

if TYPE_CHECKING:
    from spliceproxy.config import Address
    from spliceproxy.ipc import Sockaddr


@dataclass(frozen=True, slots=True)
class Place:
    """One concrete address: a family, and what connect() and bind() take."""

    family: int
    address: Sockaddr

    def __str__(self) -> str:
        """The canonical text: `10.0.0.1:80`, `[::1]:80`, `unix:/run/app.sock`, `unix:@name`."""
        if isinstance(self.address, tuple):
            host, port = self.address[:2]
            return f"[{host}]:{port}" if self.family == socket.AF_INET6 else f"{host}:{port}"
        name = os.fsdecode(self.address)
        return f"unix:@{name[1:]}" if name.startswith("\0") else f"unix:{name}"

    @property
    def host(self) -> str:
        """The IP address; empty where there is none."""
        return self.address[0] if isinstance(self.address, tuple) else ""

    @property
    def port(self) -> int:
        """The port; 0 where there is none."""
        return self.address[1] if isinstance(self.address, tuple) else 0

    @property
    def any_port(self) -> bool:
        """Whether bind() picks a free port."""
        return isinstance(self.address, tuple) and self.address[1] == 0

    def with_port(self, port: int) -> Place:
        """The same address with another port."""
        assert isinstance(self.address, tuple)
        if len(self.address) == 2:
            return Place(self.family, (self.address[0], port))
        return Place(self.family, (self.address[0], port, *self.address[2:]))


def place_of(sock: socket.socket) -> Place:
    """Where a socket is bound."""
    return Place(sock.family, sock.getsockname())


def places_to_bind(address: Address) -> list[Place]:
    """The places that one `bind` of a listener means: `:443` is both wildcards.

    Raises socket.gaierror for a host name that is not known.
    """
    if address.is_unix:
        return [_unix(address)]
    if address.host:
        return resolve(address.host, address.port)
    places = [Place(socket.AF_INET, ("0.0.0.0", address.port))]
    if has_ipv6():
        places.append(Place(socket.AF_INET6, ("::", address.port, 0, 0)))
    return places


def places_to_connect(address: Address) -> list[Place]:
    """The places that one upstream means: every A and AAAA address of a host name.

    Blocks while names are looked up. Raises socket.gaierror for a name that is not known.
    """
    if address.is_unix:
        return [_unix(address)]
    return resolve(address.host, address.port)


def resolve(host: str, port: int) -> list[Place]:
    """Look `host` up (getaddrinfo(3): numbers, the hosts file, DNS), each address once."""
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # The tuple of numbers is what getaddrinfo answers in a Python built without IPv6.
    places = (Place(found[0], cast("Sockaddr", found[4])) for found in answers)
    return list(dict.fromkeys(places))


def _unix(address: Address) -> Place:
    """A path, or an abstract name, which begins with NUL in the kernel."""
    name = address.path or b"\0" + os.fsencode(address.abstract)
    return Place(socket.AF_UNIX, name)
