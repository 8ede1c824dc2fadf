"""Every inherited value in its place: what a listener or a pool does not say, its parent says."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from spliceproxy.config.health import Health, PoolHealth
from spliceproxy.config.model import Config
from spliceproxy.config.pool import Pool
from spliceproxy.config.section import Section

S = TypeVar("S", bound=Section)


def resolve(config: Config, base: Path) -> Config:
    """The same configuration with every name and every inherited value in its place.

    `base` is the directory that relative paths are meant from.
    """
    listeners = {}
    for name, listener in config.listeners.items():
        effective: dict[str, Section | None] = {
            "tcp": inherit(listener.tcp, config.tcp),
            "log": inherit(listener.log, config.log.sessions),
            "timeouts": inherit(listener.timeouts, config.timeouts),
            "tls": listener.tls and listener.tls.at(base),
        }
        listeners[name] = listener.model_copy(update=effective)
        listeners[name]._name = name
    pools = {}
    for name, pool in config.pools.items():
        pool_effective: dict[str, Section | None] = {
            "health": _health(pool, config.health),
            "tcp": inherit(pool.tcp, config.tcp),
            "timeouts": inherit(pool.timeouts, config.timeouts),
            "tls": pool.tls and pool.tls.at(base),
        }
        pools[name] = pool.model_copy(update=pool_effective)
        pools[name]._name = name
    return config.model_copy(update={"listeners": listeners, "pools": pools})


def _health(pool: Pool, parent: Health | None) -> PoolHealth | None:
    """A pool's own `health` or `off`, or that of all pools."""
    if "health" not in pool.model_fields_set:
        return parent
    return inherit(pool.health, parent) if pool.health and parent else pool.health


def inherit(own: S, parent: Section) -> S:
    """`own`, where each key that its file does not give has the value of `parent`."""
    values: dict[str, object] = {}
    for key in type(own).model_fields.keys() & type(parent).model_fields.keys():
        mine, theirs = getattr(own, key), getattr(parent, key)
        if key not in own.model_fields_set:
            values[key] = theirs
        elif isinstance(mine, Section) and isinstance(theirs, Section):
            values[key] = inherit(mine, theirs)
    return own.model_copy(update=values)
