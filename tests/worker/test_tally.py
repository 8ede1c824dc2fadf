"""worker/tally.py: what a reader sees between any two of its writes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from harness.expositions import Exposed

from spliceproxy.telemetry.counters import Region, region_bytes
from spliceproxy.telemetry.ledger import Ledger
from spliceproxy.telemetry.moment import Moment
from spliceproxy.telemetry.prometheus import exposition
from spliceproxy.worker.tally import Tally


class Looked:
    """A region's memory, at which a scraper looks after each write."""

    def __init__(self) -> None:
        self.words = memoryview(bytearray(region_bytes())).cast("Q")
        self.scrapes = [_scrape(Ledger.of([self.words]))]

    def __getitem__(self, index: Any) -> Any:
        return self.words[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self.words[index] = value
        self.scrapes.append(_scrape(Ledger.of([self.words])))


def _scrape(ledger: Ledger) -> dict[tuple[str, ...], float]:
    """All counters and histograms, by their names and labels."""
    moment = Moment(
        ledger=ledger,
        sessions={},
        max_sessions={},
        older_sessions=0,
        pools=[],
        workers=[],
        certificates=[],
        broken_files={},
        reloaded=(True, 0.0),
        told_as=lambda _pool, upstream: upstream,
    )
    ledger.workers = []
    text, _ = exposition(moment, "")
    return {
        (sample.name, *(text for label in sorted(sample.labels.items()) for text in label)): (
            sample.value
        )
        for family in Exposed(text).families
        if family.type in ("counter", "histogram") and not family.name.startswith("process_")
        for sample in family.samples
    }


def _session(relay: object, retries: int = 0) -> Any:
    return SimpleNamespace(
        listener=SimpleNamespace(name="web"),
        known=None,
        preread=None,
        pool=SimpleNamespace(name="app"),
        upstream=None,
        cell=None,
        counted=None,
        replays=False,
        retries=retries,
        wait=SimpleNamespace(seconds=0.5),
        started=0.0,
        connect_ms=1.5,
        relay=relay,
    )


def test_no_number_ever_goes_back_whenever_somebody_looks() -> None:
    """To Prometheus a counter that goes back has begun anew: all of it would have come just now."""
    words = Looked()
    loop: Any = SimpleNamespace(now=1.0, clock=lambda: 0.0)
    tally = Tally(Region(cast(memoryview, words)), loop)
    for spliced in (0, 700, 1000):
        up, down = (
            SimpleNamespace(moved=1000, spliced=spliced, touched=loop.now) for _ in range(2)
        )
        session = _session(SimpleNamespace(up=up, down=down, first_byte_at=loop.now), retries=1)
        upstream: Any = SimpleNamespace(name="10.0.0.1:80", cell=None, counted_for=None)
        tally.on_connected(session, upstream)
        for _ in range(2):
            loop.now += 1.0
            tally.begin_round([session])
            for flow in (up, down):
                flow.moved, flow.spliced, flow.touched = flow.moved * 2, flow.spliced * 2, loop.now
        tally.on_end(session, "client", "fin", "done")
    assert len(words.scrapes) > 50
    for before, now in zip(words.scrapes, words.scrapes[1:], strict=False):
        assert {key: before[key] for key in before if now.get(key, -1.0) < before[key]} == {}
    moved = [key for key in now if key[0] == "spliceproxy_session_bytes_total"]
    assert sum(now[key] for key in moved) == 3 * 2 * 4000
