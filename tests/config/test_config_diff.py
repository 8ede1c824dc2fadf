"""config/diff.py: what a reload tells of two configurations."""

from __future__ import annotations

import pytest

from spliceproxy import config

OLD = """
timeouts: {idle: 1h}
listeners:
  web: {bind: ":8080", pool: app}
  ssh: {bind: ":2222", pool: old}
pools:
  app:
    upstreams: [127.0.0.1:9001, {address: 127.0.0.1:9002, weight: 2}]
  old: {upstreams: 127.0.0.1:22}
"""


def changed(*edits: tuple[str, str]) -> list[str]:
    new = OLD
    for before, after in edits:
        assert before in new
        new = new.replace(before, after)
    return config.difference(config.loads(OLD, "a.yaml"), config.loads(new, "a.yaml"))


def test_the_same_configuration_differs_in_nothing() -> None:
    assert changed(("listeners:", "# a comment\nlisteners:")) == []


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ("weight: 2", "weight: 3", "~ pool app: upstream 127.0.0.1:9002: weight 2 → 3"),
        ("[127.0.0.1:9001, ", "[", "~ pool app: - upstream 127.0.0.1:9001"),
        (
            "[127.0.0.1:9001, ",
            "[127.0.0.1:9001, 127.0.0.1:9003, ",
            "~ pool app: + upstream 127.0.0.1:9003",
        ),
        (":8080", ":8081", "~ listener web: bind [:8080] → [:8081]"),
        ("pool: app}", "pool: app, max_sessions: 10}", "~ listener web: max_sessions off → 10"),
        ("pool: app}", "pool: old}", "~ listener web: pool app → old"),
        ("old: {", "old: {timeouts: {connect: 1s}, ", "~ pool old: timeouts.connect 5s → 1s"),
        ("old: {", "old: {send_proxy: v2, ", "~ pool old: send_proxy off → v2"),
        ("idle: 1h", "idle: 10m", "~ timeouts.idle 1h → 10m"),
        ("timeouts:", "log: {level: debug}\ntimeouts:", "~ log.level info → debug"),
        (
            "timeouts:",
            "relay: {pipe_size: 64KiB}\ntimeouts:",
            "~ relay.pipe_size 1MiB → 64KiB (needs spliceproxy upgrade)",
        ),
    ],
)
def test_each_change_is_one_line(before: str, after: str, line: str) -> None:
    assert changed((before, after)) == [line]


def test_listeners_and_pools_come_and_go() -> None:
    lines = changed(
        ('  ssh: {bind: ":2222", pool: old}', '  db: {bind: ":5432", pool: pg}'),
        ("  old: {upstreams: 127.0.0.1:22}", "  pg: {upstreams: 127.0.0.1:5433}"),
    )
    assert lines == ["- listener ssh", "+ listener db", "- pool old", "+ pool pg"]


def test_what_only_a_restart_can_change_is_named_and_stays() -> None:
    old = config.loads(OLD, "a.yaml")
    new = config.loads("workers: 3\nrelay: {mode: splice}\nlog: {level: debug}\n" + OLD, "a.yaml")
    assert config.needs_restart(old, new) == ["workers", "relay.mode"]
    lines = config.difference(old, new)
    assert "~ relay.mode adaptive → splice (needs spliceproxy upgrade)" in lines
    assert "~ log.level info → debug" in lines
    kept = config.keep_what_needs_a_restart(old, new)
    assert config.needs_restart(old, kept) == []
    assert kept.log.level == "debug"
