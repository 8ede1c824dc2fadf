"""The keys of a listener that say what must be known of a client before it is connected."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from spliceproxy.config import scalars
from spliceproxy.config.networks import IpNetwork
from spliceproxy.config.scalars import OneOrMore
from spliceproxy.config.section import Section, required, setting


def _some_network(networks: tuple[IpNetwork, ...]) -> tuple[IpNetwork, ...]:
    if not networks:
        raise ValueError("there is no network; write at least one, or accept_proxy: off")
    return networks


class AcceptProxy(Section):
    """Who begins each connection with a PROXY header, version 1 or 2, that names the client."""

    from_: Annotated[tuple[scalars.Network, ...], OneOrMore, AfterValidator(_some_network)] = Field(
        alias="from",
        description="Networks of the proxies before this one. What comes from there must begin "
        "with a header, and is refused where it does not. It is never guessed: what comes from "
        "elsewhere has none, whatever its first bytes are. Clients of UNIX sockets are in no "
        "network.",
        examples=["[10.0.0.0/8, 2001:db8::/32]"],
    )
    others: scalars.PlainOrRefuse = setting(
        "plain",
        "What becomes of clients from elsewhere. `plain`: they are served, each as itself. "
        "`refuse`: they are turned away.",
        example="refuse",
    )


class Route(Section):
    """What a client must look like to be sent to a pool: all keys of it must match."""

    source: Annotated[tuple[scalars.Network, ...], OneOrMore] = setting(
        (),
        "The client's IP address is in one of these networks; the address that its PROXY header "
        "announces, where it has one. Clients of UNIX sockets are in none.",
        example="[10.0.0.0/8, 2001:db8::/32]",
    )
    protocol: Annotated[tuple[scalars.Protocol, ...], OneOrMore] = setting(
        (), "Its first bytes are those of one of these protocols.", example="[ssh, postgres]"
    )
    sni: Annotated[tuple[scalars.ServerName, ...], OneOrMore] = setting(
        (),
        "It speaks TLS and asks for one of these names; `*.example.com`: for any below it, at any "
        "depth. With `protocol: postgres` also a PostgreSQL client, whose SSLRequest is answered "
        "for that; the upstream has to serve TLS then.",
        example='[www.example.com, "*.db.example.com"]',
    )
    alpn: Annotated[tuple[scalars.Alpn, ...], OneOrMore] = setting(
        (), "It speaks TLS and offers one of these protocols.", example="[h2, http/1.1]"
    )
    host: Annotated[tuple[scalars.HttpHost, ...], OneOrMore] = setting(
        (),
        "Its first bytes are an HTTP/1 request for one of these hosts, ports left aside; `*` as "
        "in `sni`. The request decides for the whole session.",
        example='[old.example.com, "*.old.example.com"]',
    )
    tls: scalars.Passthrough = Field(
        None,
        description="`passthrough`: TLS goes to the upstream as it came. Absent: so it does, but "
        "for a listener with `tls`, where it ends here.",
        examples=["passthrough"],
    )
    pool: scalars.PoolShares = required(
        "The pool for such clients, or the shares of several, from 0 to 1000.",
        "app",
        "{app: 95, canary: 5}",
    )

    def _wanted(self) -> Iterator[tuple[str, list[str]]]:
        """What a client must look like, key by key."""
        for key in ("source", "protocol", "sni", "alpn", "host"):
            if values := [str(value) for value in getattr(self, key)]:
                yield key, values

    @property
    def match(self) -> str:
        """What a client must look like, in words: `sni a.example.com or b.example.com`."""
        parts = [f"{key} {' or '.join(values)}" for key, values in self._wanted()]
        return ", ".join(parts) or "every client"

    def __str__(self) -> str:
        """As it could be written."""
        parts = []
        for key, values in self._wanted():
            text = ", ".join(values)
            parts.append(f"{key}: {text}" if len(values) == 1 else f"{key}: [{text}]")
        shares = ", ".join(f"{name}: {share}" for name, share in self.pool)
        if self.tls is not None:
            parts.append(f"tls: {self.tls}")
        parts.append(f"pool: {self.pool[0][0] if len(self.pool) == 1 else f'{{{shares}}}'}")
        return f"{{{', '.join(parts)}}}"


class ListenerTimeouts(Section):
    """How long a client may take to say what must be known before it is connected."""

    inherits: ClassVar[str] = "timeouts"

    preread: scalars.PositiveTimeOff = setting(
        "10s",
        "From accept until it is known who a client is and where it belongs. One that is silent "
        "for so long goes where routes send it that need no bytes: it may wait for the upstream to "
        "speak first. One that began a PROXY header, a ClientHello or a request, or that owes a "
        "header, is refused.",
        example="3s",
    )
    handshake: scalars.PositiveTimeOff = setting(
        "10s",
        "A TLS handshake with a client, from its first byte known to its last one.",
        example="3s",
    )
