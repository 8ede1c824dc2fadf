"""What is wrong between the routes of a listener, and the pools that they name.

As in `checks`, the tree is read and not the typed model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice

from spliceproxy.config.nodes import Mapping, Node, Scalar, Sequence
from spliceproxy.config.problems import Path, Place, Problem, show
from spliceproxy.config.suggest import nearest

_CONDITIONS = ("source", "protocol", "sni", "alpn", "host")
_PROTOCOLS_OF = {
    "sni": ("tls", "postgres"),
    "alpn": ("tls", "postgres"),
    "tls": ("tls", "postgres"),
    "host": ("http",),
}
"""The keys that only clients of some protocols can match, or are of use to."""


_GUESSES = 50
"""Names that are looked for among all pools, for "did you mean …?": of thousands, few are read."""


class _Pools:
    """The pools that there are, and what to write instead of one that there is not."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._guesses = _GUESSES

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def instead_of(self, name: str) -> str:
        self._guesses -= 1
        if self._guesses >= 0 and (near := nearest(name, self._names)):
            return f"did you mean {near}?"
        if self._names:
            return f"the pools are {', '.join(islice(self._names, 10))}"
        return "write for example pools: {app: {upstreams: [127.0.0.1:9001]}}"


def check_targets(
    listeners: dict[str, Mapping], places: dict[str, Place], names: Collection[str]
) -> Iterator[Problem]:
    """Each listener has a pool or routes, and those pools exist. `places`: of listeners' names,
    `names`: of pools."""
    pools = _Pools(names)
    for name, listener in listeners.items():
        path: Path = ("listeners", name)
        routes = list(routes_of(path, listener))
        pool = listener.get("pool")
        if pool is None and not routes:
            text = "missing; write for example pool: app"
            yield Problem(places[name], (*path, "pool"), text)
        if pool is not None:
            yield from _exists((*path, "pool"), pool.place, pool, pools)
        for at, route in routes:
            for where, target in targets_of(at, route):
                yield from _exists(where, target.place, target, pools)


def check_routes(listeners: dict[str, Mapping]) -> Iterator[Problem]:
    """Each route can be matched by some client."""
    for name, listener in listeners.items():
        all_before: Path | None = None
        for path, route in routes_of(("listeners", name), listener):
            if all_before is not None:
                text = "no client comes this far: the route before it has no conditions; "
                right = "move that one to the end, or name its pool as the listener's"
                yield Problem(route.place, path, text + right)
                break
            yield from _empty(path, route)
            yield from _contradictions(path, route)
            if not any(key in route.entries for key in _CONDITIONS):
                all_before = path


def routes_of(path: Path, listener: Mapping) -> Iterator[tuple[Path, Mapping]]:
    """The routes of a listener, with their paths; one may stand for a list."""
    routes = listener.get("routes")
    items = routes.items if isinstance(routes, Sequence) else [routes]
    for number, item in enumerate(items):
        if isinstance(item, Mapping):
            yield (*path, "routes", number), item


def targets_of(path: Path, route: Mapping) -> Iterator[tuple[Path, Scalar]]:
    """The names of the pools of a route, with their paths."""
    node = route.get("pool")
    if isinstance(node, Mapping):
        for name, entry in node.entries.items():
            yield (*path, "pool", name), Scalar(entry.place, name)
    elif isinstance(node, Scalar):
        yield (*path, "pool"), node


def _empty(path: Path, route: Mapping) -> Iterator[Problem]:
    """A condition of which nothing is left, as a template may leave it, would hold for all."""
    for key in _CONDITIONS:
        node = route.get(key)
        if isinstance(node, Sequence) and not node.items:
            text = "the list is empty; write what a client must have, or leave the key out"
            yield Problem(node.place, (*path, key), text)


def _contradictions(path: Path, route: Mapping) -> Iterator[Problem]:
    protocols = _texts(route.get("protocol"))
    for key, able in _PROTOCOLS_OF.items():
        node = route.get(key)
        if node is None:
            continue
        if protocols and not any(protocol in able for protocol in protocols):
            who = " or ".join(able)
            text = f"only clients that speak {who} have this; remove it, or protocol"
            yield Problem(node.place, (*path, key), text)
        elif key == "host" and ("sni" in route.entries or "alpn" in route.entries):
            text = "nobody has both this and sni or alpn; write two routes"
            yield Problem(node.place, (*path, key), text)


def _texts(node: Node | None) -> list[str]:
    items = node.items if isinstance(node, Sequence) else [node]
    return [item.text for item in items if isinstance(item, Scalar)]


def _exists(path: Path, place: Place, node: Node, pools: _Pools) -> Iterator[Problem]:
    if isinstance(node, Scalar) and not node.unknown and node.text and node.text not in pools:
        text = f"there is no pool {show(node.text)}; {pools.instead_of(node.text)}"
        yield Problem(place, path, text)
