"""What `explain` tells of each step: access, PROXY headers, routes, TLS, pools, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spliceproxy.admin.explain import explain
from spliceproxy.admin.questions import QuestionError, make_client
from spliceproxy.cli.explain_file import scene_of
from spliceproxy.control.draining import UnknownTargetError
from spliceproxy.errors import SpliceproxyError

YAML = """\
listeners:
  web:
    bind: ":443"
    max_sessions: 500
    tls: {{certificates: {home}/missing.pem}}
    access:
      - allow: 10.1.0.0/16
      - deny: [192.0.2.7, "file:{home}/blocked.txt"]
    limits:
      rate: {{per_second: 2000, burst: 4000}}
      handshakes: 500
      per_client: {{v4: /24, max_sessions: 100, rate: {{per_second: 20, burst: 50}}}}
    routes:
      - {{sni: "*.db.example.com", tls: passthrough, pool: secure}}
      - {{protocol: ssh, pool: secure}}
      - {{sni: www.example.com, alpn: h2, pool: {{app: 95, canary: 5}}}}
      - {{source: [192.0.2.8, 2001:db8::/32], pool: secure}}
    pool: app
  behind:
    bind: ":80"
    accept_proxy: {{from: 10.0.0.0/8, others: refuse}}
    routes: [{{host: "*.example.com", pool: app}}]
  open: {{bind: ":81", pool: app}}
pools:
  app:
    balance: least_sessions
    tls: {{ca: {home}/missing.pem}}
    upstreams: [10.0.0.1:80, {{address: 10.0.0.2:80, weight: 3}}, {{address: 10.9.0.1:80, tier: 1}}]
  canary: {{upstreams: 10.0.0.20:80}}
  secure: {{balance: source_hash, upstreams: [db.internal:443, "file:{home}/list.yaml"]}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "app.yaml"
    path.write_text(YAML.format(home=tmp_path))
    (tmp_path / "blocked.txt").write_text("198.51.100.0/24  # them\n203.0.113.9\n")
    (tmp_path / "list.yaml").write_text(
        "- {address: 10.0.2.1:443, weight: 4}\n- srv:_db._tcp.example.com\n"
    )
    return path


def told(file: Path, listener: str = "web", **client: Any) -> dict[str, Any]:
    return explain(scene_of(file), listener, make_client(**client))


@pytest.mark.parametrize(
    ("source", "answer", "rule", "line"),
    [
        ("10.1.2.3", "allow", 0, "allow 10.1.0.0/16"),
        ("192.0.2.7", "deny", 1, "deny 192.0.2.7"),
        ("198.51.100.77", "deny", 1, "deny file:{home}/blocked.txt"),
        ("203.0.113.9", "deny", 1, "deny file:{home}/blocked.txt"),
        ("10.2.2.3", "allow", None, None),
        ("::ffff:192.0.2.7", "deny", 1, "deny 192.0.2.7"),
        ("", "allow", None, None),
    ],
)
def test_the_access_rule_that_decides_is_named(
    source: str, answer: str, rule: int | None, line: str | None, file: Path
) -> None:
    said = told(file, source=source)
    expected = None if line is None else line.format(home=file.parent)
    assert said["access"] == {"answer": answer, "rule": rule, "line": expected, "rules": 2}
    assert (said["refused"] is not None) == (answer == "deny")
    if answer == "deny":
        assert said["refused"]["why"] == "access_denied"
        assert (said["routes"], said["pools"]) == ([], [])


def test_each_key_of_each_route_is_tried(file: Path) -> None:
    said = told(file, source="192.0.2.8", sni="WWW.Example.com.", alpn=["h2", "http/1.1"])
    assert said["client"]["sni"] == "www.example.com"
    assert [
        (one["name"], one["matches"], one["taken"], [(k["key"], k["matches"]) for k in one["keys"]])
        for one in said["routes"]
    ] == [
        ("routes[0]", False, False, [("sni", False)]),
        ("routes[1]", False, False, [("protocol", False)]),
        ("routes[2]", True, True, [("sni", True), ("alpn", True)]),
        ("routes[3]", True, False, [("source", True)]),
    ]
    assert said["routes"][3]["keys"][0]["wants"] == ["192.0.2.8", "2001:db8::/32"]
    assert said["route"] == "routes[2]"
    assert [(pool["pool"], pool["share"]) for pool in said["pools"]] == [
        ("app", 0.95),
        ("canary", 0.05),
    ]


def test_limits_are_lines(file: Path) -> None:
    assert told(file)["limits"] == [
        "2000 new sessions a second (burst 4000)",
        "500 TLS handshakes under way",
        "100 sessions for each client network (/24 of IPv4, /64 of IPv6)",
        "20 new sessions a second (burst 50) for each client network (/24 of IPv4, /64 of IPv6)",
    ]


@pytest.mark.parametrize(
    ("client", "tls"),
    [
        ({}, "ended"),
        ({"sni": "a.db.example.com"}, "passed"),
        ({"protocol": "ssh"}, "none"),
        ({"protocol": "http"}, "refused"),
    ],
)
def test_tls_ends_here_goes_on_or_is_missing(client: dict[str, Any], tls: str, file: Path) -> None:
    said = told(file, source="10.1.1.1", **client)
    assert said["tls"] == tls
    assert (said["refused"] is None) == (tls != "refused")
    if tls == "refused":
        assert said["refused"]["why"] == "tls_handshake"


def test_a_listener_without_tls_passes_it_on(file: Path) -> None:
    assert told(file, "open", sni="a.example.com")["tls"] == "passed"
    assert told(file, "open", protocol="ssh")["tls"] == "none"


def test_whom_the_proxy_in_front_announces_is_the_client(file: Path) -> None:
    said = told(file, "behind", source="192.0.2.1", peer="10.0.0.1", host="a.example.com:8080")
    assert said["proxy_header"] == "expected"
    assert said["client"]["source"] == "192.0.2.1"
    assert said["route"] == "routes[0]"
    said = told(file, "behind", source="10.1.1.1", host="a.example.com")
    assert (said["proxy_header"], said["refused"]) == ("expected", None)
    said = told(file, "behind", source="192.0.2.1", host="a.example.com")
    assert said["proxy_header"] == "none"
    assert said["refused"]["why"] == "access_denied"
    # Whom nobody believes speaks for himself.
    said = told(file, "open", source="10.0.0.1", peer="192.0.2.1")
    assert said["client"]["source"] == "192.0.2.1"


def test_who_matches_nothing_is_refused_where_there_is_no_pool_for_others(file: Path) -> None:
    said = told(file, "behind", source="10.0.0.1", protocol="ssh")
    assert said["refused"]["why"] == "no_route"
    assert said["refused"]["how"] == "reset"


def test_tiers_weights_and_what_needs_dns_are_told(file: Path) -> None:
    app, _canary = told(file, sni="www.example.com", alpn=["h2"])["pools"]
    assert app["tls"]
    assert [(one["name"], one["share"], one["why"]) for one in app["upstreams"]] == [
        ("10.0.0.1:80", 0.25, ""),
        ("10.0.0.2:80", 0.75, ""),
        ("10.9.0.1:80", 0.0, "tier 1: tier 0 comes first"),
    ]
    [secure] = told(file, source="192.0.2.8")["pools"]
    assert secure["unknown"] == [
        "db.internal:443 (needs DNS)",
        "srv:_db._tcp.example.com (needs DNS)",
    ]
    assert secure["upstream"] is None
    assert [(one["name"], one["weight"], one["share"]) for one in secure["upstreams"]] == [
        ("10.0.2.1:443", 4, None)
    ]


def test_a_list_that_cannot_be_read_is_told(file: Path) -> None:
    (file.parent / "list.yaml").write_text("- {adress: 10.0.2.1:443}\n")
    [secure] = told(file, source="192.0.2.8")["pools"]
    assert secure["unknown"][1] == f"file:{file.parent}/list.yaml (cannot be read)"


@pytest.mark.parametrize(
    ("client", "said"),
    [
        ({"source": "10.0.0"}, "source 10.0.0: it is no IP address"),
        ({"peer": "proxy"}, "peer proxy: it is no IP address"),
        ({"protocol": "smtp"}, "protocol smtp: write one of tls, http, ssh, postgres, unknown"),
        ({"protocol": "ssh", "sni": "a.b"}, "sni and alpn are words of TLS, and the client speaks"),
        ({"protocol": "tls", "host": "a.b"}, "host is a word of HTTP, and the client speaks tls"),
        ({"sni": "10.0.0.1"}, "sni 10.0.0.1: it is no host name"),
        ({"sni": "a b"}, "sni a b: it is no host name"),
        ({"host": "a b"}, "host a b: it is no host name"),
    ],
)
def test_a_client_that_cannot_be_is_an_error(client: dict[str, Any], said: str) -> None:
    with pytest.raises(QuestionError) as error:
        make_client(**client)
    assert str(error.value).startswith(said)


def test_a_listener_that_is_not_there_is_an_error(file: Path) -> None:
    with pytest.raises(UnknownTargetError) as error:
        told(file, "wen")
    assert str(error.value) == "there is no listener wen; did you mean web?"
    with pytest.raises(UnknownTargetError) as error:
        told(file, "x")
    assert str(error.value) == "there is no listener x; there are web, behind, open"


def test_a_missing_file_of_networks_is_an_error(file: Path) -> None:
    (file.parent / "blocked.txt").unlink()
    with pytest.raises(SpliceproxyError, match=r"blocked\.txt"):
        told(file)
