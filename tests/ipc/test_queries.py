"""ipc/queries.py: which sessions are meant."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from spliceproxy.ipc.queries import (
    DEEPEST,
    RECORD_LOOKS,
    Matcher,
    QueryError,
    SessionFilter,
    SessionQuery,
    decode_told,
    encode_lost,
    filter_of,
)

RECORD: dict[str, Any] = {
    "listener": "web",
    "route": "routes[1]",
    "pool": "app",
    "upstream": "10.0.0.1:80",
    "client": "192.0.2.7:4711",
    "phase": "relay",
    "why": "idle_timeout",
    "sni": "www.example.com",
    "duration_ms": 2500.0,
}


def means(where: dict[str, Any], **fields: Any) -> bool:
    return Matcher(filter_of(where), RECORD_LOOKS)({**RECORD, **fields})


@pytest.mark.parametrize("name", ["listener", "route", "pool", "upstream", "phase", "why", "sni"])
def test_a_word_means_those_that_have_it_and_no_others(name: str) -> None:
    assert means({name: RECORD[name]})
    assert not means({name: "done" if name == "why" else RECORD[name] + "x"})
    assert not means({name: RECORD[name]}, **{name: None})


def test_a_reason_that_there_is_not_is_an_error_with_the_nearest_one() -> None:
    with pytest.raises(QueryError, match=r"'idle_timout'; did you mean idle_timeout\?"):
        filter_of({"why": "idle_timout"})
    with pytest.raises(QueryError, match="'7'; there are access_denied, bad_proxy_header, "):
        filter_of({"why": "7"})


def test_all_that_is_said_must_hold() -> None:
    assert means({})
    assert means({"pool": "app", "why": "idle_timeout"})
    assert not means({"pool": "app", "why": "done"})


@pytest.mark.parametrize(
    ("client", "address", "meant"),
    [
        ("192.0.2.7", "192.0.2.7:4711", True),
        ("192.0.2.7:4711", "192.0.2.7:4711", True),
        ("192.0.2.7:471", "192.0.2.7:4711", False),
        ("192.0.2.0/24", "192.0.2.7:4711", True),
        ("192.0.2.9/24", "192.0.2.7:4711", True),
        ("192.0.3.0/24", "192.0.2.7:4711", False),
        ("192.0.2.0/24", "[::ffff:192.0.2.7]:4711", True),
        ("2001:db8::/32", "[2001:db8::1]:80", True),
        ("::1", "[::1]:80", True),
        ("[::1]:80", "[::1]:80", True),
        ("fe80::/10", "[fe80::1%2]:80", True),
        ("::/0", "192.0.2.7:4711", False),
        ("0.0.0.0/0", "unix:", False),
        ("unix:@x", "unix:@x", True),
        ("unix:@x", "unix:", False),
    ],
)
def test_clients_are_meant_by_address_by_network_or_with_their_port(
    client: str, address: str, meant: bool
) -> None:
    assert means({"client": client}, client=address) is meant


def test_ages_are_at_the_least() -> None:
    assert means({"min_age": 2.5})
    assert not means({"min_age": "2.6"})
    assert not means({"min_idle": 0.1}), "a session that ended was not idle then"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ({"colour": "red"}, "there is no filter colour"),
        ({"pool": 7}, "pool is a text"),
        ({"client": "10.0.0.300"}, "10.0.0.300 is no address"),
        ({"client": "app"}, "app is no address"),
        ({"min_age": "old"}, "min_age is a number of seconds"),
        ({"min_age": -1}, "min_age is a number of seconds, 0 or more"),
        ({"min_idle": "inf"}, "min_idle is a number of seconds, 0 or more"),
        ({"min_idle": "nan"}, "min_idle is a number of seconds, 0 or more"),
    ],
)
def test_what_makes_no_sense_is_told(words: dict[str, Any], problem: str) -> None:
    with pytest.raises(QueryError, match=problem):
        filter_of(words)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"sort": "size"}, "sort is one of age, idle"),
        ({"limit": 0}, "limit is from 1"),
        ({"limit": DEEPEST + 1}, "limit is from 1"),
        ({"offset": -1}, "offset is from 0 to 9900"),
        ({"offset": DEEPEST}, "offset is from 0 to 9900; name what you look for"),
    ],
)
def test_questions_that_make_no_sense_are_told(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(QueryError, match=problem):
        SessionQuery(**changes)


def test_a_question_is_the_same_behind_its_text() -> None:
    where = SessionFilter(pool="app", client="10.0.0.0/8", min_age=1.5)
    query = SessionQuery(where, ("0-eb810881-1", "1f-00000000-a"), "-rate", 10, 20)
    assert SessionQuery.decode(query.encode()) == query
    assert not where.empty
    assert dataclasses.replace(where, pool="", client="", min_age=0.0).empty


def test_records_and_losses_are_told_apart() -> None:
    assert decode_told(encode_lost(12)) == 12
    assert decode_told(b'{"session":"x"}\n') == b'{"session":"x"}\n'
