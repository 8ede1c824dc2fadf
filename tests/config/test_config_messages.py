"""What a user reads of a bad configuration, word for word.

Each `bad/NAME.yaml` has its exact message in `bad/NAME.txt`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from spliceproxy.config import ConfigError, load, loads
from spliceproxy.config.problems import MAX_SHOWN
from spliceproxy.errors import EXIT_CONFIG

BAD = Path(__file__).parent / "bad"
CASES = sorted(path.stem for path in BAD.glob("*.yaml"))
GOOD = 'listeners: {web: {bind: ":8080", pool: app}}\npools: {app: {upstreams: 127.0.0.1:9001}}\n'


def test_there_are_at_least_fifty_bad_configurations() -> None:
    assert len(CASES) >= 50
    assert {path.stem for path in BAD.glob("*.txt")} == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_a_bad_configuration_has_its_exact_message(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(BAD)
    with pytest.raises(ConfigError) as caught:
        load(Path(f"{case}.yaml"), env={})
    assert str(caught.value) + "\n" == (BAD / f"{case}.txt").read_text()


@pytest.mark.parametrize("case", CASES)
def test_every_message_says_what_is_wrong_and_what_would_be_right(case: str) -> None:
    for line in (BAD / f"{case}.txt").read_text().splitlines():
        if line.startswith(case + "."):
            assert "; " in line, line


def test_a_configuration_error_ends_the_command_with_the_code_that_systemd_knows() -> None:
    with pytest.raises(ConfigError) as caught:
        loads("", "app.yaml", {})
    assert caught.value.exit_code == EXIT_CONFIG == 78


def test_the_file_is_named_as_the_user_named_it(tmp_path: Path) -> None:
    path = tmp_path / "app.yaml"
    path.write_text("workers: x\n" + GOOD)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert str(caught.value).startswith(f"{path}:1:10: workers: ")


def test_problems_beyond_the_first_hundred_are_counted() -> None:
    text = GOOD + "".join(f"wrong{n}: 1\n" for n in range(MAX_SHOWN + 7))
    with pytest.raises(ConfigError) as caught:
        loads(text, "app.yaml", {})
    assert len(caught.value.problems) == MAX_SHOWN + 7
    assert str(caught.value).splitlines()[-1] == "and 7 more problems"


def test_the_caret_stands_below_the_mistake_of_a_long_line() -> None:
    items = ", ".join(f"127.0.0.1:{port}" for port in range(9001, 9101))
    text = GOOD.replace("127.0.0.1:9001", f"[{items}, wrong, {items}]")
    with pytest.raises(ConfigError) as caught:
        loads(text, "app.yaml", {})
    line, caret = str(caught.value).splitlines()[1:3]
    assert line[caret.index("^") :].startswith("wrong")
    assert len(line) <= 122
    assert line.startswith("…")
    assert line.endswith("…")


def test_the_caret_stands_below_the_mistake_behind_wide_characters() -> None:
    text = 'listeners: {web: {bind: "日本:1", pool: app}}\n' + GOOD.splitlines()[1]
    with pytest.raises(ConfigError) as caught:
        loads(text.replace(", pool", ", poool"), "app.yaml", {})
    shown = str(caught.value).splitlines()
    caret = next(line for line in shown if line.endswith("^") and len(line) > 30)
    assert caret.index("^") == text.index("pool") + 2


def test_no_control_character_of_a_file_reaches_the_terminal() -> None:
    for text in ("workers: \x1b[31mred\n", 'workers: "\\e[31mred"\n', '"\\e[2J": 1\n', "a: \x9b\n"):
        with pytest.raises(ConfigError) as caught:
            loads(text + GOOD, "app.yaml", {})
        assert all(char.isprintable() or char == "\n" for char in str(caught.value))


def test_the_mistake_of_an_alias_is_told_once() -> None:
    text = """\
timeouts: {connect: &wrong soon, idle: *wrong}
listeners: {web: {bind: ":8080", pool: app}}
pools: {app: {upstreams: 127.0.0.1:9001, timeouts: {connect: *wrong}}}
"""
    with pytest.raises(ConfigError) as caught:
        loads(text, "app.yaml", {})
    assert len(caught.value.problems) == 1


_KEY = ("-----BEGIN PRIVATE KEY-----", "MC4CAQAwBQYDK2VwBCIEIJ", "-----END PRIVATE KEY-----")
_TLS = 'listeners: {web: {bind: ":8443", pool: app, tls: {certificates: [a.pem], %s}}}\n'


@pytest.mark.parametrize(
    "text",
    [
        _TLS % 'client_ca: "{}"'.format(r"\n".join(_KEY)),
        _TLS.replace("a.pem", "{chain: a, key: '${KEY}'}") % "",
        _TLS % "client_ca: '{}'".format(" ".join(_KEY)),
        _TLS % "min_version: '{}'".format(" ".join(_KEY)),
        _TLS % "'{}': on".format(" ".join(_KEY)),
        _TLS % "alpn: '${KEY}'",
        _TLS % "client_ca: '${KEY}'",
        "listeners:\n  web:\n    key: " + "\n".join(_KEY),
        "listeners:\n  web:\n    key: |\n      " + "\n  ".join(_KEY),
    ],
)
def test_a_private_key_in_the_place_of_its_path_is_not_shown(text: str) -> None:
    variables = {"KEY": "\n".join(_KEY)}
    with pytest.raises(ConfigError) as caught:
        loads(f"{text}\npools: {{app: {{upstreams: 127.0.0.1:9001}}}}\n", "a.yaml", variables)
    assert _KEY[1] not in str(caught.value)
    assert "; " in str(caught.value)
