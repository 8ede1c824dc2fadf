"""What /metrics tells: names, labels, sums that are exact, and how many series there are."""

from __future__ import annotations

import random
import subprocess
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from harness.counted import CONFIG, DONE, A, B, CountedProxy, run
from harness.expositions import Exposed
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)

from spliceproxy import __version__
from spliceproxy.ipc import TlsPlan
from spliceproxy.telemetry import counters
from spliceproxy.telemetry.board import DOWN, DRAINING
from spliceproxy.telemetry.counters import ACTIVE, TLS_FAILED, TLS_OK, WORKER_SLOTS
from spliceproxy.telemetry.families import FAMILIES

DOC = Path(__file__).parents[2] / "docs" / "metrics.md"
ENDS = [DONE, ("proxy", "reset", "idle_timeout"), ("upstream", "reset", "upstream_reset")]


def exposed(proxy: CountedProxy) -> Exposed:
    """What a scrape tells a second later."""
    proxy.now += 1
    text, content_type = proxy.traffic.render("")
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    return Exposed(text)


def busy(proxy: CountedProxy) -> None:
    """Something of everything."""
    proxy.session(up=100, down=5000, spliced=200, connect=300, first_byte=900, duration=20_000)
    proxy.session(B, worker=1, end=ENDS[1], queue=5000, duration=2_000_000, size=10, retries=1)
    proxy.connect_failures(B, "connect_refused", 3)
    proxy.live("web", 4)
    region = proxy.regions[0]
    cell = region.cell("web").at
    region.slots[cell + TLS_OK] += 5
    region.slots[cell + TLS_FAILED] += 2
    for name, slot in WORKER_SLOTS.items():
        region.slots[slot] = 1_500_000 if name.endswith("_us") else 7


def test_the_docs_tell_of_every_family_and_every_family_is_told() -> None:
    rows = [
        f"| `{name}` | {kind} | {' '.join(f'`{label}`' for label in names)} | {meaning} |"
        for name, kind, names, meaning in FAMILIES
    ]
    told = [line for line in DOC.read_text().splitlines() if line.startswith("| `")]
    assert told == rows

    def test(proxy: CountedProxy) -> None:
        busy(proxy)
        found = {
            (family.name + "_total" * (family.type == "counter"), family.type, family.documentation)
            for family in exposed(proxy).families
            if not family.name.startswith("process_")
        }
        assert found == {(one.name, one.kind, one.meaning) for one in FAMILIES}

    run(test)


def test_samples_have_the_labels_that_the_docs_tell() -> None:
    wanted = {family.name: set(family.labels) for family in FAMILIES}

    def test(proxy: CountedProxy) -> None:
        busy(proxy)
        for sample in exposed(proxy).samples:
            name = sample.name
            for suffix in ("_bucket", "_count", "_sum"):
                if name.removesuffix(suffix) in wanted:
                    name = name.removesuffix(suffix)
            if not name.startswith("process_"):
                assert set(sample.labels) - {"le"} == wanted[name], sample

    run(test)


@pytest.mark.parametrize("upstream_labels", [True, False])
def test_sums_are_what_was_counted_and_nothing_is_told_twice(
    seed: int, upstream_labels: bool
) -> None:
    chance = random.Random(seed)

    def test(proxy: CountedProxy) -> None:
        totals: Counter[str] = Counter()
        for _ in range(200):
            up, down, spliced = (chance.randrange(10 ** chance.randrange(1, 12)) for _ in range(3))
            upstream, end = chance.choice([A, B, ""]), chance.choice(ENDS)
            listener, route = chance.choice(["web", "left"]), chance.choice(["", "routes[0]"])
            proxy.session(
                upstream,
                worker=chance.randrange(2),
                listener=listener,
                route=route,
                pool="app" if upstream else chance.choice(["", "app"]),
                end=end,
                up=up if upstream else 0,
                down=down if upstream else 0,
                spliced=spliced,
                size=up + down,
                duration=7,
            )
            if upstream:
                totals["up"] += up
                totals["down"] += down
                totals["spliced"] += min(spliced, up) + min(spliced, down)
            totals[end[2]] += 1
            totals[listener] += 1
        found = exposed(proxy)
        moved = found.by("spliceproxy_session_bytes_total", "direction")
        assert moved == {("up",): totals["up"], ("down",): totals["down"]}
        assert found.sum("spliceproxy_session_bytes_total", path="spliced") == totals["spliced"]
        ended = "spliceproxy_sessions_ended_total"
        assert found.sum(ended) == 200
        assert found.by(ended, "why") == {(end[2],): totals[end[2]] for end in ENDS}
        assert found.by(ended, "listener") == {(n,): totals[n] for n in ("web", "left")}
        assert found.sum("spliceproxy_session_duration_seconds_count") == 200
        assert found.sum("spliceproxy_session_duration_seconds_sum") == pytest.approx(200 * 7e-6)
        told = {(one.name, *sorted(one.labels.items())) for one in found.samples}
        assert len(told) == len(found.samples), "the same labels came twice"
        upstreams = {one.labels["upstream"] for one in found.samples if "upstream" in one.labels}
        assert upstreams == ({A, B, ""} if upstream_labels else {""})

    run(test, upstream_labels=upstream_labels)


@pytest.mark.parametrize("upstream_labels", [True, False])
def test_live_sessions_are_told_with_their_upstream_or_without_one(upstream_labels: bool) -> None:
    def test(proxy: CountedProxy) -> None:
        for upstream, number in ((A, 3), (B, 2)):
            region = proxy.regions[0]
            region.slots[region.cell("web", "", "app", upstream).at + ACTIVE] = number
        proxy.live("web", 9)
        live = exposed(proxy).by("spliceproxy_sessions", "pool", "upstream")
        with_upstream = {("app", A): 3, ("app", B): 2} if upstream_labels else {("app", ""): 5}
        assert live == {("", ""): 4, **with_upstream}

    run(test, upstream_labels=upstream_labels)


def test_sessions_of_a_listener_that_left_are_told_until_they_end() -> None:
    def test(proxy: CountedProxy) -> None:
        proxy.live("web", 2)
        exposed(proxy)
        proxy.apply({**CONFIG, "listeners": {"new": CONFIG["listeners"]["web"]}})
        assert exposed(proxy).by("spliceproxy_sessions", "listener") == {("web",): 2, ("new",): 0}

    run(test)


def test_states_weights_and_usable_upstreams_are_those_of_the_moment() -> None:
    def test(proxy: CountedProxy) -> None:
        proxy.states.mark(proxy.slot("app", A), DOWN, True)
        proxy.states.mark(proxy.slot("app", A), DRAINING, True)
        found = exposed(proxy)
        states = found.by("spliceproxy_upstream_state", "upstream", "state")
        assert {key for key, value in states.items() if value} == {
            (A, "down"),
            (A, "draining"),
            (B, "up"),
        }
        assert len(states) == 8
        assert found.by("spliceproxy_pool_usable_upstreams", "pool") == {("app",): 1}
        assert found.by("spliceproxy_upstream_weight", "upstream") == {(A,): 1, (B,): 1}

    run(test)


def test_units_are_seconds() -> None:
    def test(proxy: CountedProxy) -> None:
        busy(proxy)
        found = exposed(proxy)
        assert found.sum("spliceproxy_worker_cpu_seconds_total", worker="0") == 1.5
        assert found.sum("spliceproxy_worker_loop_lag_seconds") == 1.5
        assert found.sum("spliceproxy_queue_wait_seconds_sum") == 0.005

    run(test)


def test_buckets_have_all_that_is_not_above_their_bound() -> None:
    values = [100, 128, 129, 1000, 5_000_000, 500_000_000]

    def test(proxy: CountedProxy) -> None:
        for value in values:
            proxy.session(connect=value, duration=value, size=value)
        found = exposed(proxy)
        for name, unit in (("connect_seconds", 1e6), ("session_size_bytes", 1)):
            buckets = found.by(f"spliceproxy_{name}_bucket", "le")
            assert len(buckets) in (12, 17)
            for (bound,), number in buckets.items():
                assert number == sum(value <= float(bound) * unit for value in values), bound
            assert found.sum(f"spliceproxy_{name}_count") == len(values)
            assert found.sum(f"spliceproxy_{name}_sum") == pytest.approx(sum(values) / unit)

    run(test)


def test_certificates_reloads_and_older_sessions_are_told_of() -> None:
    def test(proxy: CountedProxy) -> None:
        proxy.certificates = [{"file": "www.pem", "not_after": "2027-02-01T00:00:00Z"}]
        proxy.broken_files = [{"file": "other.pem", "problem": "no key"}]
        proxy.reloaded = False, 1_790_000_000.5
        [web] = proxy.in_force.snapshot.listeners
        ended = replace(web, max_sessions=50, tls=TlsPlan(certificates=()))
        snapshot = replace(proxy.in_force.snapshot, listeners=(ended,))
        proxy.traffic.apply(replace(proxy.in_force, snapshot=snapshot))
        found = exposed(proxy)
        ends = found.by("spliceproxy_certificate_not_after_timestamp_seconds", "listener", "file")
        assert ends == {("web", "www.pem"): datetime(2027, 2, 1, tzinfo=UTC).timestamp()}
        assert found.by("spliceproxy_certificate_broken_files", "listener") == {("web",): 1}
        assert found.sum("spliceproxy_config_last_reload_successful") == 0
        when = found.sum("spliceproxy_config_last_reload_success_timestamp_seconds")
        assert when == 1_790_000_000.5
        assert found.sum("spliceproxy_older_sessions") == 5
        assert found.by("spliceproxy_listener_max_sessions", "listener") == {("web",): 50}
        assert found.by("spliceproxy_build_info", "version") == {(__version__,): 1}

    run(test)


def test_a_worker_that_is_away_is_told_of() -> None:
    def test(proxy: CountedProxy) -> None:
        proxy.seats[0].ready = False
        del proxy.seats[1]
        found = exposed(proxy)
        assert found.by("spliceproxy_worker_up", "worker") == {("0",): 0, ("1",): 0}
        memory = found.by("spliceproxy_worker_resident_memory_bytes", "worker")
        assert set(memory) == {("0",)}
        assert 2**20 < memory["0",] < 2**30

    run(test)


def test_ten_thousand_upstreams_are_not_ten_thousand_series() -> None:
    def test(proxy: CountedProxy) -> None:
        names = [f"10.0.{n >> 8}.{n & 255}:80" for n in range(10_000)]
        proxy.apply({**CONFIG, "pools": {"app": {"upstreams": names}}})
        proxy.session("", pool="")
        for name in names:
            proxy.session(name, up=1, connect=100, duration=100)
        found = exposed(proxy)
        assert found.sum("spliceproxy_sessions_ended_total") == 10_001
        assert found.sum("spliceproxy_session_bytes_total") == 10_000
        assert len(found.samples) < 15_000
        named = found.by("spliceproxy_sessions_ended_total", "upstream")
        # More of them than a region has cells are counted without their names.
        assert len(named) == 1002
        assert named["others",] + named["",] == 9001

    run(test, workers=1)


@pytest.mark.parametrize("upstream_labels", [True, False])
def test_nothing_that_is_told_of_a_pool_falls_when_upstreams_that_left_are_forgotten(
    upstream_labels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "KEEP_DEPARTED", 2)

    def test(proxy: CountedProxy) -> None:
        busy(proxy)
        names = [f"10.0.0.{number}:80" for number in range(9)]
        proxy.apply({**CONFIG, "pools": {"app": {"upstreams": [A, B, *names]}}})
        for number, name in enumerate(names):
            for worker in (0, 1)[: 1 + number % 2]:
                proxy.session(name, worker=worker, up=9, connect=300, duration=900, retries=1)
        exposed(proxy)
        proxy.apply()
        before = exposed(proxy)
        for _ in range(2):  # what was gathered is no departed upstream itself
            for region in proxy.regions:
                region.keep(lambda key: key.pool == "app" and key.upstream in ("", A, B))
        now = exposed(proxy)
        gone = {one.labels["upstream"] for one in before.samples if one.labels.get("upstream")} - {
            one.labels["upstream"] for one in now.samples if one.labels.get("upstream")
        }
        assert len(gone) == (6 if upstream_labels else 0)
        for name in {one.name for one in now.samples if one.labels.get("listener")}:
            labels = ("listener", "pool", "le", "direction", "path", "why", "reason", "worker")
            assert now.by(name, *labels) == before.by(name, *labels)

    run(test, upstream_labels=upstream_labels)


def test_open_metrics_is_told_to_who_asks_for_it() -> None:
    def test(proxy: CountedProxy) -> None:
        busy(proxy)
        text, content_type = proxy.traffic.render(
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3"
        )
        assert content_type.startswith("application/openmetrics-text; version=1.0.0")
        found = {family.name for family in openmetrics_families(text.decode())}
        assert {one.name.removesuffix("_total") for one in FAMILIES} <= found

    run(test)


@pytest.mark.parametrize("version", ["x", "1.x", "\xff", ";", "=", "", " 1.0.0 ", "-1", "1e400"])
@pytest.mark.parametrize("kind", ["application/openmetrics-text", "text/plain", "nothing"])
def test_who_asks_for_what_nobody_knows_is_told_the_same(kind: str, version: str) -> None:
    def test(proxy: CountedProxy) -> None:
        busy(proxy)
        proxy.now += 1
        text, _ = proxy.traffic.render(f"{kind};version={version}")
        assert b"spliceproxy_sessions_ended_total{" in text

    run(test)


def test_promtool_finds_nothing_to_criticise() -> None:
    def test(proxy: CountedProxy) -> None:
        busy(proxy)
        text = exposed(proxy).text
        told = subprocess.run(
            ["promtool", "check", "metrics"], input=text, capture_output=True, timeout=30
        )
        assert (told.returncode, told.stdout, told.stderr) == (0, b"", b"")

    run(test)
