"""What the README and the pages of docs show is real: files load, commands and links exist."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import get_type_hints

import click
import pytest
from command import Spliceproxy

from spliceproxy import config
from spliceproxy.cli.app import spliceproxy as commands
from spliceproxy.telemetry.record import CLOSED_BY, HOWS, PHASES, WHYS, Record

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "".join(page.read_text() for page in PAGES)


def blocks(language: str, page: Path = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    ("page", "number"),
    [(page, number) for page in PAGES for number in range(len(blocks("yaml", page)))],
    ids=lambda part: part.name if isinstance(part, Path) else str(part),
)
def test_each_configuration_loads(page: Path, number: int) -> None:
    text = blocks("yaml", page)[number]
    if "listeners:" not in text:  # a few keys, to be put beside others
        text = blocks("yaml")[0] + text
    assert config.loads(text, page.name, env={}).listeners


def test_the_smallest_configuration_has_five_lines() -> None:
    assert len(blocks("yaml")[0].splitlines()) == 5


def test_the_record_has_all_fields_and_values_of_the_closed_lists() -> None:
    (text,) = blocks("json")
    record = json.loads(text)
    assert list(record) == list(get_type_hints(Record))
    assert record["phase"] in PHASES
    assert record["closed_by"] in CLOSED_BY
    assert record["how"] in HOWS
    assert record["why"] in WHYS


def test_reasons_named_in_the_table_of_timeouts_exist() -> None:
    table = TEXT.split("## Timeouts")[1].split("##")[0]
    defaults = dict(re.findall(r"^\| `timeouts\.(\w+)` \| (\w+) \|", table, re.MULTILINE))
    assert defaults == {
        "preread": "10s",
        "handshake": "10s",
        "connect": "5s",
        "idle": "1h",
        "half_close": "5m",
        "session": "off",
        "drain": "30s",
    }
    reasons = re.findall(r"\| `(\w+)`[^|]*\|$", table, re.MULTILINE)
    assert len(reasons) == len(defaults)
    assert set(reasons) <= WHYS
    smallest = config.loads(blocks("yaml")[0], "README.md", env={})
    seconds = {
        "preread": 10,
        "handshake": 10,
        "connect": 5,
        "idle": 3600,
        "half_close": 300,
        "session": None,
        "drain": 30,
    }
    assert {name: getattr(smallest.timeouts, name) for name in defaults} == seconds


def test_the_mistake_is_told_as_shown(spliceproxy: Spliceproxy, tmp_path: Path) -> None:
    shown = next(block for block in blocks("console") if "check app.yaml" in block)
    command, expected = shown.split("\n", 1)
    wrong = blocks("yaml")[0].replace(
        "pools:\n  app:\n", "pools:\n  app:\n    balence: round_robin\n"
    )
    (tmp_path / "app.yaml").write_text(wrong)
    told = spliceproxy(*command.removeprefix("$ spliceproxy ").split())
    assert told.stderr == expected


def test_make_knows_the_commands_of_the_readme() -> None:
    for target in re.findall(r"^\$ make (\w+)", TEXT, re.MULTILINE):
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


def test_each_command_of_the_readme_exists_and_each_command_is_there() -> None:
    named = set(re.findall(r"`spliceproxy ([\w-]+)", README.read_text()))
    assert named == set(commands.commands)
    context = click.Context(commands)
    assert named == set(commands.list_commands(context))


def test_each_command_that_asks_a_running_proxy_has_its_place_in_the_page_of_commands() -> None:
    page = (ROOT / "docs/commands.md").read_text()
    headings = set(re.findall(r"[\w-]+", " ".join(re.findall(r"^## (.*)", page, re.MULTILINE))))
    asking = {
        name
        for name, command in commands.commands.items()
        if any(option.name == "admin" for option in command.params)
    }
    assert "top" in asking
    assert asking <= headings


def test_each_link_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), (page.name, target)
