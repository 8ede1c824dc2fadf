"""What listeners must know of their clients, as workers are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spliceproxy.ipc import IntakePlan, RoutePlan
from spliceproxy.wire.networks import NetworkTable, make_table

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from spliceproxy.config import Listener, Pool
    from spliceproxy.config.intake import Route
    from spliceproxy.config.networks import IpNetwork


def plan_intake(listener: Listener, pools: Mapping[str, Pool]) -> IntakePlan | None:
    """None: nothing, so that its clients are connected at once."""
    accept = listener.accept_proxy
    routed = {name for route in listener.routes for name, _ in route.pool}
    hashed = any(pools[name].balance == "sni_hash" for name in {*routed, listener.pool} if name)
    hello = hashed or listener.tls is not None
    if accept is None and not listener.routes and not hello:
        return None
    return IntakePlan(
        timeout=listener.timeouts.preread,
        proxy_from=None if accept is None else _table(accept.from_),
        others="plain" if accept is None else accept.others,
        routes=tuple(_plan_route(n, route) for n, route in enumerate(listener.routes)),
        hello=hello,
    )


def _plan_route(number: int, route: Route) -> RoutePlan:
    return RoutePlan(
        name=f"routes[{number}]",
        pools=route.pool,
        source=_table(route.source) if route.source else None,
        protocol=route.protocol,
        sni=route.sni,
        alpn=tuple(name.encode() for name in route.alpn),
        host=route.host,
        passthrough=route.tls is not None,
    )


def _table(networks: Collection[IpNetwork]) -> NetworkTable:
    """Finds 0 for an address in any of them."""
    return make_table((network, 0) for network in networks)
