"""telemetry/counters.py and counts.py: cells in shared memory, written by one, read by another."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spliceproxy.telemetry import counters
from spliceproxy.telemetry.counters import (
    ACTIVE,
    COPIED_UP,
    FAILURES,
    PIPES_LENT,
    RECORDS,
    RECORDS_DROPPED,
    RECORDS_WRITTEN,
    RETRIES,
    CellKey,
    End,
    Region,
    bucket,
    region_bytes,
    upper_bounds,
)
from spliceproxy.telemetry.ledger import Ledger

DONE = ("client", "fin", "done")


def _memory() -> memoryview:
    return memoryview(bytearray(region_bytes())).cast("Q")


def _sum(words: memoryview, slot: int) -> int:
    return sum(counts[slot] for counts in Ledger.of([words]).edges.values())


def test_a_reader_finds_what_was_counted_under_the_names_of_the_cell() -> None:
    words = _memory()
    region = Region(words)
    cell = region.cell("web", "routes[0]", "app", "10.0.0.1:80")
    region.slots[cell.at + COPIED_UP] += 5
    region.slots[cell.at + region.end(*DONE)] += 2
    region.slots[cell.at + FAILURES + 1] += 1
    region.slots[region.cell("web").at + RETRIES] += 7
    found = Ledger.of([words]).edges
    counts = found[CellKey("web", "routes[0]", "app", "10.0.0.1:80")]
    assert counts[COPIED_UP] == 5
    assert counts.ends == {End(*DONE): 2}
    assert counts.ended == 2
    assert counts.failures == {"connect_timeout": 1}
    assert found[CellKey("web")][RETRIES] == 7
    assert len(found) == 2


def test_the_worker_after_a_dead_one_goes_on_with_the_same_cells() -> None:
    words = _memory()
    first = Region(words)
    first.slots[first.cell("web", "", "app", "ü:1").at + COPIED_UP] += 1
    first.slots[first.cell("web").at + first.end("client", "reset", "client_reset")] += 1
    second = Region(words)
    second.slots[second.cell("web", "", "app", "ü:1").at + COPIED_UP] += 1
    second.slots[second.cell("web").at + second.end(*DONE)] += 1
    second.slots[second.cell("web").at + second.end("client", "reset", "client_reset")] += 1
    found = Ledger.of([words]).edges
    assert found[CellKey("web", "", "app", "ü:1")][COPIED_UP] == 2
    assert found[CellKey("web")].ends == {
        End("client", "reset", "client_reset"): 2,
        End(*DONE): 1,
    }


def test_what_a_dead_worker_had_open_has_ended_and_its_lost_records_are_counted() -> None:
    words = _memory()
    region = Region(words)
    connected = region.cell("web", "", "app", "10.0.0.1:80")
    region.slots[connected.at + ACTIVE] = 3
    region.slots[connected.at + region.end(*DONE)] = 4
    region.slots[PIPES_LENT] = 9
    region.slots[RECORDS] = 100
    region.slots[RECORDS_WRITTEN] = 90
    region.slots[RECORDS_DROPPED] = 4
    lost = Region(words).bury({"web": 5, "db": 1, "idle": 0})
    read = Ledger.of([words])
    death = counters.DEATH
    assert lost == 6
    assert read.edges[CellKey("web", "", "app", "10.0.0.1:80")].ends == {death: 3, End(*DONE): 4}
    assert read.edges[CellKey("web")].ends == {death: 2}
    assert read.edges[CellKey("db")].ends == {death: 1}
    assert CellKey("idle") not in read.edges
    assert _sum(words, ACTIVE) == 0
    assert read.workers[0]["pipes_lent"] == 0
    assert read.workers[0]["records_dropped"] == 10
    assert read.workers[0]["deaths"] == 1


def test_cells_of_workers_add_up() -> None:
    regions = [_memory(), _memory()]
    for number, words in enumerate(regions, 1):
        region = Region(words)
        region.slots[region.cell("web").at + COPIED_UP] = number
        if number == 2:  # kinds have numbers of their own in each region
            region.end("proxy", "reset", "idle_timeout")
        region.slots[region.cell("web").at + region.end(*DONE)] = number
    total = Ledger.of(regions).edges
    assert total[CellKey("web")][COPIED_UP] == 3
    assert total[CellKey("web")].ends == {End(*DONE): 3}


def test_departed_cells_keep_their_place_until_there_are_too_many_and_no_count_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(counters, "KEEP_DEPARTED", 2)
    words = _memory()
    region = Region(words)
    names = [f"10.0.0.{n}:80" for n in range(6)]
    for name in names:
        cell = region.cell("web", "routes[1]", "app", name)
        region.slots[cell.at + COPIED_UP] += 1
        region.slots[cell.at + region.end(*DONE)] += 1
    region.slots[region.cell("web", "routes[1]", "app", names[0]).at + ACTIVE] = 1
    kept_cell = region.cell("web", "routes[1]", "app", names[1])
    region.keep(lambda key: key.upstream in ("", names[5]))
    others = CellKey("web", "", "app", "others")
    assert kept_cell.at == region.cell(*others).at, "who has a cell counts on where it went"
    left = set(Ledger.of([words]).edges)
    # The first one has a session still, so the next three gave up their places.
    kept = [names[0], names[4], names[5]]
    assert left == {others} | {CellKey("web", "routes[1]", "app", n) for n in kept}
    assert _sum(words, COPIED_UP) == 6
    assert Ledger.of([words]).edges[others].ends == {End(*DONE): 3}
    used = words[counters.USED]
    region.slots[region.cell("web", "", "app", "10.0.0.9:80").at + COPIED_UP] += 1
    assert words[counters.USED] == used, "a place that was given up is taken again"
    assert _sum(words, COPIED_UP) == 7
    region.slots[region.cell("web", "routes[1]", "app", names[0]).at + ACTIVE] = 0
    region.keep(lambda key: not key.pool)  # the pool left too
    left = set(Ledger.of([words]).edges)
    assert CellKey("web") in left
    assert _sum(words, COPIED_UP) == 7


def test_a_full_region_counts_the_rest_with_the_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "MAX_CELLS", 4)
    monkeypatch.setattr(counters, "RESERVED", 2)
    words = _memory()
    region = Region(words)
    for name in "ab":
        region.cell("web", "", "app", name)
    coarse = region.cell("web", "", "app", "c")
    assert coarse is region.cell("web")
    assert region.cell("db", "", "app", "c") is region.cell("db") is not coarse
    assert region.cell("third", "", "app", "a").at == region.cell("web", "", "app", "a").at
    assert Region(words).cell("web", "", "app", "d").at == coarse.at


def test_more_kinds_of_ends_than_places_are_counted_together() -> None:
    words = _memory()
    region = Region(words)
    cell = region.cell("web")
    for number in range(100):
        region.slots[cell.at + region.end("proxy", "reset", f"w{number}")] += 1
    ends = Ledger.of([words]).edges[CellKey("web")].ends
    assert sum(ends.values()) == 100
    assert ends[counters.OTHER_END] == 37


@given(st.integers(min_value=0, max_value=2**63))
def test_a_value_is_in_the_bucket_whose_bounds_hold_it(value: int) -> None:
    bounds = upper_bounds()
    number = bucket(value)
    assert number == len(bounds) or value <= bounds[number]
    assert number == 0 or value > bounds[number - 1]


def test_a_region_whose_writer_died_while_cells_changed_places_can_be_read_again() -> None:
    words = _memory()
    Region(words).cell("web")
    words[counters.SEQUENCE] += 1
    Region(words)
    assert set(Ledger.of([words]).edges) == {CellKey("web")}


TORTURE = """
import sys, mmap
from spliceproxy.telemetry import counters
from spliceproxy.telemetry.counters import *
counters.KEEP_DEPARTED = 3
words = memoryview(mmap.mmap(int(sys.argv[1]), region_bytes())).cast("Q")
region = Region(words)
for n in range(4000):
    cell = region.cell("web", "", "app", str(n % 40))
    region.slots[cell.at + COPIED_UP] += 1
    if n % 8 == 0:
        region.keep(lambda key: False)
"""


def test_a_reader_beside_a_writer_never_sees_a_count_twice_or_not_at_all() -> None:
    fd = os.memfd_create("region")
    os.ftruncate(fd, region_bytes())
    import mmap

    with mmap.mmap(fd, region_bytes()) as memory, memoryview(memory).cast("Q") as words:
        writer = subprocess.Popen([sys.executable, "-c", TORTURE, str(fd)], pass_fds=[fd])
        ledger = Ledger([words])
        last = reads = 0
        while writer.poll() is None:
            ledger.update()
            now = sum(counts[COPIED_UP] for counts in ledger.edges.values())
            assert last <= now <= 4000
            assert now == ledger.total[COPIED_UP] == ledger.listeners["web"][COPIED_UP]
            last, reads = now, reads + 1
        assert writer.returncode == 0
        assert reads > 10
        assert _sum(words, COPIED_UP) == 4000
    os.close(fd)


def test_who_keeps_a_cell_counts_on_where_it_went_however_often_that_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(counters, "KEEP_DEPARTED", 0)
    words = _memory()
    region = Region(words)
    kept_cell = region.cell("web", "", "app", "10.0.0.1:80")
    region.keep(lambda key: key.pool == "app" and not key.upstream)
    assert kept_cell.at == region.cell("web", "", "app", "others").at
    region.keep(lambda key: not key.pool)
    assert kept_cell.at == region.cell("web").at
