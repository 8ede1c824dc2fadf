"""Configurations made from the language's own schema: however one is written, it means the same."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spliceproxy.config import Config, ConfigError, loads, schema
from spliceproxy.config.schema import Schema

ODD = ("", "off", "0", "-1", "1h", "64KiB", "50%", "x" * 70, "[::1]:80", "a: b", "*", "${X}", "é\t")
Tree = str | list["Tree"] | dict[str, "Tree"]


def examples(node: Schema) -> list[Tree]:
    """What the schema shows of a value, as text: an example may be a mapping or a list."""
    found: list[Tree] = []
    for example in node.get("examples", ()):
        try:
            found.append(as_text(yaml.load(str(example), yaml.BaseLoader)))
        except yaml.YAMLError:
            found.append(str(example))
    return found


def as_text(value: Any) -> Tree:
    if isinstance(value, dict):
        return {str(key): as_text(one) for key, one in value.items()}
    if isinstance(value, list):
        return [as_text(one) for one in value]
    return str(value)


def trees(draw: st.DrawFn, node: Schema, depth: int = 0) -> Tree:
    """Something that the schema allows at this place, or nearly."""
    kind = draw(st.integers(0, 19))
    if kind == 0:
        return draw(st.sampled_from(ODD))
    shown = examples(node)
    if shown and kind < 6:
        return draw(st.sampled_from(shown))
    inner = schema.resolve(node)
    if "x-items" in inner:
        size = draw(st.integers(0, 3))
        return [trees(draw, inner["x-items"], depth + 1) for _ in range(size)]
    if "patternProperties" in inner:
        names = draw(
            st.lists(st.sampled_from(("web", "app", "b.c", "x y")), max_size=2, unique=True)
        )
        below = next(iter(inner["patternProperties"].values()))
        return {name: trees(draw, below, depth + 1) for name in names}
    if "properties" in inner:
        known = inner["properties"]
        keys = draw(st.lists(st.sampled_from([*known, "wrong"]), max_size=4, unique=True))
        keys += [key for key in inner.get("required", ()) if key not in keys]
        return {key: trees(draw, known.get(key, {}), depth + 1) for key in keys}
    return draw(st.sampled_from([*shown, *ODD])) if shown else draw(st.sampled_from(ODD))


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Tree]:
    """A small configuration that is well, with parts of it replaced by what the schema allows."""
    top = schema.section_at(())
    tree: dict[str, Tree] = {
        "listeners": {"web": {"bind": ":8080", "pool": "app"}},
        "pools": {"app": {"upstreams": ["127.0.0.1:9001"]}},
    }
    for key in draw(st.lists(st.sampled_from(sorted(top["properties"])), max_size=3, unique=True)):
        if key == "include":
            continue
        made = trees(draw, top["properties"][key])
        below = tree.get(key)
        if isinstance(below, dict) and isinstance(made, dict):
            for name, value in made.items():
                kept = below.get(name)
                if isinstance(kept, dict) and isinstance(value, dict):
                    value = {**kept, **value}
                below[name] = value
        else:
            tree[key] = made
    return tree


def outcome(text: str) -> Config | set[tuple[str, str]]:
    try:
        return loads(text, "app.yaml", {"X": "x"})
    except ConfigError as error:
        return {(str(one.path), _LINE.sub("", one.text)) for one in error.problems}


_LINE = re.compile(r"line \d+|app\.yaml:\d+")
"""Where the first of two stands is not the same in each way of writing."""


def written(tree: Tree, rng: random.Random) -> list[str]:
    """The same tree in many ways."""
    plain = {"allow_unicode": True, "sort_keys": False}
    return [
        json.dumps(tree, ensure_ascii=False),
        yaml.dump(tree, default_flow_style=False, **plain),
        yaml.dump(tree, default_flow_style=True, width=rng.choice((20, 80, 10_000)), **plain),
        yaml.dump(tree, default_flow_style=None, default_style="'", indent=4, **plain),
        yaml.dump(tree, default_style='"', allow_unicode=False, sort_keys=False, width=30),
        yaml.dump(tree, explicit_start=True, explicit_end=True, line_break="\r\n", **plain),
    ]


@given(configurations(), st.randoms(use_true_random=False))
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_a_configuration_means_the_same_however_it_is_written(
    tree: dict[str, Tree], rng: random.Random
) -> None:
    first, *others = written(tree, rng)
    expected = outcome(first)
    for text in others:
        found = outcome(text)
        if isinstance(found, set) and isinstance(expected, set):
            # Of two mistakes at one place one is told: a mapping may stand where its key does.
            assert found, text
            assert found <= expected, f"{first}\n---\n{text}"
        else:
            assert found == expected, f"{first}\n---\n{text}"


def test_some_of_what_is_made_is_well_and_some_is_not() -> None:
    found: list[bool] = []

    @given(configurations())
    @settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], database=None)
    def make(tree: dict[str, Tree]) -> None:
        found.append(isinstance(outcome(json.dumps(tree, ensure_ascii=False)), Config))

    make()
    share = sum(found) / len(found)
    print(f"{share:.0%} of {len(found)} are well")
    assert 0.03 < share < 0.9
