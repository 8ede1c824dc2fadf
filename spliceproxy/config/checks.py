"""What no value shows alone: names that must exist, addresses that must not meet.

These checks read the tree and not the typed model, so that they also find what is wrong in a
file which has mistakes elsewhere. Values that make no sense are skipped: they are told already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

from spliceproxy.config import address, units
from spliceproxy.config.address import Address
from spliceproxy.config.check_admin import check_admin
from spliceproxy.config.check_routes import check_routes, check_targets
from spliceproxy.config.check_tls import check_tls
from spliceproxy.config.nodes import Mapping, Node, Scalar, Sequence, items
from spliceproxy.config.problems import Path, Place, Problem, dotted
from spliceproxy.config.scalars import CHECKS
from spliceproxy.telemetry.board import MAX_LISTENERS


def check(root: Mapping, *, complete: bool) -> Iterator[Problem]:
    """Problems between the parts of `root`.

    Not `complete`: some included file could not be read, so what is absent may be there.
    """
    listeners, pools = _named(root, "listeners"), _named(root, "pools")
    if complete:
        yield from _has_listeners(root)
        section = root.get("listeners")
        entries = section.entries if isinstance(section, Mapping) else {}
        places = {name: entry.place for name, entry in entries.items()}
        yield from check_targets(listeners, places, pools)
    yield from check_routes(listeners)
    yield from check_tls(listeners, pools)
    yield from check_admin(root)
    yield from _binds(root, listeners)
    yield from _health(("health",), root.get("health"), None)
    for name, pool in pools.items():
        yield from _health(("pools", name, "health"), pool.get("health"), root.get("health"))
        upstreams = pool.get("upstreams")
        if upstreams is not None:
            yield from _upstreams(("pools", name, "upstreams"), upstreams)


def check_list(path: Path, upstreams: Node) -> Iterator[Problem]:
    """The same for the upstreams of a file that a pool names; there may be none."""
    for at, item in items(path, upstreams):
        node = item.get("address") if isinstance(item, Mapping) else item
        parsed = None if node is None else _address(node, address.parse_address)
        if node is not None and parsed is not None and parsed.file:
            text = f"{parsed} is a list within a list; write its upstreams here"
            yield Problem(node.place, at, text)
    yield from _twice(path, upstreams)


def _named(root: Mapping, key: str) -> dict[str, Mapping]:
    """The mappings below `listeners` or `pools`."""
    section = root.get(key)
    if not isinstance(section, Mapping):
        return {}
    return {
        name: entry.value
        for name, entry in section.entries.items()
        if isinstance(entry.value, Mapping)
    }


def _has_listeners(root: Mapping) -> Iterator[Problem]:
    section = root.get("listeners")
    right = 'write for example listeners: {web: {bind: ":8080", pool: app}}'
    if section is None:
        yield Problem(root.place, ("listeners",), f"missing; {right}")
    elif isinstance(section, Mapping) and not section.entries:
        yield Problem(section.place, ("listeners",), f"there is no listener; {right}")
    elif isinstance(section, Mapping) and len(section.entries) > MAX_LISTENERS:
        text = f"more than {MAX_LISTENERS} listeners; a listener may have many addresses: use fewer"
        yield Problem(section.place, ("listeners",), text)


@dataclass(frozen=True, slots=True)
class _Bind:
    """One address of a listener, and where it is written."""

    address: Address
    interface: str
    place: Place
    path: Path

    def meets(self, other: _Bind) -> bool:
        # The kernel lets sockets with different interfaces have the same address.
        apart = self.interface and other.interface and self.interface != other.interface
        return not apart and address.overlap(self.address, other.address)


def _binds(root: Mapping, listeners: dict[str, Mapping]) -> Iterator[Problem]:
    known = _Bound()
    for name, listener in listeners.items():
        bind = listener.get("bind")
        if isinstance(bind, Sequence) and not bind.items:
            text = 'there is no address; write at least one, such as ":8080"'
            yield Problem(bind.place, ("listeners", name, "bind"), text)
        yield from known.meetings(("listeners", name, "bind"), bind, _interface(listener))
    for key in ("admin", "metrics"):
        section = root.get(key)
        if isinstance(section, Mapping):
            yield from known.meetings((key, "bind"), section.get("bind"))


class _Bound:
    """The addresses so far, found without a look at all of them: there may be tens of thousands."""

    def __init__(self) -> None:
        self._same: dict[Address, list[_Bind]] = {}
        self._wildcards: dict[int, list[_Bind]] = {}
        self._by_port: dict[int, list[_Bind]] = {}

    def meetings(self, path: Path, bind: Node | None, interface: str = "") -> Iterator[Problem]:
        """Where the addresses of one `bind` meet each other, or earlier ones."""
        for at, node in items(path, bind) if bind is not None else ():
            if (parsed := _address(node, address.parse_bind)) is None:
                continue
            mine = _Bind(parsed, interface, node.place, at)
            if first := self.add(mine):
                yield Problem(mine.place, at, _meeting(mine, first))

    def add(self, mine: _Bind) -> _Bind | None:
        """The first one that `mine` cannot be beside."""
        mine_at, port = mine.address, mine.address.port
        if not mine_at.is_unix and not port:
            return None  # any free port
        wildcard = not mine_at.is_unix and (not mine_at.host or mine_at.host in ("0.0.0.0", "::"))
        same = self._same.setdefault(mine_at, [])
        others = self._by_port if wildcard else self._wildcards
        candidates = chain(same, () if mine_at.is_unix else others.get(port, ()))
        first = next((other for other in candidates if mine.meets(other)), None)
        same.append(mine)
        if port:
            self._by_port.setdefault(port, []).append(mine)
        if wildcard:
            self._wildcards.setdefault(port, []).append(mine)
        return first


def _meeting(mine: _Bind, first: _Bind) -> str:
    where = f"{first.place.source.name}:{first.place.line}"
    if mine.address == first.address:
        return (
            f"{mine.address} is bound twice, first by {dotted(first.path)} ({where}); "
            "remove one of them"
        )
    return (
        f"{mine.address} overlaps {first.address} of {dotted(first.path)} ({where}); "
        "give one of them another port"
    )


def _upstreams(path: Path, upstreams: Node) -> Iterator[Problem]:
    if isinstance(upstreams, Sequence) and not upstreams.items:
        text = "there is no upstream; write at least one, such as 127.0.0.1:9001"
        yield Problem(upstreams.place, path, text)
        return
    yield from _twice(path, upstreams)
    if all(_weight(item) == 0 for _, item in items(path, upstreams)):
        text = "every upstream has weight 0 and takes no session; give one a weight of at least 1"
        yield Problem(upstreams.place, path, text)


def _twice(path: Path, upstreams: Node) -> Iterator[Problem]:
    first: dict[Address, Place] = {}
    for at, item in items(path, upstreams):
        node = item.get("address") if isinstance(item, Mapping) else item
        if node is None or (parsed := _address(node, address.parse_address)) is None:
            continue
        if place := first.get(parsed):
            text = (
                f"{parsed} is in this pool already, in line {place.line}; "
                "remove one of them: a larger weight gives it more sessions"
            )
            yield Problem(node.place, at, text)
        first.setdefault(parsed, node.place)


USED_BY = {
    "path": ("http",),
    "host": ("http", "tls"),
    "status": ("http",),
    "send": ("exchange",),
    "expect": ("http", "exchange"),
}
"""Keys of `health`, and the checks that use them."""


def _health(path: Path, own: Node | None, parent: Node | None) -> Iterator[Problem]:
    """What `check`, `send` and `expect` have to do with each other, where `own` says any of it."""
    if not isinstance(own, Mapping):
        return
    above = parent if isinstance(parent, Mapping) else Mapping(own.place)

    def text(key: str) -> str | None:
        node = own.get(key) or above.get(key)
        return node.text if isinstance(node, Scalar) and node.text != "off" else None

    check = text("check") or "tcp"
    if "check" in own.entries or path != ("health",):
        for key, checks in USED_BY.items():
            if key in own.entries and check in CHECKS and check not in checks:
                wrong = f"check: {check} does not use it; remove it, or write check: {checks[0]}"
                yield Problem(own.entries[key].place, (*path, key), wrong)
    if check == "exchange" and not text("send") and not text("expect"):
        wrong = (
            'nothing to send or to expect; write for example send: "PING\\r\\n" and expect: +PONG'
        )
        yield Problem(own.place, path, wrong)
    for key in ("send", "expect"):
        node = own.get(key)
        if not isinstance(node, Scalar) or node.unknown or node.text == "off":
            continue
        if wrong := _text_problem(node.text, check):
            yield Problem(node.place, (*path, key), wrong)


def _text_problem(text: str, check: str) -> str:
    """What is wrong with `send` or `expect`; empty: nothing."""
    try:
        if check == "exchange":
            units.binary(text)
        elif check == "http":
            units.regular_expression(text)
    except ValueError as error:
        return str(error)
    return ""


def _address(node: Node, parse: Callable[[str], Address]) -> Address | None:
    if not isinstance(node, Scalar) or node.unknown:
        return None
    try:
        return parse(node.text)
    except ValueError:
        return None


def _interface(listener: Mapping) -> str:
    tcp = listener.get("tcp")
    node = tcp.get("interface") if isinstance(tcp, Mapping) else None
    return node.text if isinstance(node, Scalar) and node.text != "off" else ""


def _weight(item: Node) -> int | None:
    node = item.get("weight") if isinstance(item, Mapping) else None
    if not isinstance(node, Scalar) or node.unknown:
        return None
    try:
        return units.integer(node.text, 0, 256)
    except ValueError:
        return None
