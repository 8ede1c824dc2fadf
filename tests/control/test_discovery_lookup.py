"""control/discovery/lookup.py by a clock of the test's own: when it asks, and what it believes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from math import inf

from harness.health import run

from spliceproxy.config import Dns
from spliceproxy.control.discovery.lookup import DEFAULT_PACE, Lookup
from spliceproxy.control.discovery.resolver import Reply

FAILED = Reply(problem="SERVFAIL")
NOTHING = Reply()


def ips(*values: str, ttl: float = 60) -> Reply:
    return Reply(values, ttl)


def with_lookup(test: Callable[[Lookup, list[int]], None]) -> None:
    """Run a test with a lookup that asks nobody, and the news that it tells."""

    async def never() -> Sequence[Reply]:
        await asyncio.Event().wait()
        raise AssertionError

    async def main() -> None:
        news: list[int] = []
        lookup = Lookup("app.test", never, Dns(), DEFAULT_PACE, lambda: news.append(1))
        test(lookup, news)
        await lookup.close()

    run(main)


def test_failures_are_repeated_after_1_s_and_pauses_that_double_up_to_30_s() -> None:
    def test(lookup: Lookup, news: list[int]) -> None:
        assert lookup.take([ips("10.0.0.1"), NOTHING], 0) == 60
        pauses = [lookup.take([FAILED, FAILED], n) for n in range(8)]
        assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
        assert lookup.values() == ["10.0.0.1"]
        assert lookup.take([ips("10.0.0.1", ttl=5), NOTHING], 100) == 5
        assert lookup.take([FAILED, FAILED], 105) == 1
        assert len(news) == 1

    with_lookup(test)


def test_a_name_is_gone_when_that_was_repeated_for_30_s() -> None:
    def test(lookup: Lookup, news: list[int]) -> None:
        lookup.take([ips("10.0.0.1"), ips("2001:db8::1")], 0)
        now, pauses = 100.0, []
        while lookup.values():
            pauses.append(lookup.take([NOTHING, NOTHING], now))
            now += pauses[-1]
        assert pauses[:-1] == [1, 2, 4, 8, 15]
        assert sum(pauses[:-1]) == DEFAULT_PACE.hold
        assert len(news) == 2

    with_lookup(test)


def test_a_failure_in_between_does_not_make_it_sooner_and_an_answer_begins_anew() -> None:
    def test(lookup: Lookup, _news: list[int]) -> None:
        lookup.take([ips("10.0.0.1")], 0)
        lookup.take([NOTHING], 10)
        lookup.take([FAILED], 39)
        assert lookup.values() == ["10.0.0.1"]
        lookup.take([ips("10.0.0.1")], 39.5)
        lookup.take([NOTHING], 60)
        assert lookup.values() == ["10.0.0.1"]
        lookup.take([NOTHING], 89.9)
        assert lookup.values() == ["10.0.0.1"]
        lookup.take([NOTHING], 90)
        assert lookup.values() == []

    with_lookup(test)


def test_a_family_that_ends_is_held_while_the_other_is_followed() -> None:
    def test(lookup: Lookup, _news: list[int]) -> None:
        lookup.take([ips("10.0.0.1"), ips("2001:db8::1")], 0)
        assert lookup.take([ips("10.0.0.2"), NOTHING], 60) == 1
        assert lookup.values() == ["10.0.0.2", "2001:db8::1"]
        assert lookup.take([ips("10.0.0.2"), NOTHING], 90) == 60
        assert lookup.values() == ["10.0.0.2"]

    with_lookup(test)


def test_the_shortest_ttl_counts_and_the_hosts_file_has_none() -> None:
    def test(lookup: Lookup, _news: list[int]) -> None:
        assert lookup.take([ips("10.0.0.1", ttl=90), ips("2001:db8::1", ttl=30)], 0) == 30
        assert lookup.take([ips("10.0.0.1", ttl=9999)], 0) == 300  # max_ttl
        assert lookup.take([ips("10.0.0.1", ttl=0)], 0) == 1  # min_ttl
        assert lookup.take([ips("10.0.0.1", ttl=inf), ips("2001:db8::1", ttl=inf)], 0) == inf

    with_lookup(test)
