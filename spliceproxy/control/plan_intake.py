"""What listeners must know of their clients, as workers are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spliceproxy.ipc import IntakePlan
from spliceproxy.wire.networks import NetworkTable, make_table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from spliceproxy.config import Listener
    from spliceproxy.config.networks import IpNetwork


def plan_intake(listener: Listener) -> IntakePlan | None:
    """None: nothing, so that its clients are connected at once."""
    accept = listener.accept_proxy
    if accept is None:
        return None
    return IntakePlan(
        timeout=listener.timeouts.preread,
        proxy_from=_table(accept.from_),
        others=accept.others,
    )


def _table(networks: Iterable[IpNetwork]) -> NetworkTable:
    """Finds 0 for an address in any of them."""
    return make_table((network, 0) for network in networks)
