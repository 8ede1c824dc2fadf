"""The alert rules, the dashboard and the scrape configuration in deploy/: whole, and true to what
the proxy tells."""

from __future__ import annotations

import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness.promql import (
    ALERTS,
    DASHBOARD,
    DEPLOY,
    alerts,
    dashboard,
    grouped_by,
    panels,
    selectors,
)

from spliceproxy.telemetry.families import FAMILIES
from spliceproxy.telemetry.moment import STATES
from spliceproxy.telemetry.record import CLOSED_BY, NORMAL_ENDS, WHYS

TESTS = ALERTS.with_name("alerts_test.yaml")
PROCESS = {
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
}
TARGET = {"job", "instance"}
"""Labels that Prometheus itself gives to what it scrapes."""
VALUES = {
    "why": WHYS,
    "closed_by": CLOSED_BY,
    "state": set(STATES),
    "direction": {"up", "down"},
    "path": {"spliced", "copied"},
    "result": {"ok", "failed"},
}
"""Of labels that have a closed list of them."""

QUERIES = [
    *(pytest.param(rule["expr"], "", id=rule["alert"]) for rule in alerts()),
    *(pytest.param(query, legend, id=title) for title, query, legend in panels()),
]


def promtool(*arguments: object) -> str:
    """What promtool says; it must be content."""
    program = shutil.which("promtool", path="/usr/local/bin:/usr/bin:/bin")
    if program is None:
        pytest.skip("promtool is not installed")
    command = [program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def labels_of(name: str) -> set[str]:
    """The labels of a series."""
    if name == "up" or name in PROCESS:
        return TARGET
    for family in FAMILIES:
        if name == family.name and family.kind != "histogram":
            return TARGET | set(family.labels)
        suffix = name.removeprefix(family.name)
        if family.kind == "histogram" and suffix in ("_bucket", "_sum", "_count"):
            return TARGET | set(family.labels) | ({"le"} if suffix == "_bucket" else set())
    raise AssertionError(f"the proxy tells of no {name}")


@pytest.mark.parametrize(("query", "legend"), QUERIES)
def test_queries_ask_only_for_what_the_proxy_tells(query: str, legend: str) -> None:
    found = list(selectors(query))
    assert found
    for name, labels in found:
        for label, value in labels:
            assert label in labels_of(name), f"{name} has no label {label}"
            if label in VALUES:
                for word in value.split("|"):
                    met = [one for one in VALUES[label] if re.fullmatch(word, one)]
                    assert met, f"{label} is never {word}"
    known = set().union(*(labels_of(name) for name, _ in found))
    assert grouped_by(query) <= known
    assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= known


def test_ends_that_are_no_errors_are_those_of_the_session_record() -> None:
    [excluded] = {word for _, query, _ in panels() for word in re.findall(r'why!~"([^"]*)"', query)}
    assert set(excluded.split("|")) == NORMAL_ENDS


def test_the_dashboard_and_the_alerts_mean_the_same_by_a_session_that_fails() -> None:
    [shown] = [query for title, query, _ in panels() if title == "Sessions that fail"]
    [told] = [rule["expr"] for rule in alerts() if rule["alert"] == "SpliceproxySessionsFail"]
    failing = re.compile(r'why=~"([^"]*)"')
    assert failing.findall(shown) == failing.findall(told)


def test_the_rules_are_well_formed_and_do_what_their_tests_say() -> None:
    promtool("check", "rules", ALERTS)
    promtool("test", "rules", TESTS)


def test_each_alert_is_seen_to_fire_and_not_to_fire() -> None:
    cases: dict[str, list[Any]] = {}
    for test in yaml.safe_load(TESTS.read_text())["tests"]:
        for case in test["alert_rule_test"]:
            cases.setdefault(case["alertname"], []).append(case["exp_alerts"])
    assert set(cases) == {rule["alert"] for rule in alerts()}
    for name, expected in cases.items():
        assert [] in expected, name
        assert any(expected), name


def test_a_broken_rule_is_found_by_the_tests(tmp_path: Path) -> None:
    (tmp_path / TESTS.name).write_text(TESTS.read_text())
    broken = ALERTS.read_text().replace("spliceproxy_worker_up == 0", "spliceproxy_worker_up == 1")
    (tmp_path / ALERTS.name).write_text(broken)
    with pytest.raises(AssertionError, match="FAILED"):
        promtool("test", "rules", tmp_path / TESTS.name)


def test_the_scrape_configuration_is_well_formed_and_has_the_job_of_the_alerts() -> None:
    path = DEPLOY / "prometheus" / "prometheus.yaml"
    promtool("check", "config", path)
    [job] = yaml.safe_load(path.read_text())["scrape_configs"]
    assert f'up{{job="{job["job_name"]}"}}' in ALERTS.read_text()


def test_the_queries_of_the_dashboard_are_well_formed(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel_{number}", "expr": query}
        for number, (_, query, _) in enumerate(panels())
    ]
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", path)


def test_the_dashboard_takes_any_data_source_and_no_panel_lies_on_another() -> None:
    found = dashboard()
    sources = re.findall(r'"uid": "([^"]*)"', DASHBOARD.read_text())
    assert set(sources) == {"spliceproxy", "${datasource}"}
    assert found["templating"]["list"][0]["type"] == "datasource"
    ids = [panel["id"] for panel in found["panels"]]
    assert len(ids) == len(set(ids))
    cells = [(panel["title"], panel["gridPos"]) for panel in found["panels"]]
    assert all(place["x"] + place["w"] <= 24 for _, place in cells)
    for (one, a), (other, b) in combinations(cells, 2):
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, f"{one} and {other}"


def test_the_dashboard_shows_every_family() -> None:
    shown = {name for _, query, _ in panels() for name, _ in selectors(query)}
    shown |= {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    assert {family.name for family in FAMILIES} <= shown
