"""Routes as pure decisions: order, names, what has to be known, and the price of many."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from ipaddress import ip_network

import pytest

from spliceproxy.ipc import RoutePlan
from spliceproxy.wire.networks import NONE, NetworkTable, make_table
from spliceproxy.worker.router import BYTES, NO_ROUTE, Facts, Router

SEED = random.randrange(2**32)
POOLS = (("app", 1),)


def networks(*texts: str) -> NetworkTable:
    return make_table((ip_network(text), 0) for text in texts)


def route(**keys: object) -> RoutePlan:
    return RoutePlan("r", POOLS, **keys)  # type: ignore[arg-type]


def tls(sni: str | None = None, *alpn: bytes, ip: str = "192.0.2.1") -> Facts:
    facts = Facts(ip)
    facts.protocol, facts.sni, facts.alpn = "tls", sni, alpn
    return facts


def http(host: str | None) -> Facts:
    facts = Facts("192.0.2.1")
    facts.protocol, facts.host = "http", host
    return facts


def test_the_first_route_that_matches_wins_whatever_leads_to_it() -> None:
    router = Router(
        [
            route(sni=("*.example.com",)),
            route(sni=("www.example.com",)),
            route(protocol=("tls",)),
            route(sni=("late.org",)),
        ]
    )
    assert router.choose(tls("www.example.com")) == 0
    assert router.choose(tls("late.org")) == 2
    assert router.choose(http("www.example.com")) == NO_ROUTE


def test_a_star_stands_for_one_label_and_more_but_not_for_none() -> None:
    router = Router([route(sni=("*.example.com",)), route(host=("*.example.com",))])
    assert router.choose(tls("a.example.com")) == 0
    assert router.choose(tls("a.b.example.com")) == 0
    assert router.choose(http("a.b.example.com")) == 1
    for name in ("example.com", "badexample.com", "a.example.com.org", None):
        assert router.choose(tls(name)) == NO_ROUTE
        assert router.choose(http(name)) == NO_ROUTE


def test_all_keys_of_a_route_must_match() -> None:
    router = Router([route(source=networks("10.0.0.0/8"), sni=("a.org",), alpn=(b"h2", b"h3"))])
    assert router.choose(tls("a.org", b"x", b"h2", ip="10.1.1.1")) == 0
    assert router.choose(tls("a.org", b"h2")) == NO_ROUTE
    assert router.choose(tls("a.org", b"x", ip="10.1.1.1")) == NO_ROUTE
    assert router.choose(tls("b.org", b"h2", ip="10.1.1.1")) == NO_ROUTE


def test_bytes_are_wanted_only_where_an_earlier_route_may_need_them() -> None:
    router = Router(
        [
            route(source=networks("10.0.0.0/8")),
            route(source=networks("172.16.0.0/12"), protocol=("ssh",)),
            route(source=networks("192.0.2.0/24", "172.16.0.0/12")),
        ]
    )
    assert router.before_bytes("10.1.1.1") == 0
    assert router.before_bytes("172.16.1.1") == BYTES
    assert router.before_bytes("192.0.2.1") == 2
    assert router.before_bytes("::1") == router.before_bytes("") == NO_ROUTE
    assert Router([route()], hello=True).before_bytes("10.1.1.1") == BYTES


def test_who_says_nothing_takes_a_route_that_needs_no_bytes() -> None:
    router = Router([route(protocol=("ssh",)), route(sni=("a.org",)), route()])
    assert router.choose(Facts("192.0.2.1")) == 2


def plain_choice(routes: Sequence[RoutePlan], facts: Facts) -> int:
    """The same, one route after the other."""

    def named(patterns: Sequence[str], name: str | None) -> bool:
        return name is not None and any(
            name.endswith(one[1:]) if one[0] == "*" else name == one for one in patterns
        )

    for number, one in enumerate(routes):
        if (
            (one.source is None or one.source.find(facts.ip) != NONE)
            and (not one.protocol or facts.protocol in one.protocol)
            and (not one.sni or named(one.sni, facts.sni))
            and (not one.alpn or set(one.alpn) & set(facts.alpn))
            and (not one.host or named(one.host, facts.host))
        ):
            return number
    return NO_ROUTE


def test_the_index_decides_as_one_look_after_the_other_would() -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    names = ["a.org", "b.org", "x.a.org", "y.x.a.org"]
    patterns = [*names, *(f"*.{name}" for name in names)]

    def some(values: Sequence[object]) -> tuple[object, ...]:
        return tuple(rng.sample(list(values), rng.randrange(3)))

    for _ in range(300):
        routes = [
            route(
                source=rng.choice([None, None, networks("10.0.0.0/8")]),
                protocol=some(["tls", "http", "ssh"]),
                sni=some(patterns),
                alpn=some([b"h2", b"h3"]),
                host=some(patterns),
            )
            for _ in range(rng.randrange(8))
        ]
        router = Router(routes)
        for _ in range(50):
            facts = Facts(rng.choice(["10.0.0.1", "192.0.2.1", ""]))
            facts.protocol = rng.choice(["tls", "http", "ssh", "unknown", None])
            if facts.protocol == "tls":
                facts.sni = rng.choice([None, *names])
                facts.alpn = rng.choice([(), (b"h2",), (b"x", b"h3")])
            if facts.protocol == "http":
                facts.host = rng.choice([None, *names])
            assert router.choose(facts) == plain_choice(routes, facts)


@pytest.mark.alone
def test_thousands_of_names_cost_no_more_than_a_few() -> None:
    def seconds(count: int) -> float:
        router = Router([route(sni=(f"n{n}.example.com",)) for n in range(count)])
        facts = tls(f"n{count - 1}.example.com")
        best = 1.0
        for _ in range(20):
            began = time.perf_counter()
            for _ in range(100):
                assert router.choose(facts) == count - 1
            best = min(best, time.perf_counter() - began)
        return best

    assert seconds(20_000) < 5 * seconds(10)


def test_postgresql_is_asked_for_its_name_only_where_its_route_depends_on_it() -> None:
    near = networks("10.0.0.0/8")
    plain, named = route(protocol=("postgres",)), route(protocol=("postgres",), sni=("a.org",))
    for routes, asked in (
        ([named], True),
        ([plain, named], False),
        ([named, plain], True),
        ([route(protocol=("ssh", "postgres"), alpn=(b"x",)), plain], True),
        ([route(sni=("a.org",)), plain], False),
        ([route(sni=("a.org",)), route(alpn=(b"x",))], False),
        ([route(protocol=("tls",), sni=("a.org",)), plain], False),
        ([route(host=("a.org",)), named], True),
        ([route(source=near, protocol=("postgres",)), named], True),
        ([route(source=near), named], True),
        ([route(source=near, protocol=("postgres",), sni=("a.org",)), plain], False),
        ([route(), named], False),
        ([], False),
    ):
        assert Router(routes).negotiates("192.0.2.1") == asked, routes
    assert Router([route(source=near, sni=("a.org",), protocol=("postgres",))]).negotiates(
        "10.0.0.1"
    )
    assert Router([plain], hello=True).negotiates("192.0.2.1")
