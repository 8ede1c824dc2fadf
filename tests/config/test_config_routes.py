"""Routes and accept_proxy as the rest of the program knows them, and what a reload says of them."""

from __future__ import annotations

from ipaddress import ip_network

from spliceproxy.config import Config, difference, loads

POOLS = "pools: {app: {upstreams: a:1}, canary: {upstreams: a:2}}\n"


def config(listener: str) -> Config:
    return loads(f'listeners: {{web: {{bind: ":1", {listener}}}}}\n{POOLS}', "app.yaml", {})


def changes(old: str, new: str) -> list[str]:
    return difference(config(old), config(new))


def test_one_route_and_one_value_stand_for_lists() -> None:
    listener = config("routes: {source: 10.0.0.1, sni: WWW.Example.com., pool: app}").listeners[
        "web"
    ]
    [route] = listener.routes
    assert route.source == (ip_network("10.0.0.1/32"),)
    assert route.sni == ("www.example.com",)
    assert (route.pool, listener.pool) == ((("app", 1),), None)


def test_shares_of_0_are_left_out() -> None:
    [route] = config("routes: {pool: {app: 5, canary: 0}}").listeners["web"].routes
    assert route.pool == (("app", 5),)


def test_hosts_may_be_addresses() -> None:
    hosts = '"[2001:DB8::1]", 10.0.0.1, "*.example.com"'
    [route] = config(f"routes: {{host: [{hosts}], pool: app}}").listeners["web"].routes
    assert route.host == ("2001:db8::1", "10.0.0.1", "*.example.com")


def test_preread_is_inherited_by_listeners() -> None:
    assert config("pool: app").listeners["web"].timeouts.preread == 10.0
    assert config("pool: app, timeouts: {preread: off}").listeners["web"].timeouts.preread is None


def test_a_reload_tells_of_routes_one_by_one() -> None:
    ssh, tls = "{protocol: ssh, pool: app}", "{sni: [a.org, b.org], pool: {app: 95, canary: 5}}"
    assert changes(f"pool: app, routes: [{ssh}]", f"pool: app, routes: [{tls}]") == [
        f"~ listener web: - route {ssh}",
        f"~ listener web: + route {tls}",
    ]
    assert changes(f"routes: [{ssh}, {tls}]", f"routes: [{tls}, {ssh}]") == [
        "~ listener web: routes: another order"
    ]
    assert changes(f"routes: [{ssh}]", f"pool: app, routes: [{ssh}]") == [
        "~ listener web: pool off → app"
    ]


def test_a_reload_tells_of_accept_proxy_by_its_keys() -> None:
    assert changes("pool: app", "pool: app, accept_proxy: {from: 10.0.0.0/8}") == [
        "~ listener web: accept_proxy.from off → [10.0.0.0/8]",
        "~ listener web: accept_proxy.others off → plain",
    ]
    assert changes(
        "pool: app, accept_proxy: {from: 10.0.0.0/8}",
        "pool: app, accept_proxy: {from: 10.0.0.0/9, others: refuse}, timeouts: {preread: 1s}",
    ) == [
        "~ listener web: accept_proxy.from [10.0.0.0/8] → [10.0.0.0/9]",
        "~ listener web: accept_proxy.others plain → refuse",
        "~ listener web: timeouts.preread 10s → 1s",
    ]
