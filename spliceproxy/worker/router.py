"""Which route a client takes: the first in the listener's order of which all keys match.

Pure: no socket, no clock, no pool. Routes with names are found by the name, so that thousands of
them cost no more than a few; what a name leads to still takes its place in the order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from spliceproxy.wire.networks import NONE

if TYPE_CHECKING:
    from spliceproxy.ipc import RoutePlan

NO_ROUTE: Final = -1
BYTES: Final = -2
"""It depends on the client's first bytes."""

_CLEAR: Final = frozenset({"ssh", "http", "postgres"})
"""Protocols that are served without TLS where a route asks for them, also beside certificates."""


class Facts:
    """What is known of a client. `protocol` is None until its first bytes tell, `sni` and `host`
    where it has none."""

    __slots__ = ("alpn", "host", "ip", "protocol", "sni")

    def __init__(self, ip: str) -> None:
        """`ip` is empty where the client has no IP address."""
        self.ip = ip
        self.protocol: str | None = None
        self.sni: str | None = None
        self.alpn: tuple[bytes, ...] = ()
        self.host: str | None = None


class Router:
    """The routes of one listener; they are told by their number."""

    __slots__ = (
        "_hello",
        "_hosts",
        "_others",
        "_postgres",
        "_routes",
        "_servers",
        "protocols",
        "wants_hello",
        "wants_host",
    )

    def __init__(self, routes: Sequence[RoutePlan], *, hello: bool = False) -> None:
        """`hello`: SNI is wanted, whichever route it is."""
        self._routes = routes
        self._hello = hello
        self._servers = _Names()
        self._hosts = _Names()
        self._others: list[int] = []
        """Those that no name leads to."""
        for number, route in enumerate(routes):
            if route.sni:
                self._servers.add(route.sni, number)
            elif route.host:
                self._hosts.add(route.host, number)
            else:
                self._others.append(number)
        self._postgres = [route for route in routes if _concerns_postgres(route)]
        self.wants_hello = hello or any(route.sni or route.alpn for route in routes)
        self.wants_host = any(route.host for route in routes)
        self.protocols = {name for route in routes for name in route.protocol}
        """Those that make a difference."""
        if self.wants_hello:
            self.protocols.add("tls")
        if self.wants_host:
            self.protocols.add("http")
        if hello:
            self.protocols.add("postgres")

    def before_bytes(self, ip: str) -> int:
        """The route by the address alone, or NO_ROUTE, or BYTES: they have to be looked at."""
        if self._hello:
            return BYTES
        for number, route in enumerate(self._routes):
            if route.source is not None and route.source.find(ip) == NONE:
                continue
            return BYTES if _wants_bytes(route) else number
        return NO_ROUTE

    def negotiates(self, ip: str) -> bool:
        """Whether a PostgreSQL client's route depends on what it says in TLS."""
        if self._hello:
            return True
        for route in self._postgres:
            if route.source is None or route.source.find(ip) != NONE:
                return bool(route.sni or route.alpn)
        return False

    def choose(self, facts: Facts) -> int:
        """The route, or NO_ROUTE. What is not known matches nothing."""
        found = self._others
        named = self._servers.find(facts.sni) or self._hosts.find(facts.host)
        if named:
            found = sorted({*named, *found}) if found or len(named) > 1 else named
        for number in found:
            if _fits(self._routes[number], facts):
                return number
        return NO_ROUTE


_NOBODY: Final[list[int]] = []


class _Names:
    """Routes by the names that they have, in one step for each label of the name looked for."""

    __slots__ = ("_below", "_exact")

    def __init__(self) -> None:
        self._exact: dict[str, list[int]] = {}
        self._below: dict[str, list[int]] = {}
        """`.example.com` for `*.example.com`."""

    def add(self, patterns: Sequence[str], number: int) -> None:
        for pattern in patterns:
            star = pattern.startswith("*.")
            names = self._below if star else self._exact
            names.setdefault(pattern[1:] if star else pattern, []).append(number)

    def find(self, name: str | None) -> list[int]:
        """The numbers, in no order, some perhaps twice; the list is not the caller's."""
        if name is None:
            return _NOBODY
        exact = self._exact.get(name, _NOBODY)
        if not self._below:
            return exact
        found = exact.copy()
        dot = name.find(".")
        while dot >= 0:
            found += self._below.get(name[dot:], _NOBODY)
            dot = name.find(".", dot + 1)
        return found


def ends_tls(route: RoutePlan, protocol: str | None) -> bool:
    """Whether TLS of a client of this route ends here, on a listener that has certificates: not
    where the route says so, nor for one that is here by the protocol that it speaks without TLS."""
    return not (route.passthrough or (protocol in _CLEAR and protocol in route.protocol))


def _wants_bytes(route: RoutePlan) -> bool:
    return bool(route.protocol or route.sni or route.alpn or route.host)


def _concerns_postgres(route: RoutePlan) -> bool:
    """Whether a PostgreSQL client may take it. By a name only where it says `protocol: postgres`:
    asking for names takes an answer to SSLRequest that an upstream may not keep."""
    if route.host or (route.protocol and "postgres" not in route.protocol):
        return False
    return bool(route.protocol) or not (route.sni or route.alpn)


def _fits(route: RoutePlan, facts: Facts) -> bool:
    """Whether all matches but the name by which the route was found."""
    if route.source is not None and route.source.find(facts.ip) == NONE:
        return False
    if route.protocol and facts.protocol not in route.protocol:
        return False
    if route.alpn and not any(name in route.alpn for name in facts.alpn):
        return False
    return not (route.sni and route.host)  # one client has no more than one of both
