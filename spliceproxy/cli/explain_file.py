"""A configuration file as `explain` looks at it, without a running proxy: no name is looked up, no
certificate is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from spliceproxy.admin.scene import AtRest, Scene
from spliceproxy.config import Config, ConfigError, load, load_list
from spliceproxy.control.access import AccessTables
from spliceproxy.control.discovery.found import Found, found_at_once, is_place, within
from spliceproxy.control.plan import plan_listeners, plan_pools
from spliceproxy.control.slots import UpstreamSlots
from spliceproxy.control.tls import TlsPlans
from spliceproxy.errors import SpliceproxyError
from spliceproxy.ipc import PoolTlsPlan, TlsPlan

if TYPE_CHECKING:
    from spliceproxy.config import Address, Upstream


def scene_of(file: Path) -> Scene:
    """What a client meets at a proxy with this configuration, where all is well and nobody is
    there. Raises SpliceproxyError."""
    config = load(file)
    access, slots = AccessTables(), UpstreamSlots()
    access.load(config)
    found, unknown = _found(config)
    tls = TlsPlans(
        {name: TlsPlan(()) for name, one in config.listeners.items() if one.tls is not None},
        {name: PoolTlsPlan() for name, one in config.pools.items() if one.tls is not None},
    )
    return Scene(
        config,
        plan_listeners(config, slots, access.tables(config), tls),
        plan_pools(config, found, slots, tls),
        AtRest(),
        live=False,
        unknown=unknown,
    )


def _found(config: Config) -> tuple[dict[Address, list[Found]], dict[str, list[str]]]:
    """What the addresses stand for; and by pool those of which that is not known."""
    found: dict[Address, list[Found]] = {}
    unknown: dict[str, list[str]] = {}
    for name, pool in config.pools.items():
        for upstream in pool.upstreams:
            places: list[Found] = []
            for one in _expand(upstream, listed=False):
                if isinstance(one, str):
                    unknown.setdefault(name, []).append(one)
                else:
                    places.append(one)
            found[upstream.address] = places
    return found, unknown


def _expand(upstream: Upstream, *, listed: bool) -> Iterator[Found | str]:
    """The places of an upstream, and a text for each of its addresses that is no place. With what
    stands beside its address only where it is `listed` in a file: the plan adds the rest."""
    address = upstream.address
    if is_place(address):
        places = found_at_once(address)
        yield from within(upstream, places) if listed else places
    elif address.file:
        try:
            entries = load_list(Path(address.file))
        except SpliceproxyError as error:
            why = "cannot be read" if isinstance(error, ConfigError) else str(error)
            yield f"{address} ({why})"
            return
        for one in entries:
            yield from _expand(one, listed=True)
    else:
        yield f"{address} (needs DNS)"
