"""Round robin as the upstreams see it: exact shares, spread smoothly, begun at a random place."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

from harness import upstreams
from harness.load import read_to_end
from harness.proxy import Proxy
from session_support import proxy_yaml, running_proxy


def visits(proxy: Proxy, number: int) -> list[str]:
    """The names of the upstreams that served so many sessions, one after another."""
    names = []
    for _ in range(number):
        with proxy.connect("web") as client:
            names.append(read_to_end(client).decode())
    return names


def test_each_upstream_gets_exactly_its_share_and_never_in_a_bunch() -> None:
    weights = {"a": 5, "b": 2, "c": 1, "d": 0}
    with ExitStack() as stack:
        served = {name: stack.enter_context(upstreams.named(name)) for name in weights}
        text = proxy_yaml(
            *({"address": served[name].address, "weight": w} for name, w in weights.items())
        )
        names = visits(stack.enter_context(running_proxy(text)), 80)
    assert Counter(names) == {"a": 50, "b": 20, "c": 10}
    for at in range(len(names) - 8):
        window = Counter(names[at : at + 8])
        for name, weight in weights.items():
            assert abs(window[name] - weight) <= 1, f"{window} in a row of eight"


def test_upstreams_of_equal_weight_take_turns() -> None:
    with ExitStack() as stack:
        three = [stack.enter_context(upstreams.named(name)).address for name in "abc"]
        names = visits(stack.enter_context(running_proxy(proxy_yaml(*three))), 30)
    assert all(set(names[at : at + 3]) == set("abc") for at in range(0, 30, 3))


def test_each_worker_begins_at_a_place_of_its_own() -> None:
    workers, size = 4, 64
    with ExitStack() as stack:
        addresses = [stack.enter_context(upstreams.named("x")).address for _ in range(size)]
        proxy = stack.enter_context(running_proxy(proxy_yaml(*addresses), workers=workers))
        first: dict[int, str] = {}
        number = 0
        while len(first) < workers:
            visits(proxy, 1)
            number += 1
            record = proxy.wait_records(number)[-1]
            first.setdefault(record["worker"], record["upstream"])
            assert number < 300, "some worker got no session"
    # All four at one place of sixty-four: once in 260,000 runs.
    assert len(set(first.values())) > 1, first
