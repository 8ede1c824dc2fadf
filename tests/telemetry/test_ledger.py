"""telemetry/ledger.py: what several regions have, added up by whose it is, look after look."""

from __future__ import annotations

import mmap
import os
import random
import subprocess
import sys
from collections import Counter

import pytest

from spliceproxy.telemetry import counters
from spliceproxy.telemetry.counters import (
    ACTIVE,
    COPIED_UP,
    SEQUENCE,
    SLOTS,
    CellKey,
    End,
    Region,
    place,
    region_bytes,
)
from spliceproxy.telemetry.counts import Counts
from spliceproxy.telemetry.ledger import Ledger

DONE = End("client", "fin", "done")
IDLE = End("proxy", "reset", "idle_timeout")


def _memory() -> memoryview:
    return memoryview(bytearray(region_bytes())).cast("Q")


def _told(ledger: Ledger) -> list[dict[object, tuple[list[int], dict[End, int]]]]:
    groups = (ledger.listeners, ledger.pools, ledger.upstreams, ledger.services, ledger.edges)

    def values(counts: Counts) -> tuple[list[int], dict[End, int]]:
        return counts.values, {end: number for end, number in counts.ends.items() if number}

    return [{key: values(counts) for key, counts in group.items()} for group in groups]


def test_each_cell_is_part_of_the_total_of_its_listener_pool_and_upstream() -> None:
    regions = [_memory(), _memory()]
    for words in regions:
        region = Region(words)
        keys = [("web", "", "app", "a"), ("web", "routes[0]", "app", "a"), ("db", "", "app", "b")]
        for number, key in enumerate([*keys, ("web", "", "", ""), ("web", "", "app", "")]):
            region.slots[region.cell(*key).at + COPIED_UP] = 10**number
    ledger = Ledger.of(regions)
    found = [
        {key: counts[COPIED_UP] for key, counts in group.items()}
        for group in (ledger.listeners, ledger.pools, ledger.upstreams, ledger.services)
    ]
    assert ledger.total[COPIED_UP] == 22222
    assert found == [
        {"web": 22022, "db": 200},
        {"app": 20222},
        {("app", "a"): 22, ("app", "b"): 200},
        {("web", "app"): 20022, ("db", "app"): 200, ("web", ""): 2000},
    ]
    assert ledger.edges[CellKey("web", "routes[0]", "app", "a")][COPIED_UP] == 20


def test_many_looks_come_to_the_same_as_one(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "KEEP_DEPARTED", 5)
    chance = random.Random(seed)
    memories = [_memory(), _memory()]
    regions = [Region(words) for words in memories]
    ledger = Ledger(memories)
    ended: Counter[End] = Counter()
    for step in range(300):
        region, end = chance.choice(regions), chance.choice([DONE, IDLE])
        cell = region.cell(
            chance.choice(["web", "db"]), "", "app", f"10.0.0.{chance.randrange(30)}:80"
        )
        for slot in chance.sample(range(SLOTS), 5):
            if not counters.ENDS <= slot < counters.FAILURES:
                region.slots[cell.at + slot] += chance.randrange(2**40)
        region.slots[cell.at + ACTIVE] = 0
        region.slots[cell.at + region.end(*end)] += 1
        ended[end] += 1
        if chance.random() < 0.1:
            kept = {f"10.0.0.{chance.randrange(30)}:80" for _ in range(5)}
            region.keep(lambda key, kept=kept: key.upstream in kept)
        if chance.random() < 0.2 or step == 299:
            ledger.update()
            assert _told(ledger) == _told(Ledger.of(memories))
            assert ledger.total.ends == ended


def test_a_region_that_is_stuck_between_two_places_keeps_what_it_had() -> None:
    stuck, other = _memory(), _memory()
    regions = [Region(stuck), Region(other)]
    ledger = Ledger([stuck, other])
    for region in regions:
        region.slots[region.cell("web").at + COPIED_UP] = 1
    ledger.update()
    stuck[SEQUENCE] += 1  # its writer was killed here, or stopped
    for region in regions:
        region.slots[region.cell("web").at + COPIED_UP] = 5
    ledger.update()
    assert ledger.total[COPIED_UP] == 1 + 5
    Region(stuck)
    ledger.update()
    assert ledger.total[COPIED_UP] == 5 + 5


def test_gauges_that_fall_are_told_as_they_are() -> None:
    words = _memory()
    region = Region(words)
    cell = region.cell("web", "", "app", "a")
    ledger = Ledger([words])
    for active in (3, 1, 0):
        region.slots[cell.at + ACTIVE] = active
        ledger.update()
        assert ledger.upstreams["app", "a"][ACTIVE] == ledger.total[ACTIVE] == active


TURNS = """
import sys, mmap
from spliceproxy.telemetry.counters import *
words = memoryview(mmap.mmap(int(sys.argv[1]), region_bytes())).cast("Q")
at = Region(words).cell("web").at
for n in range(300_000):
    words[at + n % SLOTS] = 2**63 - 1 if n // SLOTS % 2 else 0
"""


def test_a_slot_that_is_written_while_the_cell_is_copied_is_never_torn() -> None:
    fd = os.memfd_create("region")
    os.ftruncate(fd, region_bytes())
    with mmap.mmap(fd, region_bytes()) as memory, memoryview(memory).cast("Q") as words:
        Region(words).cell("web")
        writer = subprocess.Popen([sys.executable, "-c", TURNS, str(fd)], pass_fds=[fd])
        copies, seen = 0, set()
        first = place(0)
        while writer.poll() is None:
            seen.update(memoryview(bytes(words[first : first + SLOTS])).cast("Q"))
            copies += 1
        assert writer.returncode == 0
    os.close(fd)
    assert copies > 1000
    assert seen == {0, 2**63 - 1}
