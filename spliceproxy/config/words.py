"""A configuration in the language's own words: what could be written so that it means the same.

All is told, defaults and what is inherited too, in the form that JSON has for it. What may be a
secret is not: it reads `***`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from spliceproxy.config import schema
from spliceproxy.config.checks import USED_BY
from spliceproxy.config.health import PoolHealth
from spliceproxy.config.model import Config
from spliceproxy.config.scalars import CHECKS
from spliceproxy.config.schema import Schema, resolve
from spliceproxy.config.units import size_text, time_text

MASK = "***"
_NONE = ("off", "auto", "system")
"""Words that stand for None."""
_APART = frozenset({"include"})
"""Keys that say where the rest was read from."""


def in_words(config: Config) -> dict[str, Any]:
    """The whole configuration, as JSON."""
    return _section(config, schema.section_at(()))


def _section(section: BaseModel, node: Schema) -> dict[str, Any]:
    words = {}
    for name, field in type(section).model_fields.items():
        key, value = field.alias or name, getattr(section, name)
        if key in _APART or (value in (None, ()) and _is_absent(value, field)):
            continue
        told = _value(value, node["properties"][key])
        if isinstance(section, PoolHealth):
            if section.check not in USED_BY.get(key, CHECKS):
                continue  # beside this check the key would be a mistake
            told = masked(key, told)
        words[key] = told
    return words


def _is_absent(value: object, field: FieldInfo) -> bool:
    """Whether an empty value means that the key is not there."""
    return field.default == value and field.default_factory is None


def _value(value: Any, node: Schema) -> Any:
    inner = resolve(node)
    if isinstance(value, BaseModel):
        return _section(value, inner)
    if isinstance(value, Mapping):
        below = next(iter(inner["patternProperties"].values()))
        return {name: _value(one, below) for name, one in value.items()}
    unit = _unit(node)
    if unit == "name / shares":
        return value[0][0] if len(value) == 1 else dict(value)
    if unit == "status":
        least, most = value
        return str(least) if least == most else f"{least}-{most}"
    if isinstance(value, tuple):
        items = inner["x-items"]
        off = not value and "off" in _words(items)
        return "off" if off else [_value(one, items) for one in value]
    return _none(node) if value is None else _scalar(value, unit)


def _scalar(value: Any, unit: str) -> Any:
    match unit:
        case "time":
            return time_text(value)
        case "size":
            return size_text(value)
        case "rate":
            return f"{size_text(value)}/s"
        case "share":
            return f"{value * 100:.12g}%"
        case "prefix":
            return f"/{value}"
        case "on / off":
            return "on" if value else "off"
        case "file:/path":
            return f"file:{value}"
    return value if isinstance(value, bool | int | float) else str(value)


def _unit(node: Schema) -> str:
    """The unit of a single value."""
    return str(node.get("x-unit", ""))


def _none(node: Schema) -> str:
    """The word for a value that is None."""
    words = _words(node)
    return next((word for word in _NONE if word in words), "off")


def _words(node: Schema) -> set[object]:
    """Those that may stand for a value."""
    return {word for choice in node.get("anyOf", ()) for word in choice.get("enum", ())}


def masked(key: str, value: Any) -> Any:
    """The value of a key of health checks as everybody may see it: they may carry passwords, in
    what they send or behind the path that they ask for."""
    if key == "send" and value not in (None, "off"):
        return MASK
    if key == "path" and "?" in (value or ""):
        return value.partition("?")[0] + f"?{MASK}"
    return value
