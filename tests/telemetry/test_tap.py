"""telemetry/tap.py, and the tap in log.py: lines of the log for whoever follows what happens."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spliceproxy.telemetry.tap import plain_line

HEAD = """
import json, logging, sys, structlog
from spliceproxy.telemetry import log
told = []
log.set_up(sys.argv[1], "json")
log.tap(told.append)
logger = structlog.get_logger()
"""


def run(body: str, level: str = "info") -> tuple[list[Any], list[str]]:
    """What was tapped while `body` ran, and the events that were written."""
    done = subprocess.run(
        [sys.executable, "-c", f"{HEAD}\n{body}\nprint(json.dumps(told))", level],
        capture_output=True,
        timeout=20,
        check=True,
        text=True,
    )
    return json.loads(done.stdout), [json.loads(line)["event"] for line in done.stderr.splitlines()]


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", ["d", "i", "w", "e", "library"]),
        ("info", ["i", "w", "e", "library"]),
        ("warning", ["w", "e", "library"]),
        ("error", ["e"]),
    ],
)
def test_lines_from_info_on_are_tapped_whatever_is_written(level: str, written: list[str]) -> None:
    body = (
        'logger.debug("d"); logger.info("i"); logger.warning("w"); logger.error("e")\n'
        'logging.getLogger("asyncio").warning("library")'
    )
    told, events = run(body, level)
    assert events == written
    assert [line["event"] for line in told] == ["i", "w", "e", "library"]
    assert [line["level"] for line in told] == ["info", "warning", "error", "warning"]


def test_the_level_can_change_and_the_tap_stays() -> None:
    body = (
        'log.set_level("error"); logger.info("one")\n'
        'log.set_level("debug"); logger.debug("two")\n'
        'log.set_up("warning", "json"); logger.info("three"); logger.warning("four")\n'
        'log.tap(None); logger.warning("five")'
    )
    told, events = run(body)
    assert events == ["two", "four", "five"]
    assert [line["event"] for line in told] == ["one", "three", "four"]


def test_a_line_has_time_level_event_and_then_its_fields() -> None:
    [line], _events = run('logger.warning("upstream down", pool="app", up_seconds=1.5)')
    assert list(line) == ["time", "level", "event", "pool", "up_seconds"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert (line["pool"], line["up_seconds"]) == ("app", 1.5)


def test_of_an_exception_only_its_kind_is_told() -> None:
    body = (
        'try: raise ValueError("a secret")\nexcept Exception: logger.exception("oops")\n'
        'logger.error("other", exc_info=KeyError("a secret"))\n'
        'logging.getLogger("x").error("none")'
    )
    told, _events = run(body)
    assert [line.get("exception") for line in told] == ["ValueError", "KeyError", None]
    assert "secret" not in json.dumps(told)


class Broken:
    def __str__(self) -> str:
        raise ZeroDivisionError


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers(-(2**70), 2**70)
    | st.text(st.characters())
    | st.binary()
    | st.builds(Broken)
    | st.builds(ValueError, st.text()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
)


@given(st.dictionaries(st.text().filter(lambda key: key not in ("level", "event")), anything))
def test_whatever_is_logged_becomes_json(fields: dict[str, Any]) -> None:
    line = plain_line({"level": "info", "event": "x", **fields})
    told = orjson.loads(orjson.dumps(line))
    assert told.keys() == {"time", "level", "event", *fields}
    assert (told["level"], told["event"]) == ("info", "x")


def test_what_json_cannot_say_is_said_as_text() -> None:
    line = plain_line(
        {"level": "info", "event": "x", "path": "/\udcff", "big": 2**70, "data": b"b", "set": {1}}
    )
    assert (line["path"], line["big"]) == ("/\\udcff", str(2**70))
    assert (line["data"], line["set"]) == ("b'b'", [1])
