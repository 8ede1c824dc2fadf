"""config/diff.py: what a reload tells of two configurations."""

from __future__ import annotations

import itertools

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


@pytest.mark.parametrize("where", ["health: ", "pools: {app: {upstreams: 127.0.0.1:1, health: "])
def test_what_health_checks_send_is_not_told(where: str) -> None:
    """The log, and all who read events, are told what a reload changes."""
    rest = "listeners: {web: {bind: ':1', pool: app}}\n"
    ends = "}}" if where.startswith("pools") else "\npools: {app: {upstreams: 127.0.0.1:1}}"
    checks = [
        "{check: exchange, send: secret-1}",
        "{check: exchange, send: secret-2}",
        '{check: http, path: "/healthz?key=secret-3"}',
        '{check: http, path: "/healthz?key=secret-4"}',
        "{check: tcp}",
    ]
    loaded = [config.loads(f"{rest}{where}{check}{ends}\n", "a.yaml") for check in checks]
    head = "~ pool app: " if where.startswith("pools") else "~ "
    told = [config.difference(*pair) for pair in itertools.pairwise(loaded)]
    assert told[0] == [f"{head}health.send *** → ***"]
    assert f"{head}health.send *** → off" in told[1]
    assert told[2] == [f"{head}health.path /healthz?*** → /healthz?***"]
    assert f"{head}health.path /healthz?*** → /" in told[3]
    assert "secret" not in str(told)


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
        (
            "pool: app}",
            "pool: app, bandwidth: {up: 1536KiB/s}}",
            "~ listener web: bandwidth.up off → 1536KiB/s",
        ),
        (
            "pool: app}",
            "pool: app, on_refuse: close}",
            "~ listener web: on_refuse reset → close",
        ),
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
        (
            "timeouts:",
            "admin: {bind: [auto, 127.0.0.1:9900]}\ntimeouts:",
            "~ admin.bind [auto] → [auto, 127.0.0.1:9900] (needs spliceproxy upgrade)",
        ),
        (
            "timeouts:",
            "admin: {tokens: {read: file:/read.token}}\ntimeouts:",
            "~ admin.tokens.read off → /read.token (needs spliceproxy upgrade)",
        ),
        (
            "timeouts:",
            "metrics: {bind: 0.0.0.0:9901}\ntimeouts:",
            "~ metrics.bind off → [0.0.0.0:9901] (needs spliceproxy upgrade)",
        ),
        (
            "timeouts:",
            "metrics: {upstreams: off}\ntimeouts:",
            "~ metrics.upstreams on → off (needs spliceproxy upgrade)",
        ),
        ("timeouts:", "metrics: off\ntimeouts:", ""),
        (
            "timeouts:",
            "dns: {servers: 10.0.0.53}\ntimeouts:",
            "~ dns.servers [system] → [10.0.0.53:53]",
        ),
        ("old: {", "old: {required: true, ", "~ pool old: required false → true"),
    ],
)
def test_each_change_is_one_line(before: str, after: str, line: str) -> None:
    assert changed((before, after)) == ([line] if line else [])


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


def with_access(*rules: str) -> str:
    return OLD.replace("pool: app}", f"pool: app, access: [{', '.join(rules)}]}}")


def access_changed(old: str, new: str) -> list[str]:
    return config.difference(config.loads(old, "a.yaml"), config.loads(new, "a.yaml"))


def test_rules_of_access_come_and_go_network_by_network() -> None:
    old = with_access("{allow: 10.1.0.0/16}", "{deny: [10.0.0.0/8, 192.0.2.7]}")
    new = with_access("{allow: 10.1.0.0/16}", "{deny: [192.0.2.7, file:/etc/bad.txt]}")
    assert access_changed(old, new) == [
        "~ listener web: - access deny 10.0.0.0/8",
        "~ listener web: + access deny file:/etc/bad.txt",
    ]


def test_rules_of_access_in_another_order_are_told_as_that() -> None:
    old = with_access("{allow: 10.1.0.0/16}", "{deny: 10.0.0.0/8}")
    new = with_access("{deny: 10.0.0.0/8}", "{allow: 10.1.0.0/16}")
    assert access_changed(old, new) == ["~ listener web: access: the rules have another order"]
    same = with_access("{allow: [10.1.0.0/16]}", "{deny: [10.0.0.0/8]}")
    assert access_changed(old, same) == []


def test_of_thousands_of_rules_the_first_are_told() -> None:
    many = ", ".join(f"10.0.{n // 256}.{n % 256}" for n in range(2000))
    lines = access_changed(OLD, with_access(f"{{deny: [{many}]}}"))
    assert len(lines) == 21
    assert lines[0] == "~ listener web: + access deny 10.0.0.0"
    assert lines[-1] == "~ listener web: access: and 1980 more networks"


def test_tls_is_told_by_its_keys_and_certificates_by_their_files() -> None:
    tls = "tls: {certificates: [/a.pem, {chain: /b.crt, key: /b.key}]}"
    old = OLD.replace("pool: app}", f"pool: app, {tls}}}").replace("9002, weight: 2}]", "9002}]")
    new = old.replace("/a.pem, ", "/certs/, ").replace("/b.key}]", "/b.key}], min_version: 1.3")
    new = new.replace(
        "127.0.0.1:22", "127.0.0.1:22, tls: {verify: off, name: a.b, certificate: /c}"
    )
    difference = config.difference(config.loads(old, "a.yaml"), config.loads(new, "a.yaml"))
    both = "{chain: /b.crt, key: /b.key}"
    assert difference == [
        f"~ listener web: tls.certificates [/a.pem, {both}] → [/certs, {both}]",
        "~ listener web: tls.min_version 1.2 → 1.3",
        "~ pool old: tls off → on",
        "~ pool old: tls.name off → a.b",
        "~ pool old: tls.certificate.chain off → /c",
    ]
    on, off = new.replace("name: a.b, certificate: /c", ""), new.replace("verify: off, ", "")
    lines = config.difference(config.loads(off, "a.yaml"), config.loads(on, "a.yaml"))
    assert lines == [
        "~ pool old: tls.name a.b → off",
        "~ pool old: tls.verify on → off",
        "~ pool old: tls.certificate.chain /c → off",
    ]
    plain = new.replace(", tls: {verify: off, name: a.b, certificate: /c}", "")
    lines = config.difference(config.loads(plain, "a.yaml"), config.loads(on, "a.yaml"))
    assert lines == ["~ pool old: tls off → on"]
