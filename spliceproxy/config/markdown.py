"""The reference of the language, as Markdown, out of its JSON Schema."""

from __future__ import annotations

from spliceproxy.config import schema
from spliceproxy.config.schema import Schema

_HEAD = """\
# Configuration reference

Every key of a spliceproxy configuration file. This page is generated from the program's own
model: `python -m spliceproxy.config.reference > configs/REFERENCE.md`. `spliceproxy check FILE`
tells all that is wrong with a file, and `spliceproxy schema` prints the JSON Schema for editors.

- A file is YAML, in UTF-8, at most 1 MiB. Scalars are text that the tables below type; YAML's
  own types do not matter, so `off`, `010` and `22:22` are what they look like.
- Times are a number and a unit: `500ms`, `5s`, `10m`, `1h`, `2d`.
- Sizes are a number and a unit: `512B`, `64KiB`, `1MiB`, `1GiB`.
- Shares are `50%` or `0.5`.
- `off` means none, wherever it may stand. One value may stand for a list.
- `${NAME}` and `${NAME:-default}` in values are expanded from the environment after parsing;
  `$$` is a dollar sign. Keys are never expanded.
- Addresses: `host:port`, `[v6]:port`, `:port` (listeners only: every address, IPv4 and IPv6),
  `unix:/path`, `unix:@abstract`. YAML wants quotes around what begins with `[`, `{`, `*` or `@`,
  and inside `{…}` or `[…]` also around what begins with `:`.
- Names of listeners and pools are 1 to 64 letters, digits, dots, hyphens or underscores.
- Unknown keys are errors.
- A default that reads "as `tcp.nodelay`" is inherited from there, key by key, also inside
  `keepalive` and `buffers`, which have the same keys everywhere.
"""


def reference() -> str:
    """The text of `configs/REFERENCE.md`: every key with meaning, unit, default and example."""
    parts = [_HEAD]
    for title, section in schema.sections():
        parts.append(f"\n## {f'`{title}`' if title else 'Top level'}\n")
        parts.append(f"\n{section['description']}\n")
        parts.append("\n| key | meaning | unit | default | example |\n")
        parts.append("| --- | --- | --- | --- | --- |\n")
        required = section.get("required", [])
        for key, value in section["properties"].items():
            parts.append(_row(key, value, required=key in required))
    return "".join(parts)


def _row(key: str, value: Schema, *, required: bool) -> str:
    meaning = value.get("description") or schema.resolve(value)["description"]
    cells = [f"`{key}`", meaning, _unit(value), _default(value, required=required)]
    cells.append(f"`{value['examples'][0]}`" if "examples" in value else "")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _unit(value: Schema) -> str:
    if "x-unit" in value:
        return str(value["x-unit"])
    for choice in value.get("anyOf", ()):
        if "x-unit" in choice:
            return f"list of: {choice['x-unit']}"
    choices = value.get("anyOf", ())
    return "list" if any(choice.get("type") == "array" for choice in choices) else "section"


def _default(value: Schema, *, required: bool) -> str:
    if required:
        return "required"
    if "x-inherits" in value:
        return f"as `{value['x-inherits']}`"
    default = value.get("default")
    return f"`{default}`" if default else ""
