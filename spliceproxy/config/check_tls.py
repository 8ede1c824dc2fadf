"""What is wrong between the keys of TLS, and those beside them.

As in `checks`, the tree is read and not the typed model.
"""

from __future__ import annotations

from collections.abc import Iterator

from spliceproxy.config import address
from spliceproxy.config.check_routes import routes_of, targets_of
from spliceproxy.config.nodes import Mapping, Node, Scalar, items
from spliceproxy.config.problems import Path, Problem, show


def check_tls(listeners: dict[str, Mapping], pools: dict[str, Mapping]) -> Iterator[Problem]:
    """Each key has a meaning where it stands."""
    for name, listener in listeners.items():
        path: Path = ("listeners", name)
        yield from _clients((*path, "tls"), listener.get("tls"))
        yield from _passthrough(path, listener, pools)
    for name, pool in pools.items():
        yield from _upstreams(("pools", name), pool)


def _clients(path: Path, tls: Node | None) -> Iterator[Problem]:
    if not isinstance(tls, Mapping):
        return
    node = tls.get("client_certificate")
    if node is not None and _off(tls.get("client_ca")):
        text = "nobody says who may have signed it; write client_ca: and a PEM file of authorities"
        yield Problem(node.place, (*path, "client_certificate"), text)


def _passthrough(path: Path, listener: Mapping, pools: dict[str, Mapping]) -> Iterator[Problem]:
    for at, route in routes_of(path, listener):
        node = route.get("tls")
        if node is None:
            continue
        for _, target in targets_of(at, route):
            name = target.text
            if name in pools and not _off(pools[name].get("tls")):
                text = f"pool {show(name)} has tls, which would be TLS within TLS; "
                right = "remove this, or name a pool without tls"
                yield Problem(node.place, (*at, "tls"), text + right)


def _upstreams(path: Path, pool: Mapping) -> Iterator[Problem]:
    tls = pool.get("tls")
    if _off(tls):
        return
    keys = tls if isinstance(tls, Mapping) else Mapping(pool.place)
    verify = keys.get("verify")
    verifies = not (isinstance(verify, Scalar) and verify.text == "off")
    ca = keys.get("ca")
    if ca is not None and not _off(ca) and not verifies:
        text = "verify: off does not use it; remove one of them"
        yield Problem(ca.place, (*path, "tls", "ca"), text)
    upstreams = pool.get("upstreams")
    if keys.get("name") is not None or not verifies or upstreams is None:
        return
    for at, item in items((*path, "upstreams"), upstreams):
        node = item.get("address") if isinstance(item, Mapping) else item
        if isinstance(node, Scalar) and _is_unix(node):
            text = "a UNIX socket has no name that a certificate could be for; "
            right = "write tls: {name: app.example.com}, or {verify: off}"
            yield Problem(node.place, at, text + right)


def _is_unix(node: Scalar) -> bool:
    try:
        return not node.unknown and address.parse_address(node.text).is_unix
    except ValueError:
        return False


def _off(node: Node | None) -> bool:
    return node is None or (isinstance(node, Scalar) and node.text == "off")
