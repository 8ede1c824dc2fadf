"""What differs between two configurations, in lines for a person.

    + listener ssh
    - pool old
    ~ pool app: + upstream 10.0.0.3:80
    ~ pool app: upstream 10.0.0.1:80: weight 1 → 3
    ~ timeouts.idle 1h → 10m
    ~ workers 2 → 3 (needs spliceproxy upgrade)

Both are resolved; what a listener or a pool only inherits is told once, where it was written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import BaseModel

from spliceproxy.config.model import Config, Listener
from spliceproxy.config.pool import Pool, Upstream
from spliceproxy.config.tls import PoolTls
from spliceproxy.config.units import size_text, time_text
from spliceproxy.config.words import masked

NEEDS_RESTART = ("workers", "relay", "admin", "metrics", "log.format", "log.sessions.to")
"""Keys that a running process cannot change, or all keys below them: they come with an upgrade."""

_NAMED = ("listeners", "pools", "include")
_SIZES = frozenset({"pipe_size", "receive", "send", "replay"})
_TIMES = frozenset(
    {"connect", "idle", "half_close", "session", "drain", "interval", "timeout", "time"}
    | {"user_timeout", "slow_start", "min_ttl", "max_ttl", "preread", "handshake"}
)
_NONE = {"bind": "auto", "servers": "system"}
"""The words for None in lists."""
_RATES = frozenset({"up", "down"})
_PREFIXES = frozenset({"v4", "v6"})
_APART = ("upstreams", "access", "routes")
"""Lists whose differences are told one by one."""
_SHOWN = 20
"""Networks of one listener that are told, at most."""
_Values = dict[str, object]
"""Dotted key → value."""


def difference(old: Config, new: Config) -> list[str]:
    """One line for each thing that is not the same; none where all is."""
    top = _changes(_values(old, _NAMED), _values(new, _NAMED))
    lines = [f"~ {change}" for change in _top_lines(top)]
    inherited = set(top.values())
    lines += _named("listener", old.listeners, new.listeners, inherited)
    lines += _named("pool", old.pools, new.pools, inherited)
    return lines


def needs_restart(old: Config, new: Config) -> list[str]:
    """The keys that differ, and that only a new process can change."""
    changed = _changes(_values(old, _NAMED), _values(new, _NAMED))
    return [key for key in changed if _is_fixed(key)]


def _is_fixed(key: str) -> bool:
    return any(key == fixed or key.startswith(f"{fixed}.") for fixed in NEEDS_RESTART)


def keep_what_needs_a_restart(old: Config, new: Config) -> Config:
    """`new`, with the values of `old` where only a new process can change them."""
    sessions = new.log.sessions.model_copy(update={"to": old.log.sessions.to})
    log = new.log.model_copy(update={"format": old.log.format, "sessions": sessions})
    kept = {key: getattr(old, key) for key in NEEDS_RESTART if "." not in key}
    return new.model_copy(update={**kept, "log": log})


def _named(
    kind: str,
    old: Mapping[str, Listener] | Mapping[str, Pool],
    new: Mapping[str, Listener] | Mapping[str, Pool],
    inherited: set[tuple[object, object]],
) -> Iterator[str]:
    for name in old.keys() - new.keys():
        yield f"- {kind} {name}"
    for name, after in new.items():
        before = old.get(name)
        if before is None:
            yield f"+ {kind} {name}"
            continue
        changes = _changes(_values(before, _APART), _values(after, _APART))
        own = {key: change for key, change in changes.items() if change not in inherited}
        for line in _lines(own):
            yield f"~ {kind} {name}: {line}"
        if isinstance(before, Listener) and isinstance(after, Listener):
            for line in _access(before, after):
                yield f"~ {kind} {name}: {line}"
        if isinstance(before, Pool) and isinstance(after, Pool):
            for line in _upstreams(before, after):
                yield f"~ {kind} {name}: {line}"
        if isinstance(before, Listener) and isinstance(after, Listener):
            for line in _routes(before, after):
                yield f"~ {kind} {name}: {line}"


def _routes(old: Listener, new: Listener) -> Iterator[str]:
    before, after = [str(one) for one in old.routes], [str(one) for one in new.routes]
    gone = [f"- route {one}" for one in before if one not in after]
    come = [f"+ route {one}" for one in after if one not in before]
    yield from gone + come
    if before != after and not gone and not come:
        yield "routes: another order"


def _access(old: Listener, new: Listener) -> Iterator[str]:
    """The networks that came and went, and whether the others have another order."""
    if old.access == new.access:
        return
    before = [line for rule in old.access for line in rule.lines()]
    after = [line for rule in new.access for line in rule.lines()]
    known, wanted = set(before), set(after)
    lines = [f"- access {line}" for line in before if line not in wanted]
    lines += [f"+ access {line}" for line in after if line not in known]
    yield from lines[:_SHOWN]
    if len(lines) > _SHOWN:
        yield f"access: and {len(lines) - _SHOWN} more networks"
    if [one for one in before if one in wanted] != [one for one in after if one in known]:
        yield "access: the rules have another order"


def _upstreams(old: Pool, new: Pool) -> Iterator[str]:
    before = {one.address: one for one in old.upstreams}
    after = {one.address: one for one in new.upstreams}
    for address in before.keys() - after.keys():
        yield f"- upstream {address}"
    for address, one in after.items():
        if address not in before:
            yield f"+ upstream {address}"
            continue
        if one == before[address]:
            continue
        for line in _lines(_changes(_of(before[address]), _of(one))):
            yield f"upstream {address}: {line}"


def _of(upstream: Upstream) -> _Values:
    return _values(upstream, ("address",))


def _values(section: BaseModel, without: tuple[str, ...] = (), prefix: str = "") -> _Values:
    found: _Values = {}
    for name, field in type(section).model_fields.items():
        if name in without:
            continue
        value, key = getattr(section, name), field.alias or name
        if isinstance(value, PoolTls):  # all its keys may be off, which is not the same as off
            found[prefix + key] = "on"
            keys = _values(value, (), f"{prefix}{key}.")
            found |= {name: one for name, one in keys.items() if one}
        elif isinstance(value, BaseModel):
            found |= _values(value, (), f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def _changes(old: _Values, new: _Values) -> dict[str, tuple[object, object]]:
    """A section that is `off` has no keys of its own: those are missing on one side."""
    keys = [*old, *(key for key in new if key not in old)]
    pairs = {key: (_hashable(old.get(key)), _hashable(new.get(key))) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _hashable(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _lines(changes: dict[str, tuple[object, object]]) -> Iterator[str]:
    for key, (before, after) in changes.items():
        section, _, name = key.rpartition(".")
        if section.rpartition(".")[2] == "health":
            before, after = masked(name, before), masked(name, after)
        yield f"{key} {_text(key, before)} → {_text(key, after)}"


def _top_lines(changes: dict[str, tuple[object, object]]) -> Iterator[str]:
    for key, line in zip(changes, _lines(changes), strict=True):
        yield f"{line} (needs spliceproxy upgrade)" if _is_fixed(key) else line


def _text(key: str, value: object) -> str:
    name = key.rpartition(".")[2]
    if value is None or (value == () and name == "bind"):
        return "off"
    if isinstance(value, bool) and name in ("verify", "upstreams"):
        return "on" if value else "off"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(_NONE[name] if one is None else str(one) for one in value) + "]"
    if isinstance(value, float) and name in _TIMES:
        return time_text(value)
    if isinstance(value, int) and name in _SIZES:
        return size_text(value)
    if isinstance(value, int) and name in _RATES:
        return f"{size_text(value)}/s"
    if name in _PREFIXES:
        return f"/{value}"
    return f"{value:g}" if isinstance(value, float) else str(value)
