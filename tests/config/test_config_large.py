"""Large files are read by libyaml, where it is there: nobody must see a difference but in time."""

from __future__ import annotations

import random

import pytest
import yaml
from config.trees import tree

from spliceproxy.config import ConfigError, loads, syntax

FORMS = (
    "    - 10.{a}.{b}.1:80\n",
    "    - '10.{a}.{b}.2:80'\n",
    "    - {{address: 10.{a}.{b}.3:80, weight: {w}}}  # a comment\n",
    '    - address: "10.{a}.{b}.4:80"\n      weight: {w}\n\n',
    "    - address: 'unix:/run/\N{SNOWMAN}{a}.{b}'\n      tier: &t{a}x{b} 1\n",
    "    - {{address: [::1]:80}}\n".replace("[::1]:80", '"[fd00::{a}:{b}]:80"'),
    "    - address: host-{a}-{b}:${{PORT:-8080}}\n      max_sessions:\n        {w}\n",
)


def large(seed: int, size: int = 120_000) -> str:
    """Many upstreams, each written in one of the ways that there are; never two at one address."""
    rng = random.Random(seed)
    text = "listeners: {web: {bind: ':8080', pool: app}}\npools:\n  app:\n    upstreams:\n"
    number = 0
    while len(text) < size:
        number += 1
        form = rng.choice(FORMS)
        text += form.format(a=number >> 8, b=number & 255, w=rng.randrange(1, 9))
    return text


def test_both_parsers_make_the_same_tree_of_a_large_file(seed: int) -> None:
    text = large(seed)
    fast, problems = tree(text, syntax._FAST, {})
    assert (fast, problems) == tree(text, yaml.SafeLoader, {})
    assert problems == []


MISTAKES = {
    "alias": "    - *:8080\n",
    "list": "    - [::]:8080\n",
    "tab": "\t- 10.9.9.9:80\n",
    "tag": "    - !!str 10.9.9.9:80\n",
    "twice": "    - 10.0.1.1:80\n    - 10.0.1.1:80\n",
    "quote": '    - "10.9.9.9:80\n',
    "document": "---\na: b\n",
    "indent": "   - 10.9.9.9:80\n",
    "key": "    - {address: 10.9.9.9:80, wieght: 3}\n",
    "same key": "    - {address: 10.9.9.9:80, weight: 3, weight: 3}\n",
    "next line": "    - 10.9.9.9:80\x8510.9.9.9:80\n",
    "question": "    - {address: 10.9.9.9:8?0}\n",
    "mark": "    - [10.9.9.9:80, !, \ufeff]\n",
    "variable": "    - ${NOBODY_SET_IT}:80\n",
    "deep": "    - " + "[" * 40 + "]" * 40 + "\n",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_large_file_reads_the_same_whoever_parsed_it(
    mistake: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = large(seed) + MISTAKES[mistake]
    said = []
    for loader in (syntax._FAST, yaml.SafeLoader):
        monkeypatch.setattr(syntax, "_FAST", loader)
        with pytest.raises(ConfigError) as caught:
            loads(text, "app.yaml", {})
        said.append(str(caught.value))
    print(said[0])
    assert said[0] == said[1]
