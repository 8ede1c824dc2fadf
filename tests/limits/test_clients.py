"""limits/clients.py: counts of clients that several workers keep together."""

from __future__ import annotations

import mmap
import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spliceproxy.limits.clients import BYTES_PER_COLUMN, ROWS, Clients, Place, network_key
from spliceproxy.limits.window import Rate
from spliceproxy.telemetry.planes import Planes

KEY = b"a secret of 16 B"


def several(workers: int, size: int = 1 << 16, key: bytes = KEY) -> list[Clients]:
    """The counts of a listener, as each of its workers sees them."""
    planes = [memoryview(mmap.mmap(-1, size)) for _ in range(workers)]
    return [Clients(planes, index, key) for index in range(workers)]


@contextmanager
def on_planes(workers: int, key: bytes) -> Iterator[tuple[list[Clients], int]]:
    """The same on planes of the size that a board has, and how many bytes those are."""
    fd = os.memfd_create("planes")
    try:
        planes = Planes(fd, workers, 0)
        planes.make_room(1)
        views = planes.of(0)
        size = os.fstat(fd).st_size
        yield [Clients(views, index, key) for index in range(workers)], size
    finally:
        os.close(fd)


def take(clients: Clients, network: bytes) -> Place:
    cells = clients.cells(network)
    clients.enter(network, cells)
    return network, cells


def full(clients: Clients, network: bytes, most: int) -> bool:
    return clients.full(network, clients.cells(network), most)


def test_live_sessions_of_all_workers_count() -> None:
    one, two = several(2)
    places = [take(one, b"a"), take(one, b"a"), take(two, b"a")]
    for clients in (one, two):
        assert full(clients, b"a", 3)
        assert not full(clients, b"a", 4)
        assert not full(clients, b"b", 1)
    two.leave(places[2])
    assert not full(one, b"a", 3)
    one.leave(places[0])
    one.leave(places[1])
    assert not full(two, b"a", 1)


@given(st.integers(0, 2**32), st.integers(1, 4))
def test_whatever_comes_and_goes_nobody_is_undercounted_and_nothing_stays(
    seed: int, workers: int
) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    all_of_them = several(workers, size=BYTES_PER_COLUMN * 16)  # so few columns that many collide
    places: list[tuple[Clients, Place]] = []
    truth: Counter[bytes] = Counter()
    for _ in range(200):
        if places and chance.random() < 0.4:
            clients, place = places.pop(chance.randrange(len(places)))
            clients.leave(place)
            truth[place[0]] -= 1
        else:
            clients, network = chance.choice(all_of_them), b"%d" % chance.randrange(30)
            places.append((clients, take(clients, network)))
            truth[network] += 1
        network = b"%d" % chance.randrange(30)
        if truth[network]:
            assert full(chance.choice(all_of_them), network, truth[network])
    for clients, place in places:
        clients.leave(place)
    for clients in all_of_them:
        assert not any(full(clients, b"%d" % n, 1) for n in range(30))
        assert not any(clients._own_lives)
        assert not clients._live


@given(st.integers(0, 2**32), st.integers(1, 3))
def test_a_network_that_collides_is_never_let_in_too_often(seed: int, workers: int) -> None:
    print(f"seed {seed}")
    chance, rate, now = random.Random(seed), Rate(2, 6), 1000.0
    all_of_them = several(workers, size=BYTES_PER_COLUMN * 16)
    entered: dict[int, list[float]] = {}
    for _ in range(400):
        now += chance.random() * 0.05
        number, clients = chance.randrange(10), chance.choice(all_of_them)
        cells = clients.cells(b"%d" % number)
        if clients.may_come(cells, rate, now):
            clients.came(cells, rate, now)
            entered.setdefault(number, []).append(now)
    for times in entered.values():
        for first in range(len(times)):
            for last in range(first, len(times)):
                granted = rate.burst + rate.per_second * (times[last] - times[first]) + 1
                assert last - first + 1 <= granted + 1e-6


def test_another_rate_counts_anew() -> None:
    [clients] = several(1)
    cells, before, after = clients.cells(b"a"), Rate(10, 10), Rate(10, 7)
    for _ in range(10):
        clients.came(cells, before, 1000.3)
    assert not clients.may_come(cells, before, 1000.3)
    assert clients.may_come(cells, after, 1000.3)


def test_cells_depend_on_the_key() -> None:
    [one], [same], [other] = several(1), several(1), several(1, key=b"another")
    assert one.cells(b"a") == same.cells(b"a") != other.cells(b"a")
    assert len(set(one.cells(b"a"))) == ROWS


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 8, 9, 16, 64])
def test_at_100_000_clients_fewer_than_one_of_1_000_is_refused_for_others(workers: int) -> None:
    """The hardest case: one session each, and a limit of one."""
    seed = random.SystemRandom().randrange(1 << 30)
    count, asked, rate, chance = 100_000, 20_000, Rate(1, 1), random.Random(seed)
    with on_planes(workers, chance.randbytes(16)) as (all_of_them, size):
        for n in range(count):
            clients = all_of_them[n % workers]
            _, cells = take(clients, b"4" + n.to_bytes(4, "big"))
            clients.came(cells, rate, 0.0)
        refused = Counter({"client_limit": 0, "client_rate_limit": 0})
        for n in range(count, count + asked):
            clients, network = all_of_them[n % workers], b"4" + n.to_bytes(4, "big")
            cells = clients.cells(network)
            refused["client_limit"] += clients.full(network, cells, 1)
            refused["client_rate_limit"] += not clients.may_come(cells, rate, 0.0)
    print(f"seed {seed}, {workers} workers, {size >> 20} MiB, refused of {asked}: {dict(refused)}")
    assert max(refused.values()) < asked / 1000


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6), st.integers(1, 32), st.integers(1, 128))
def test_addresses_of_one_network_have_one_key(address: object, v4: int, v6: int) -> None:
    ip = ip_address(str(address))
    prefix = v4 if ip.version == 4 else v6
    network = ip_network(f"{ip}/{prefix}", strict=False)
    key = network_key(ip.packed, v4, v6)
    assert key == network_key(network[0].packed, v4, v6) == network_key(network[-1].packed, v4, v6)
    beyond = int(network[0]) ^ 1 << ip.max_prefixlen - prefix
    assert key != network_key(beyond.to_bytes(len(ip.packed), "big"), v4, v6)


def test_a_network_of_ipv4_is_none_of_ipv6() -> None:
    four, six = ip_address("32.1.13.184"), ip_address("2001:db8::")
    assert network_key(four.packed, 32, 32) != network_key(six.packed, 32, 32)
