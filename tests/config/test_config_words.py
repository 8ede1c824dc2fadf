"""config/words.py: a configuration told in the language's own words, which can be read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from test_config_generated import Tree, configurations, outcome

from spliceproxy import config
from spliceproxy.config.words import MASK, in_words

EXAMPLES = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
HEAD = 'listeners: {web: {bind: ":8080", pool: app}}\n'


def again(told: dict[str, Any]) -> config.Config:
    """What is read from what was told, with something in the place of what was masked."""
    return config.loads(json.dumps(told).replace(MASK, "x"), "again", {})


def unlike(loaded: config.Config) -> list[str]:
    """What is another thing when it is told and read again: nothing but what is masked. Defaults of
    health checks are told with the pools that have them."""
    apart = ("health.send", "health.path", "~ health.")
    difference = config.difference(loaded, again(in_words(loaded)))
    return [line for line in difference if not any(word in line for word in apart)]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_told_so_that_it_means_the_same(path: Path) -> None:
    loaded = config.load(path, {})
    assert unlike(loaded) == []


@given(configurations())
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
def test_whatever_is_well_is_told_so_that_it_means_the_same(tree: dict[str, Tree]) -> None:
    loaded = outcome(json.dumps(tree, ensure_ascii=False))
    assume(isinstance(loaded, config.Config))
    assert isinstance(loaded, config.Config)
    assert unlike(loaded) == []


def told_of(pool: str) -> dict[str, Any]:
    text = f"{HEAD}pools: {{app: {{upstreams: 127.0.0.1:9001, {pool}}}}}\n"
    words: dict[str, Any] = in_words(config.loads(text, "a.yaml", {}))["pools"]["app"]
    return words


def test_values_are_told_as_people_write_them() -> None:
    told = told_of("timeouts: {idle: 90s, session: off}, panic: 30%, replay: 16KiB, required: true")
    assert (told["timeouts"]["idle"], told["timeouts"]["session"]) == ("90s", "off")
    assert (told["panic"], told["replay"], told["required"]) == ("30%", "16KiB", True)
    assert (told["queue"], told["tls"], told["retries"]) == ("off", "off", 2)


def test_what_health_checks_send_is_a_secret_and_so_is_a_query() -> None:
    told = told_of('health: {check: exchange, send: "AUTH secret", expect: OK}')
    assert (told["health"]["send"], told["health"]["expect"]) == (MASK, "OK")
    told = told_of("health: {check: http, path: '/health?key=secret'}")
    assert told["health"]["path"] == f"/health?{MASK}"
    assert told_of("health: {check: http, path: /health}")["health"]["path"] == "/health"


def test_of_tokens_only_their_files_are_told() -> None:
    text = (
        "admin: {bind: [auto, ':9900'], tokens: {read: file:/etc/read.token}}\n"
        f"metrics: {{upstreams: off}}\n{HEAD}pools: {{app: {{upstreams: a:1}}}}\n"
    )
    told = in_words(config.loads(text, "a.yaml", {}))
    assert told["admin"] == {
        "bind": ["auto", ":9900"],
        "tokens": {"read": "file:/etc/read.token", "write": "off"},
    }
    assert told["metrics"] == {"bind": "off", "upstreams": "off"}
