"""The queries in deploy/: those of the alert rules and of the dashboard."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
DASHBOARD = DEPLOY / "grafana" / "spliceproxy.json"

_FILLED_IN = {
    "$__rate_interval": "1m",
    "$__range": "5m",
    "$job": ".*",
    "$instance": ".*",
    "$listener": ".*",
    "$pool": ".*",
}
_SELECTOR = re.compile(r"\b([a-zA-Z_]+)\{([^}]*)\}")
_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"([^\"]*)\"")
_GROUPS = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")


def alerts() -> list[dict[str, Any]]:
    """The alert rules."""
    rules: list[dict[str, Any]] = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    return rules


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def panels() -> Iterator[tuple[str, str, str]]:
    """The title of each panel with each of its queries, as Prometheus is sent them, and how what
    is found is called."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], filled_in(target["expr"]), target["legendFormat"]


def filled_in(query: str) -> str:
    """A query with values for Grafana's variables."""
    for name, value in _FILLED_IN.items():
        query = query.replace(name, value)
    return query


def selectors(query: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Each series that a query names, with the labels that it asks for and their values."""
    for name, labels in _SELECTOR.findall(query):
        yield name, _LABEL.findall(labels)
    bare = re.sub(r"\{[^}]*\}", "{}", query)
    for name in re.findall(r"\b((?:spliceproxy|process)_[a-z_]+)\b(?!\{)", bare):
        yield name, []


def grouped_by(query: str) -> set[str]:
    """The labels that a query groups or joins by."""
    return {
        name.strip()
        for names in _GROUPS.findall(query)
        for name in names.split(",")
        if name.strip()
    }
