"""The counters and what else is known of this moment, as Prometheus and OpenMetrics text.

families.py says what is told. prometheus_client writes the text; its own counters, and its mode for
several processes, are not used: the workers count in shared memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client import ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from spliceproxy import __version__
from spliceproxy.telemetry import families
from spliceproxy.telemetry.counters import (
    ACTIVE,
    BUCKETS,
    COPIED_UP,
    RETRIES,
    TLS_FAILED,
    TLS_OK,
    upper_bounds,
)
from spliceproxy.telemetry.counts import Counts
from spliceproxy.telemetry.families import FAMILIES, Family
from spliceproxy.telemetry.moment import STATES, Moment

_BOUNDS: Final = upper_bounds()
_EVERY: Final = 2
"""Buckets of a cell's histogram that become one: four times as much instead of twice."""
_WAITS: Final = 22
"""Of the buckets of a wait: up to 134 seconds."""
_SERVICE_SPREADS: Final = (
    (families.CONNECT_SECONDS, "connect", 1e6, _WAITS),
    (families.FIRST_BYTE_SECONDS, "first_byte", 1e6, _WAITS),
    (families.DURATION_SECONDS, "duration", 1e6, BUCKETS),
    (families.QUEUE_SECONDS, "queue", 1e6, _WAITS),
    (families.SIZE_BYTES, "size", 1, BUCKETS),
)
"""Each with its name among the cell's histograms, how many of a cell's units are one of its own,
and the buckets that are told; above them is +Inf."""
_WAYS: Final = (("up", "copied"), ("down", "copied"), ("up", "spliced"), ("down", "spliced"))
"""Direction and path of the bytes in the slots from COPIED_UP on."""
_LISTENER_SPREADS: Final = ((families.TLS_SECONDS, "tls", 1e6, _WAITS),)

_WORKER_NUMBERS: Final = (
    (families.WORKER_CPU, "cpu_us", 1e6),
    (families.WORKER_BUSY, "busy_us", 1e6),
    (families.WORKER_LAG, "lag_us", 1e6),
    (families.WORKER_WAKES, "wakes", 1),
    (families.WORKER_EVENTS, "events", 1),
    (families.PIPES_LENT, "pipes_lent", 1),
    (families.PIPES_POOLED, "pipes_pooled", 1),
    (families.PIPES_MADE, "pipes_made", 1),
    (families.PIPES_REFUSED, "pipes_refused", 1),
    (families.ACCEPT_PAUSES, "accept_pauses", 1),
    (families.RECORDS, "records", 1),
    (families.RECORDS_DROPPED, "records_dropped", 1),
    (families.WORKER_DEATHS, "deaths", 1),
)
"""Each with its name among WORKER_SLOTS, and how many of its units are one of the family's."""


_PROCESS: Final = ProcessCollector(registry=None)
"""Memory, CPU time, fds and start of this process, under the names that all programs use."""


def exposition(moment: Moment, accept: str) -> tuple[bytes, str]:
    """The text for a client with this Accept header, and its content type."""
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is no number
        encode, content_type = choose_encoder("")
    return encode(_Exposed(moment)), content_type


class _Exposed(Collector):
    """What prometheus_client collects from: one moment, and this process itself."""

    def __init__(self, moment: Moment) -> None:
        self._moment = moment

    def collect(self) -> Iterator[Metric]:
        page, moment = _Page(), self._moment
        _put_traffic(page, moment)
        _put_listeners(page, moment)
        _put_pools(page, moment)
        _put_workers(page, moment)
        _put_process(page, moment)
        yield from page.families()
        yield from _PROCESS.collect()


class _Page:
    """What was put under each family."""

    def __init__(self) -> None:
        self.numbers: dict[Family, CounterMetricFamily | GaugeMetricFamily] = {}
        self.spreads: dict[Family, HistogramMetricFamily] = {}
        for family in FAMILIES:
            name, kind, labels, meaning = family
            if kind == "histogram":
                self.spreads[family] = HistogramMetricFamily(name, meaning, labels=labels)
            elif kind == "counter":
                self.numbers[family] = CounterMetricFamily(name, meaning, labels=labels)
            else:
                self.numbers[family] = GaugeMetricFamily(name, meaning, labels=labels)

    def families(self) -> Iterator[Metric]:
        """All of them, in their order."""
        return ({**self.numbers, **self.spreads}[family] for family in FAMILIES)

    def put(self, family: Family, value: float, *labels: str) -> None:
        """Tell a number. The same labels must not come twice."""
        self.numbers[family].add_metric(labels, value)

    def spread(
        self, spreads: Sequence[tuple[Family, str, float, int]], counts: Counts, *labels: str
    ) -> None:
        """Tell those of a cell's histograms in which something is."""
        for family, name, units, told in spreads:
            histogram = counts.histogram(name)
            if not histogram.count:
                continue
            below, buckets = 0, []
            for number, high in enumerate(_BOUNDS[:told]):
                below += histogram.buckets[number]
                if number % _EVERY == _EVERY - 1:
                    buckets.append((str(high / units), below))
            buckets.append(("+Inf", histogram.count))
            self.spreads[family].add_metric(labels, buckets, histogram.sum / units)


def _put_traffic(page: _Page, moment: Moment) -> None:
    """What moves between listeners and upstreams."""
    paths: defaultdict[tuple[str, str, str], Counts] = defaultdict(Counts)
    for key, counts in moment.ledger.edges.items():
        told = moment.told_as(key.pool, key.upstream)
        paths[key.listener, key.pool, told].add(counts)
    failures: defaultdict[tuple[str, str, str], int] = defaultdict(int)
    unconnected = dict(moment.sessions)
    for path, counts in paths.items():
        _put_bytes(page, counts, path)
        for why, number in counts.failures.items():
            failures[path[1], path[2], why] += number
        for end, number in counts.ends.items():
            page.put(families.SESSIONS_ENDED, number, *path, *end)
        if path[1]:
            active = counts[ACTIVE]
            page.put(families.SESSIONS, active, *path)
            unconnected[path[0]] = unconnected.get(path[0], 0) - active
    for listener, number in unconnected.items():
        # The two are not counted at the same moment.
        page.put(families.SESSIONS, max(0, number), listener, "", "")
    for labels, number in failures.items():
        page.put(families.CONNECT_FAILURES, number, *labels)
    for service, counts in moment.ledger.services.items():
        page.put(families.RETRIES, counts[RETRIES], *service)
        page.spread(_SERVICE_SPREADS, counts, *service)


def _put_bytes(page: _Page, counts: Counts, path: tuple[str, str, str]) -> None:
    moved = counts.slots(COPIED_UP, len(_WAYS))
    if not (path[1] or any(moved)):
        return  # they ended before they had a pool
    for way, number in zip(_WAYS, moved, strict=True):
        page.put(families.SESSION_BYTES, number, *path, *way)


def _put_listeners(page: _Page, moment: Moment) -> None:
    for listener, counts in moment.ledger.listeners.items():
        page.put(families.TLS_HANDSHAKES, counts[TLS_OK], listener, "ok")
        page.put(families.TLS_HANDSHAKES, counts[TLS_FAILED], listener, "failed")
        page.spread(_LISTENER_SPREADS, counts, listener)
    for listener, most in moment.max_sessions.items():
        page.put(families.MAX_SESSIONS, most, listener)
    for listener, file, end in moment.certificates:
        page.put(families.CERTIFICATE_END, end, listener, file)
    for listener, number in moment.broken_files.items():
        page.put(families.BROKEN_FILES, number, listener)


def _put_pools(page: _Page, moment: Moment) -> None:
    for one in moment.pools:
        page.put(families.WAITING, one.waiting, one.name)
        page.put(families.USABLE, one.usable, one.name)
        weights: defaultdict[str, int] = defaultdict(int)
        states: defaultdict[tuple[str, str], int] = defaultdict(int)
        for name, found, weight in one.upstreams:
            told = moment.told_as(one.name, name)
            weights[told] += weight
            for state in STATES:
                states[told, state] += state in found
        for told, weight in weights.items():
            page.put(families.UPSTREAM_WEIGHT, weight, one.name, told)
        for (told, state), number in states.items():
            page.put(families.UPSTREAM_STATE, number, one.name, told, state)


def _put_workers(page: _Page, moment: Moment) -> None:
    for index, (now, numbers) in enumerate(zip(moment.workers, moment.ledger.workers, strict=True)):
        worker = str(index)
        page.put(families.WORKER_UP, now.ready, worker)
        if now.memory is not None:
            page.put(families.WORKER_MEMORY, now.memory, worker)
        for family, name, units in _WORKER_NUMBERS:
            page.put(family, numbers[name] / units, worker)


def _put_process(page: _Page, moment: Moment) -> None:
    well, when = moment.reloaded
    page.put(families.RELOAD_OK, well)
    page.put(families.RELOAD_TIME, when)
    page.put(families.OLDER_SESSIONS, moment.older_sessions)
    page.put(families.BUILD, 1, __version__)
