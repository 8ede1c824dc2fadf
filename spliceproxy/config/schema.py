"""The language as a JSON Schema: for editors, for the reference, and for "did you mean …?"."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from spliceproxy.config import model
from spliceproxy.config.problems import Path
from spliceproxy.config.section import Section

Schema = dict[str, Any]

_OFF = {"enum": ["off", False]}  # an editor that reads YAML 1.1 takes off for false

_ON = {"enum": ["on", True]}
_TEXT_ALONE = {"Upstream": "address", "CertificateFiles": "chain"}
"""Sections for which the value of one of their keys may stand."""


def json_schema() -> Schema:
    """The JSON Schema (draft 2020-12) of a configuration file, for editors.

    Scalars may have any YAML type, because this language reads them as text: `idle: 1h`,
    `workers: 4` and `nodelay: true` are all well.
    """
    schema = _loosen(model.Config.model_json_schema(mode="validation"))
    for name, key in _TEXT_ALONE.items():
        kind = schema["$defs"][name]
        text = {"type": "string", "x-unit": kind["properties"][key]["x-unit"]}
        schema["$defs"][name] = {"anyOf": [text, kind], **_about(kind)}
    tls = schema["$defs"]["PoolTls"]
    schema["$defs"]["PoolTls"] = {"anyOf": [_ON, tls], **_about(tls)}
    _mark_inherited(schema)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "spliceproxy configuration",
        **schema,
    }


def keys_at(path: Path) -> list[str]:
    """The keys that the mapping at `path` may have; none where any name may stand."""
    return list(section_at(path).get("properties", {}))


def section_at(path: Path) -> Schema:
    """The schema of the value at `path`; an empty one where there is none."""
    schema = _cached()
    node = resolve(schema)
    for step in path:
        properties = node.get("properties", {})
        if isinstance(step, int):
            following = node.get("x-items", {})
        elif step in properties:
            following = properties[step]
        else:
            patterns = node.get("patternProperties", {})
            following = next(iter(patterns.values()), node.get("additionalProperties") or {})
        node = resolve(following)
    return node


def homes(key: str) -> list[str]:
    """The sections, as users write them, that have a key with this name."""
    return [title for title, section in sections() if title and key in section["properties"]]


def sections() -> Iterator[tuple[str, Schema]]:
    """Every mapping of the language, where it first stands, from the top ("") downwards."""
    yield from _walk("", resolve(_cached()), set())


def _walk(title: str, section: Schema, seen: set[int]) -> Iterator[tuple[str, Schema]]:
    if id(section) in seen:
        return
    seen.add(id(section))
    yield title, section
    for key, value in section["properties"].items():
        below = f"{title}.{key}" if title else key
        inner = resolve(value)
        if "patternProperties" in inner:
            below += ".NAME"
            inner = resolve(next(iter(inner["patternProperties"].values())))
        elif "x-items" in inner:
            below += "[]"
            inner = resolve(inner["x-items"])
        if "properties" in inner:
            yield from _walk(below, inner, seen)


@cache
def _cached() -> Schema:
    return json_schema()


def resolve(node: Schema) -> Schema:
    """The schema behind a reference, or behind a choice between a mapping or list and a scalar."""
    if "$ref" in node:
        return resolve(_cached()["$defs"][node["$ref"].rpartition("/")[2]])
    choices = node.get("anyOf", ())
    for choice in choices:
        if "items" in choice:
            return {"x-items": choice["items"]}
    sections = (inner for choice in choices if "properties" in (inner := resolve(choice)))
    return next(sections, node)


def _loosen(node: Any, *, names: bool = False) -> Any:
    """Say `off` for null, allow one value for a list, and drop the titles that pydantic makes.

    `names`: the keys of this node are names of the language, not JSON Schema's words.
    """
    if isinstance(node, list):
        return [_loosen(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node == {"type": "null"}:
        return dict(_OFF)
    loose = {
        key: _loosen(value, names=key in ("properties", "$defs", "patternProperties"))
        for key, value in node.items()
        if names or key != "title"
    }
    if not names and loose.get("type") == "array":
        array = {"type": "array", "items": loose["items"]}
        return {"anyOf": [loose["items"], array], **_about(loose)}
    return loose


def _about(node: Schema) -> Schema:
    return {key: node[key] for key in ("description", "default", "examples") if key in node}


def _mark_inherited(schema: Schema) -> None:
    """Where a key is inherited, its default is not a value but a place: `x-inherits`."""
    inherits = {kind.__name__: kind.inherits for kind in _kinds(Section)}
    for name, section in schema["$defs"].items():
        home = inherits.get(name)
        if not home:
            continue
        node: Schema = schema
        for step in home.split("."):
            wanted = node["properties"][step]
            wanted = next((one for one in wanted.get("anyOf", ()) if "$ref" in one), wanted)
            node = schema["$defs"][wanted["$ref"].rpartition("/")[2]]
        for key, value in section["properties"].items():
            if key in node["properties"]:
                value.pop("default", None)
                value["x-inherits"] = f"{home}.{key}"


def _kinds(of: type[Section]) -> Iterator[type[Section]]:
    """Every kind of section that there is."""
    for kind in of.__subclasses__():
        yield kind
        yield from _kinds(kind)
