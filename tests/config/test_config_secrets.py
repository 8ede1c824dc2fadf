"""What is told of a wrong file where secrets are masked: where it is wrong, not what is in it."""

from __future__ import annotations

import pytest

from spliceproxy import config
from spliceproxy.config.problems import without_values
from spliceproxy.errors import SpliceproxyError

TEXT = """\
listeners:
  web: {bind: "127.0.0.1:0", pool: app}
pools:
  app:
    upstreams: [127.0.0.1:1]
    health: {check: exchange, send: "AUTH s3cr3t", expect: AUTH}
  other:
    upstreams: 127.0.0.1:2
    health:
      check: http
      path: /healthz?key=s3cr3t
"""


def told_of(text: str) -> list[str]:
    """What everybody is told of that file; nothing where it is right."""
    try:
        config.loads(text, "app.yaml", {})
    except SpliceproxyError as error:
        return without_values(str(error).splitlines())
    return []


@pytest.mark.parametrize(
    "written", ["", "{", "}", "[", '"', "'", ":", " : ", "\n", "\t", "*", "- "]
)
def test_a_slip_anywhere_in_a_file_shows_nobody_what_health_checks_send(written: str) -> None:
    wrong = 0
    for place in range(TEXT.index("upstreams"), len(TEXT)):
        for skipped in (0, 1):
            told = told_of(TEXT[:place] + written + TEXT[place + skipped :])
            wrong += bool(told)
            assert "s3cr" not in str(told), told
            assert "cr3t" not in str(told), told
            assert all(line.startswith("app.yaml:") for line in told)
    assert wrong > 100


def test_all_else_is_told_as_it_is() -> None:
    text = TEXT.replace("upstreams: [", "upstream: [").replace("bind:", "bond:")
    assert told_of(text) == [
        'app.yaml:2:3: listeners.web.bind: missing; write for example bind: ":8080"',
        "app.yaml:2:9: listeners.web.bond: unknown key; did you mean bind?",
        (
            "app.yaml:4:3: pools.app.upstreams: missing; "
            "write for example upstreams: [127.0.0.1:9001, 127.0.0.1:9002]"
        ),
        "app.yaml:5:5: pools.app.upstream: unknown key; did you mean upstreams?",
    ]
    unnamed = ["the file of tokens is gone", "listeners.web.bind: 10.0.0.1:80: not of this machine"]
    assert without_values(unnamed) == unnamed
    hidden = ["a.yaml:1:1: admin.tokens.read: is no path", "(no line is shown: a token)", "more"]
    assert without_values(hidden) == [hidden[0], "more"]
