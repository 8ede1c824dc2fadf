"""The Maglev table: the same everywhere, and hardly anything moves when somebody comes or goes."""

from __future__ import annotations

import hashlib
import random
from collections import Counter

import pytest

from spliceproxy.balance.maglev import TABLE_SIZE, SourceHash, build_table

SEED = random.randrange(2**32)
KEYS = [f"192.0.{n >> 8}.{n & 255}".encode() for n in range(20_000)]


def names(count: int) -> list[str]:
    return [f"10.0.{n >> 8}.{n & 255}:9000" for n in range(count)]


def test_the_size_is_a_prime() -> None:
    assert all(TABLE_SIZE % divisor for divisor in range(2, 257))


def test_the_table_is_the_same_on_every_machine_and_in_every_version() -> None:
    table = build_table(["10.0.0.1:80", "10.0.0.2:80", "[2001:db8::1]:80"], [1, 2, 3])
    # Another value here would send every client to another upstream.
    text = ",".join(map(str, table)).encode()
    assert hashlib.sha256(text).hexdigest()[:16] == "716107cfe35b6884"


def test_the_order_of_the_configuration_does_not_matter() -> None:
    known = names(20)
    weights = [1 + n % 3 for n in range(20)]
    order = list(range(20))
    random.Random(SEED).shuffle(order)
    table = build_table(known, weights)
    other = build_table([known[n] for n in order], [weights[n] for n in order])
    assert [known[index] for index in table] == [known[order[index]] for index in other]


@pytest.mark.parametrize("count", [2, 3, 10, 100])
def test_one_upstream_less_in_the_configuration_moves_little_more_than_its_share(
    count: int,
) -> None:
    before = SourceHash(build_table(names(count), [1] * count), [1] * count)
    fewer = count - 1
    after = SourceHash(build_table(names(fewer), [1] * fewer), [1] * fewer)
    moved = sum(before.choose((), key) != after.choose((), key) for key in KEYS) / len(KEYS)
    print(f"{count} upstreams: {moved:.2%} of the keys moved, 1/n is {1 / count:.2%}")
    assert moved <= 1 / count + 0.02


@pytest.mark.parametrize("count", [2, 3, 10, 100])
def test_one_that_is_down_moves_its_own_clients_alone_and_they_spread_and_come_back(
    count: int,
) -> None:
    policy = SourceHash(build_table(names(count), [1] * count), [1] * count)
    before = [policy.choose((), key) for key in KEYS]
    policy.set_weight(0, 0)
    down = [policy.choose((), key) for key in KEYS]
    moved = [(was, now) for was, now in zip(before, down, strict=True) if was != now]
    assert {was for was, _now in moved} == {0}
    assert len(moved) == before.count(0)
    heirs = Counter(now for _was, now in moved)
    assert len(heirs) >= min(count - 1, len(moved) // 3)
    assert max(heirs.values()) < 3 * len(moved) / (count - 1) + 12
    policy.set_weight(0, 1)
    assert [policy.choose((), key) for key in KEYS] == before
    assert [policy.choose({0}, key) for key in KEYS] == down


def test_nearly_all_down_still_gives_the_others_their_shares() -> None:
    count = 1000
    policy = SourceHash(build_table(names(count), [1] * count), [1] * count)
    for index in range(5, count):
        policy.set_weight(index, 0)
    chosen = Counter(policy.choose((), key) for key in KEYS)
    assert set(chosen) == set(range(5))
    assert min(chosen.values()) > 0.85 * len(KEYS) / 5


def test_ten_thousand_upstreams_all_have_places() -> None:
    table = build_table(names(10_000), [1] * 10_000)
    places = Counter(table)
    assert (len(table), len(places)) == (TABLE_SIZE, 10_000)
    assert set(places.values()) == {6, 7}


def test_a_weight_far_above_the_others_has_its_share_of_the_table() -> None:
    table = Counter(build_table(names(300), [256, *[1] * 298, 0]))
    assert table[0] / TABLE_SIZE == pytest.approx(256 / 554, rel=0.01)
    assert table[299] == 0
    assert min(table[index] for index in range(299)) >= TABLE_SIZE // 554 - 1
