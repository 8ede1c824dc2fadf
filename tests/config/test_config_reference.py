"""The example files, the reference and the editors' schema agree with the program."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from spliceproxy.config import json_schema, load, loads, reference
from spliceproxy.config.schema import Schema, sections

CONFIGS = Path(__file__).parents[2] / "configs"
EXAMPLES = sorted(CONFIGS.glob("*.yaml"))
GOOD = 'listeners: {web: {bind: ":8080", pool: app}}\npools: {app: {upstreams: 127.0.0.1:9001}}\n'


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_a_good_configuration(path: Path) -> None:
    assert load(path, {}).listeners


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_needs_no_privileged_port(path: Path) -> None:
    for listener in load(path, {}).listeners.values():
        assert all(address.is_unix or address.port >= 1024 for address in listener.bind)


def test_the_reference_is_current() -> None:
    assert (CONFIGS / "REFERENCE.md").read_text() == reference(), (
        "run: python -m spliceproxy.config.reference > configs/REFERENCE.md"
    )


def test_the_tuned_example_uses_every_key() -> None:
    used = set(keys(yaml.load((CONFIGS / "tuned.yaml").read_text(), yaml.BaseLoader)))
    known = {key for _, section in sections() for key in section["properties"]}
    assert known <= used


def keys(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        yield from node
    for child in (
        node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    ):
        yield from keys(child)


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("loader", [yaml.SafeLoader, yaml.BaseLoader])
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_editors_accept_the_examples_however_they_type_scalars(path: Path, loader: type) -> None:
    Draft202012Validator(json_schema()).validate(yaml.load(path.read_text(), loader))


@pytest.mark.parametrize(
    "text",
    [
        "pools: {app: {upstreams: [], balance: fastest}}",
        "pools: {app: {upstreams: [a:1], balence: round_robin}}",
        "pools: {app: {}}",
        "listeners: {web: {bind: ':80'}}",
        "admin: {bind: {}}",
        "shutters: {}",
        "log: {level: loud}",
        "timeouts: 5s",
    ],
)
def test_editors_mark_what_is_wrong(text: str) -> None:
    validator = Draft202012Validator(json_schema())
    assert list(validator.iter_errors(yaml.safe_load(text)))


@pytest.mark.parametrize(
    "text",
    [
        "timeouts: {idle: 1h, session: off}",
        "workers: 4",
        "workers: auto",
        "tcp: {nodelay: true, keepalive: off}",
        "log: {level: '${LEVEL}', sessions: {keep: off, sample: 0.5}}",
        "include: conf.d/*.yaml",
    ],
)
def test_editors_accept_what_is_right(text: str) -> None:
    Draft202012Validator(json_schema()).validate(yaml.safe_load(text))
    loads(f"{text}\n{GOOD}", "app.yaml", {"LEVEL": "info"})


def described() -> list[tuple[str, str, Schema]]:
    return [
        (title, key, value)
        for title, section in sections()
        for key, value in section["properties"].items()
    ]


@pytest.mark.parametrize(
    ("title", "key", "value"), described(), ids=lambda part: part if isinstance(part, str) else ""
)
def test_every_default_and_example_of_the_reference_is_valid(
    title: str, key: str, value: Schema
) -> None:
    texts = [str(default)] if (default := value.get("default")) else []
    for text in [*texts, *value.get("examples", [])]:
        loads(placed(title, key, text), "example.yaml", {})


CHECK_OF = {
    "check": "http",
    "path": "http",
    "host": "tls",
    "status": "http",
    "send": "exchange",
    "expect": "exchange",
}
"""The check that a key of `health` is for."""


RATE = {"per_second": "20", "burst": "50"}
COMPANIONS: dict[str, dict[str, Any]] = {
    "listeners.NAME.limits": {"rate": RATE, "per_client": {"rate": RATE}},
    "listeners.NAME.limits.rate": RATE,
    "listeners.NAME.limits.per_client": {"rate": RATE, "max_sessions": "100"},
}
"""What must stand beside a key of these sections."""


def placed(title: str, key: str, text: str) -> str:
    """A whole configuration with one key set."""
    config = yaml.load(GOOD, yaml.BaseLoader)
    node = config
    for step in title.replace("[]", ".0").replace("pools.NAME", "pools.app").split("."):
        if step == "":
            continue
        step = "web" if step == "NAME" else step
        if step == "0":
            continue
        if step == "tls" and title.startswith("listeners"):
            node[step] = {"certificates": "www.pem", "client_ca": "clients.pem"}
        if step == "certificates":
            node[step] = [{"chain": "www.pem"}]
            node = node[step][0]
            continue
        if step == "accept_proxy":
            node[step] = {"from": "10.0.0.0/8"}
        if step == "routes":
            node[step] = [{"pool": "app"}]
            config["pools"]["canary"] = {"upstreams": "127.0.0.1:9002"}
            node = node[step][0]
            continue
        if step == "upstreams":
            node["upstreams"] = [{"address": "127.0.0.1:9001"}]
            node = node["upstreams"][0]
            continue
        node = node.setdefault(step, {})
    if title == "pools.NAME.health" and key in CHECK_OF:
        node["check"] = CHECK_OF[key]
        node["send"] = "PING"
        if node["check"] != "exchange":
            del node["send"]
    node.update(COMPANIONS.get(title, {}))
    node[key] = yaml.load(text, yaml.BaseLoader)
    if key in ("pools", "listeners"):
        config["pools"]["app"] = {"upstreams": "127.0.0.1:9001"}
    return yaml.safe_dump(config)
