"""wire/networks.py: the first rule that fits, whatever the rules look like."""

from __future__ import annotations

import ipaddress
import random
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spliceproxy.wire.networks import NONE, IpNetwork, make_table

Rules = list[tuple[IpNetwork, int]]


def first_that_fits(rules: Rules, ip: str) -> int:
    """What the table must say, found by looking at every rule."""
    address = ipaddress.ip_address(ip)
    for network, answer in rules:
        if address.version == network.version and address in network:
            return answer
    return NONE


def v4_networks() -> st.SearchStrategy[IpNetwork]:
    """Networks that overlap often: few addresses, all lengths."""
    return st.builds(
        lambda number, length: ipaddress.ip_network((number << 24 | number, length), strict=False),
        st.integers(0, 7),
        st.integers(0, 32),
    )


def v6_networks() -> st.SearchStrategy[IpNetwork]:
    return st.builds(
        lambda number, length: ipaddress.ip_network((number << 120 | number, length), strict=False),
        st.integers(0x20, 0x27),
        st.integers(0, 128),
    )


@given(
    st.lists(st.tuples(st.one_of(v4_networks(), v6_networks()), st.integers(0, 3)), max_size=20),
    st.data(),
)
def test_the_first_rule_that_fits_is_found(rules: Rules, data: st.DataObject) -> None:
    table = make_table(rules)
    edges = ["0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]
    for network, _ in rules:
        for address in (network.network_address, network.broadcast_address):
            top = 2**32 if network.version == 4 else 2**128
            near = {(int(address) + step) % top for step in (-1, 0, 1)}
            kind: Callable[[int], Any] = (
                ipaddress.IPv4Address if network.version == 4 else ipaddress.IPv6Address
            )
            edges += [str(kind(number)) for number in near]
    edges.append(str(ipaddress.IPv4Address(data.draw(st.integers(0, 2**32 - 1)))))
    for ip in edges:
        if not ip.startswith("::ffff:"):
            assert table.find(ip) == first_that_fits(rules, ip), ip


@pytest.mark.parametrize(
    ("ip", "answer"),
    [
        ("192.0.2.7", 1),
        ("::ffff:192.0.2.7", 1),
        ("fe80::1%eth0", 2),
        ("fe80::1", 2),
        ("198.51.100.1", NONE),
        ("", NONE),
        ("unix", NONE),
    ],
)
def test_an_address_is_known_in_every_form(ip: str, answer: int) -> None:
    rules: Rules = [
        (ipaddress.ip_network("192.0.2.0/24"), 1),
        (ipaddress.ip_network("fe80::/10"), 2),
    ]
    assert make_table(rules).find(ip) == answer


def test_a_lookup_does_not_grow_with_the_rules() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    lots = random.Random(seed)

    def calls(size: int) -> int:
        rules: Rules = [
            (ipaddress.ip_network((lots.getrandbits(32), lots.randint(8, 32)), strict=False), 1)
            for _ in range(size)
        ]
        table = make_table(rules)
        count = 0

        def see(_frame: object, event: str, _argument: object) -> None:
            nonlocal count
            count += event in ("call", "c_call", "line")

        sys.setprofile(see)
        table.find("203.0.113.9")
        sys.setprofile(None)
        return count

    assert calls(10) == calls(20_000)
