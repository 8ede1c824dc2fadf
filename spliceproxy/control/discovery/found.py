"""What an address of the configuration stands for: places, each with a weight and a tier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from spliceproxy.control.addresses import Place, places_to_connect
from spliceproxy.control.names import ResolveError

if TYPE_CHECKING:
    from spliceproxy.config import Address, Upstream


@dataclass(frozen=True, slots=True)
class Found:
    """One upstream that was found."""

    place: Place
    weight: int = 1
    tier: int = 0
    max_sessions: int | None = None
    server_name: str = ""
    """What its certificate should be for: the host by which it was written."""


FoundAt = Mapping["Address", Sequence[Found]]
"""For each address of an upstream what it stands for now; one that is absent is not known yet."""


def is_place(address: Address) -> bool:
    """Whether it says itself where the upstream is, so that there is nothing to find."""
    return address.is_unix or address.ip is not None


def source_domain(srv: str) -> str:
    """The domain whose SRV records these are: what a certificate has to be for (RFC 6125, 6.2.1).

    Not the target of a record: it is no more than what DNS answered, unsigned.
    """
    labels = srv.rstrip(".").split(".")
    while len(labels) > 1 and labels[0].startswith("_"):
        del labels[0]
    return ".".join(labels)


def found_at_once(address: Address) -> tuple[Found, ...]:
    """The upstream at an address that is a place.

    Raises ResolveError where it names an interface (fe80::1%eth0) that is not there.
    """
    try:
        name = address.host.partition("%")[0]
        return tuple(Found(place, server_name=name) for place in places_to_connect(address))
    except OSError as error:
        raise ResolveError(
            f"{address}: {error.strerror}; is there such an interface? `ip link` lists them"
        ) from None


def within(upstream: Upstream, found: Iterable[Found]) -> list[Found]:
    """What was found for an entry, with what stands beside its address there: weights multiply,
    tiers add up, and the lower limit holds."""
    if (upstream.weight, upstream.tier, upstream.max_sessions) == (1, 0, None):
        return list(found)
    return [
        replace(
            one,
            weight=one.weight * upstream.weight,
            tier=one.tier + upstream.tier,
            max_sessions=lower(one.max_sessions, upstream.max_sessions),
        )
        for one in found
    ]


def lower(one: int | None, other: int | None) -> int | None:
    """The lower of two limits; None is no limit."""
    return min((limit for limit in (one, other) if limit is not None), default=None)
