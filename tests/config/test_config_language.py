"""What a good configuration means: values, units, addresses, variables, inheritance, includes."""

from __future__ import annotations

import pickle
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from spliceproxy.config import (
    Address,
    Config,
    ConfigError,
    Keepalive,
    load,
    loads,
    parse_address,
    parse_bind,
    size_text,
    time_text,
    units,
)
from spliceproxy.config.address import overlap

GOOD = 'listeners: {web: {bind: ":8080", pool: app}}\npools: {app: {upstreams: 127.0.0.1:9001}}\n'


def good(text: str, **env: str) -> Config:
    return loads(text, "app.yaml", env)


def test_the_smallest_file_has_all_defaults() -> None:
    config = good(GOOD)
    assert (config.workers, config.max_sessions, config.relay.max_pipes) == (None, None, None)
    assert (config.relay.mode, config.relay.pipe_size) == ("adaptive", 1024 * 1024)
    assert config.timeouts.model_dump() == {
        "preread": 10.0,
        "handshake": 10.0,
        "connect": 5.0,
        "idle": 3600.0,
        "half_close": 300.0,
        "session": None,
        "drain": 30.0,
    }
    assert config.log.sessions.model_dump() == {"keep": "all", "sample": 1.0, "to": "stdout"}
    web, app = config.listeners["web"], config.pools["app"]
    assert (web.name, web.bind, web.pool) == ("web", (Address(port=8080),), "app")
    assert (web.max_sessions, web.tcp.backlog, web.tcp.defer_accept) == (None, 4096, None)
    assert (app.name, app.balance, app.retries) == ("app", "round_robin", 2)
    assert [(str(each.address), each.weight) for each in app.upstreams] == [("127.0.0.1:9001", 1)]
    assert web.tcp.keepalive == Keepalive()
    assert Keepalive().model_dump() == {"idle": 60.0, "interval": 10.0, "count": 3}


def test_the_model_is_frozen_and_can_be_pickled() -> None:
    config = good(GOOD)
    with pytest.raises(ValidationError):
        config.workers = 2
    again = pickle.loads(pickle.dumps(config))
    assert again == config
    assert again.pools["app"].name == "app"


def test_what_a_listener_and_a_pool_do_not_say_is_inherited_key_by_key() -> None:
    config = good("""\
log: {sessions: {keep: errors, sample: 50%}}
timeouts: {connect: 1s, idle: off, drain: 1s}
tcp:
  nodelay: false
  keepalive: {idle: 30s, count: 9}
  buffers: {receive: 64KiB}
listeners:
  web: {bind: ":1", pool: app, tcp: {backlog: 7, keepalive: {count: 5}}, log: {keep: all}}
  api: {bind: ":2", pool: app, tcp: {nodelay: true, keepalive: off}}
pools:
  app: {upstreams: a:1, timeouts: {idle: 2m}, tcp: {buffers: {send: 1MiB}}}
""")
    web, api, app = config.listeners["web"], config.listeners["api"], config.pools["app"]
    assert (web.tcp.nodelay, web.tcp.backlog, web.tcp.buffers.receive) == (False, 7, 65536)
    assert web.tcp.keepalive == Keepalive.model_construct(idle=30.0, interval=10.0, count=5)
    assert (web.log.keep, web.log.sample) == ("all", 0.5)
    assert (api.tcp.nodelay, api.tcp.keepalive) == (True, None)
    assert (api.log.keep, api.log.sample) == ("errors", 0.5)
    assert (app.timeouts.connect, app.timeouts.idle, app.timeouts.half_close) == (1.0, 120.0, 300.0)
    assert (app.tcp.buffers.receive, app.tcp.buffers.send) == (65536, 1024 * 1024)
    assert app.tcp.nodelay is False


def test_keepalive_given_where_it_is_off_above_has_the_defaults_for_the_rest() -> None:
    config = good(
        "tcp: {keepalive: off}\n" + GOOD.replace("app}}", "app, tcp: {keepalive: {idle: 5s}}}}", 1)
    )
    assert config.tcp.keepalive is None
    assert config.pools["app"].tcp.keepalive is None
    expected = Keepalive.model_construct(idle=5.0, interval=10.0, count=3)
    assert config.listeners["web"].tcp.keepalive == expected


def test_max_sessions_is_not_inherited() -> None:
    config = good("max_sessions: 10\n" + GOOD)
    assert config.max_sessions == 10
    assert config.listeners["web"].max_sessions is None


def test_yaml_types_do_not_reach_the_user() -> None:
    config = good(
        """\
timeouts: {session: off, idle: "off"}
listeners: {on: {bind: 22:22, pool: 1e3}, "2001-01-01": {bind: ":8", pool: null}}
pools: {1e3: {upstreams: "010:80"}, null: {upstreams: yes:80}}
""".replace('"010:80"', "x010:80").replace("22:22", "h22:22")
    )
    assert config.timeouts.session is None
    assert config.timeouts.idle is None
    assert list(config.listeners) == ["on", "2001-01-01"]
    assert config.listeners["on"].pool == "1e3"
    assert str(config.pools["null"].upstreams[0].address) == "yes:80"


def test_one_value_may_stand_for_a_list_and_a_text_for_an_upstream() -> None:
    one = good(GOOD)
    many = good(
        GOOD.replace('":8080"', '[":8080"]').replace(
            "127.0.0.1:9001", "[{address: 127.0.0.1:9001}]"
        )
    )
    single = good(GOOD.replace("127.0.0.1:9001", "{address: 127.0.0.1:9001}"))
    assert one == many == single


def test_options_that_only_one_side_has() -> None:
    config = good("""\
workers: 3
relay: {mode: splice, pipe_size: 64KiB, max_pipes: 12}
log: {level: debug, format: json, sessions: {to: file:/tmp/x.log, keep: off, sample: 0.25}}
listeners:
  web: {bind: ":1", pool: app, tcp: {defer_accept: 3s, interface: eth0, mark: 0x1F}}
  api: {bind: ":2", pool: app, tcp: {user_timeout: 1.5s}}
pools:
  app: {upstreams: a:1, retries: 0, tcp: {source: [10.0.0.5, "::1"], mark: 31}}
""")
    tcp = config.listeners["web"].tcp
    assert (tcp.defer_accept, tcp.interface, tcp.mark) == (3.0, "eth0", 31)
    assert config.listeners["api"].tcp.user_timeout == 1.5
    assert config.pools["app"].tcp.source == (ip_address("10.0.0.5"), ip_address("::1"))
    assert config.pools["app"].tcp.mark == 31
    assert config.log.sessions.to == "file:/tmp/x.log"
    assert config.log.sessions.keep == "off"
    assert (config.workers, config.relay.max_pipes) == (3, 12)


def test_drain_may_be_nothing_or_without_limit() -> None:
    assert good("timeouts: {drain: 0s}\n" + GOOD).timeouts.drain == 0.0
    assert good("timeouts: {drain: off}\n" + GOOD).timeouts.drain is None


@given(st.integers(1, 3650 * 86_400_000).map(lambda milliseconds: milliseconds / 1000))
def test_a_time_survives_the_way_to_text_and_back(seconds: float) -> None:
    assert units.time(time_text(seconds)) == pytest.approx(seconds, rel=1e-12)


@given(st.integers(1, 1024**3))
def test_a_size_survives_the_way_to_text_and_back(size: int) -> None:
    assert units.size(size_text(size), 1, 1024**3) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("1ms", 0.001),
        ("5s", 5),
        ("1.5s", 1.5),
        ("10m", 600),
        ("1h", 3600),
        ("2d", 172800),
    ],
)
def test_times(text: str, seconds: float) -> None:
    assert units.time(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "5 s", "-5s", "1e3s", "5S", "٣s", "inf", "9" * 400 + "s"]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="; write"):
        units.time(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("[::1]:80", "[::1]:80"),
        ("[0:0:0:0:0:0:0:1]:80", "[::1]:80"),
        ("[fe80::1%eth0]:80", "[fe80::1%eth0]:80"),
        (":80", ":80"),
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("App_1.Example.com:80", "app_1.example.com:80"),
        ("unix:/run/x.sock", "unix:/run/x.sock"),
        ("unix:@x", "unix:@x"),
    ],
)
def test_an_address_has_one_canonical_text_that_reads_back(text: str, canonical: str) -> None:
    address = parse_bind(text)
    assert str(address) == canonical
    assert parse_bind(canonical) == address


@pytest.mark.parametrize(
    "text", ["", ":", "a:", ":80", "a:0", "a:65536", "-a:80", "a..b:80", "a b:80"]
)
def test_what_is_no_address_of_an_upstream(text: str) -> None:
    with pytest.raises(ValueError, match="; write"):
        parse_address(text)


def test_the_longest_unix_path_is_107_bytes() -> None:
    parse_address("unix:/" + "x" * 106)
    with pytest.raises(ValueError, match="108 bytes"):
        parse_address("unix:/" + "é" * 53 + "x")


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (":80", "127.0.0.1:80", True),
        (":80", "[::1]:80", True),
        (":80", ":81", False),
        ("0.0.0.0:80", "127.0.0.1:80", True),
        ("0.0.0.0:80", "[::]:80", False),
        ("[::]:80", "127.0.0.1:80", False),
        ("127.0.0.1:80", "127.0.0.2:80", False),
        ("localhost:80", "localhost:80", True),
        ("localhost:80", "127.0.0.1:80", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("unix:/a", "unix:/a", True),
        ("unix:/a", "unix:@a", False),
    ],
)
def test_which_addresses_overlap(one: str, other: str, expected: bool) -> None:
    assert overlap(parse_bind(one), parse_bind(other)) is expected
    assert overlap(parse_bind(other), parse_bind(one)) is expected


def test_the_same_address_on_different_interfaces_does_not_overlap() -> None:
    text = """\
listeners:
  a: {bind: ":80", pool: app, tcp: {interface: eth0}}
  b: {bind: ":80", pool: app, tcp: {interface: eth1}}
pools: {app: {upstreams: a:1}}
"""
    assert len(good(text).listeners) == 2
    with pytest.raises(ConfigError, match="bound twice"):
        good(text.replace("eth1", "off"))


def test_variables_are_expanded_in_values_after_parsing() -> None:
    text = """\
listeners: {web: {bind: "${HOST:-127.0.0.1}:${PORT}", pool: app}}
pools: {app: {upstreams: "unix:/tmp/$${X}/${EMPTY:-e}"}}
"""
    config = good(text, PORT="8080", EMPTY="", X="no")
    assert str(config.listeners["web"].bind[0]) == "127.0.0.1:8080"
    assert str(config.pools["app"].upstreams[0].address) == "unix:/tmp/${X}/e"


def test_a_variable_cannot_change_the_structure() -> None:
    with pytest.raises(ConfigError) as caught:
        good(GOOD.replace("pool: app", 'pool: "${P}"'), P="app\nworkers: 9")
    assert "there is no pool" in str(caught.value)


def test_anchors_and_aliases_share_values() -> None:
    config = good("""\
listeners: {web: {bind: ":80", pool: a}}
pools:
  a: {upstreams: &all [a:1, a:2], timeouts: &t {idle: 5s}}
  b: {upstreams: *all, timeouts: *t}
""")
    assert config.pools["a"].upstreams == config.pools["b"].upstreams
    assert config.pools["b"].timeouts.idle == 5.0


def test_included_files_add_listeners_and_pools_and_other_keys(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "app.yaml").write_text("include: [conf.d/*.yaml, one.yaml, '*.yaml']\n" + GOOD)
    (tmp_path / "one.yaml").write_text("workers: 2\n")
    (tmp_path / "conf.d" / "b.yaml").write_text("pools: {b: {upstreams: b:1}}\n")
    (tmp_path / "conf.d" / "a.yaml").write_text("listeners: {a: {bind: ':1', pool: b}}\n")
    (tmp_path / "conf.d" / "empty.yaml").write_text("# nothing\n")
    (tmp_path / "conf.d" / ".#hidden.yaml").write_text("not: a: configuration\n")
    config = load(tmp_path / "app.yaml", {})
    assert (list(config.listeners), list(config.pools)) == (["web", "a"], ["app", "b"])
    assert config.workers == 2


def test_all_files_problems_are_told_at_once_in_the_order_of_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("app.yaml").write_text("include: [b.yaml, a.yaml]\nworkers: x\n" + GOOD)
    Path("a.yaml").write_text("workers: 1\n")
    Path("b.yaml").write_text("pools: {app: {upstreams: b:1}, c: {upstreams: c}}\n")
    with pytest.raises(ConfigError) as caught:
        load(Path("app.yaml"), {})
    wheres = [str(problem.where) for problem in caught.value.problems]
    assert wheres == ["app.yaml:2:10", "b.yaml:1:9", "b.yaml:1:47", "a.yaml:1:1"]
    assert "defined twice, first in app.yaml:4; remove one of them" in str(caught.value)


def test_a_text_in_memory_includes_relative_to_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("more.yaml").write_text("workers: 5\n")
    assert good("include: more.yaml\n" + GOOD).workers == 5
