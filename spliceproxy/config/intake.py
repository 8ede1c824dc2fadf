"""The keys of a listener that say what must be known of a client before it is connected."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from spliceproxy.config import scalars
from spliceproxy.config.networks import IpNetwork
from spliceproxy.config.scalars import OneOrMore
from spliceproxy.config.section import Section, setting


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


class ListenerTimeouts(Section):
    """How long a client may take to say what must be known before it is connected."""

    inherits: ClassVar[str] = "timeouts"

    preread: scalars.PositiveTimeOff = setting(
        "10s",
        "From accept to the end of the PROXY header, where the listener wants one.",
        example="3s",
    )
