"""Whatever a file holds, and whatever it is: a clear error, soon, and nothing but ConfigError."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spliceproxy.config import ConfigError, load, loads, parse_address

GOOD = 'listeners: {web: {bind: ":8080", pool: app}}\npools: {app: {upstreams: 127.0.0.1:9001}}\n'
LAUGHS = "a: &a [lol]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefghijklmnop", "bcdefghijklmnopq", strict=True)
)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """The block takes less than `seconds` of this process's CPU."""
    begin = time.process_time()
    yield
    assert time.process_time() - begin < seconds


def message(text: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        loads(text, "app.yaml", {})
    return str(caught.value)


def read(text: str | bytes, env: dict[str, str]) -> None:
    """Load it, well or not; anything but ConfigError is the test's failure."""
    with suppress(ConfigError):
        loads(text, "app.yaml", env)


@pytest.mark.parametrize("word", ["a" * 63, "a-" * 31, "_" * 200, "a." * 100, "-" * 100])
def test_a_word_that_is_nearly_a_host_is_told_at_once(word: str) -> None:
    for upstream in (f"{word}-:80", f"srv:{word}-", f"srv:{word}-:80", f"{word}!:80"):
        with within(0.1):
            assert "app.yaml:2:" in message(GOOD.replace("127.0.0.1:9001", f"'{upstream}'"))


@pytest.mark.parametrize("label", ["a", "a" * 63, "_a-b_", "1x"])
def test_labels_of_a_host_name_are_63_characters_at_most(label: str) -> None:
    assert parse_address(f"{label}.{label}.test.:80").host == f"{label}.{label}.test."
    for wrong in (
        f"{label * 64}.test:80",
        f"{label}..test:80",
        f".{label}:80",
        f"{label}-.test:80",
    ):
        with pytest.raises(ValueError, match="neither an IP address nor a host name"):
            parse_address(wrong)


@pytest.mark.parametrize(
    ("expect", "told"),
    [
        ("[[a]", None),  # Python warns that this may mean more one day
        ("(" * 5000 + ")" * 5000, "too deep"),
        ("a{9999999999}", "the repetition number is too large"),
        ("(", "missing ), unterminated subpattern at position 0"),
    ],
)
def test_a_regular_expression_is_taken_or_refused_and_nothing_else(
    expect: str, told: str | None
) -> None:
    text = f"{GOOD}health: {{check: http, expect: '{expect}'}}\n"
    if told is None:
        assert loads(text, "app.yaml", {}).health
    else:
        assert f"is no regular expression: {told}; a backslash makes" in message(text)


def test_half_a_character_is_told_as_such_in_values_and_in_keys() -> None:
    text = message(f'{GOOD}health: {{expect: "\\ud83d\\ude00"}}\nx: {{"\\udfff": 1}}\n')
    right = "is half of a character; write the character itself, or \\U and eight digits"
    assert f"app.yaml:3:18: health.expect: \\ud83d {right}" in text
    assert f"app.yaml:4:5: x.\N{REPLACEMENT CHARACTER}: \\udfff {right}" in text


def test_a_variable_whose_bytes_are_no_text_is_told_in_this_language_words() -> None:
    for value in (
        "pools: {app: {upstreams: '${X}:80'}}",
        "listeners: {web: {routes: {sni: '${X}'}}}",
    ):
        with pytest.raises(ConfigError) as caught:
            loads(value, "app.yaml", {"X": "caf\udce9"})
        assert '"caf\N{REPLACEMENT CHARACTER}' in str(caught.value)
        assert "codec" not in str(caught.value)


def test_a_problem_is_never_longer_than_people_read() -> None:
    text = message(GOOD + "b: ${" + "A" * 50_000 + "}\n")
    first, *_ = text.split("\n")
    assert first.startswith("app.yaml:3:4: b: ${AAAA")
    assert first.endswith(":-default}")
    assert len(first) <= 1001


def test_a_billion_laughs_are_an_error_in_well_under_a_second() -> None:
    with within(0.5):
        text = message(LAUGHS + GOOD)
    assert "aliases and items add up to more than 100000 values; write fewer" in text


def test_a_hundred_megabytes_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        file.truncate(100_000_000)
    with within(0.2), pytest.raises(ConfigError) as caught:
        load(path, {})
    assert str(caught.value) == f"{path}: is larger than 1024 KiB; is this a configuration file?"


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1_000_000,
        "{" * 1_000_000,
        "a: " + "[" * 1_000_000,
        "- " * 500_000,
        "? " * 500_000,
        "a: " * 300_000,
        "[" + "a, " * 300_000,
        "[" + "*a, " * 200_000,
        "x" * 1_000_000,
        "a: '" + "'' " * 300_000,
        "a: " + "&x " * 300_000,
        "a: " + "@" * 1_000_000,
        "a: " + "[::]:80 " * 120_000,
        "a: " + "${" * 500_000,
        "a: " + "${A:-" * 200_000,
        "\n" * 1_000_000,
        "#" * 1_000_000,
        "a: b\n" * 200_000,
        "\n".join(f"a{n}: b" for n in range(90_000)),
        "\n".join(f"a{n}: &a{n} [[[[[[[[[[[[[[[[x]]]]]]]]]]]]]]]]" for n in range(20_000)),
        "pools: {a: {upstreams: [" + "1.1.1.1:1," * 90_000 + "]}}",
        "listeners: {a: {bind: [" + '":1",' * 90_000 + "]}}",
        "listeners: {" + "".join(f"a{n}: {{pool: b{n}}}," for n in range(20_000)) + "}",
        "listeners: {a: {pool: b, bind: ["
        + "".join(f"'10.0.{n >> 8}.{n & 255}:80'," for n in range(50_000))
        + "]}}",
        "pools: {"
        + "".join(f"p{n}: {{}}," for n in range(30_000))
        + "}\nlisteners: {a: {routes: {pool: {"
        + "".join(f"q{n}: 1," for n in range(30_000))
        + "}}}}",
    ],
    ids=lambda text: text[:12].encode("unicode_escape").decode(),
)
def test_a_megabyte_of_malice_is_an_error_within_seconds(text: str) -> None:
    with within(6):
        assert message(text[: 1024 * 1024])


def test_aliases_of_deep_lists_do_not_nest_beyond_the_limit() -> None:
    levels = "".join(f"n{n + 1}: &n{n + 1} {'[' * 30}*n{n}{']' * 30}\n" for n in range(200))
    assert "nest more than 32 levels deep" in message("n0: &n0 x\n" + levels)


def test_deep_nesting_is_an_error_at_its_place() -> None:
    text = message("a: " + "[" * 40 + "]" * 40)
    assert text.startswith("app.yaml:1:35: a[0][0]")
    assert "nested more than 32 levels deep; no configuration needs that" in text


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            b"workers: 4\nlog: \0\n",
            (
                "app.yaml:2:6: a NUL byte; a configuration is text, and this is something else\n"
                "log: \N{REPLACEMENT CHARACTER}\n     ^"
            ),
        ),
        (
            b"workers: 4\nlog: caf\xe9 x\n",
            (
                "app.yaml:2:9: byte 0xe9 at offset 19 is not UTF-8; save the file as UTF-8\n"
                "log: caf\N{REPLACEMENT CHARACTER} x\n        ^"
            ),
        ),
        (GOOD.encode("utf-16"), "app.yaml: is UTF-16; save it as UTF-8"),
        (
            b"workers: \x07\n",
            (
                "app.yaml:1:10: control character U+0007 in the text; remove it\n"
                "workers: \N{REPLACEMENT CHARACTER}\n         ^"
            ),
        ),
        (b"", "app.yaml: the file is empty; write listeners and pools"),
        (b"---\n", "app.yaml: the file is empty; write listeners and pools"),
    ],
)
def test_what_is_no_text_has_its_exact_message(data: bytes, expected: str) -> None:
    assert message(data) == expected


def test_a_byte_order_mark_and_windows_line_ends_are_accepted() -> None:
    config = loads(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode(), "app.yaml", {})
    assert config.listeners["web"].pool == "app"


def test_windows_line_ends_do_not_move_the_place_of_a_mistake() -> None:
    text = GOOD.replace("\n", "\r\n") + "workers: x\r\n"
    assert message(text).startswith("app.yaml:3:10: workers: ")


def _directory(path: Path) -> None:
    path.mkdir()


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _nothing(_path: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (_directory, "is a directory; name a file in it"),
        (_fifo, "is not a regular file; write the configuration to a file"),
        (_socket, "is not a regular file; write the configuration to a file"),
        (_loop, "cannot be read: Too many levels of symbolic links"),
        (_nothing, "no such file; check its name and directory"),
    ],
)
def test_what_is_no_file_is_one_line_and_never_waits(
    make: Callable[[Path], None], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path("x.yaml"))
    with pytest.raises(ConfigError) as caught:
        load(Path("x.yaml"), {})
    assert str(caught.value) == f"x.yaml: {expected}"


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        # Root may read everything but what the kernel itself refuses to give.
        path, expected = Path("/proc/self/mem"), "cannot be read: Input/output error"
    else:
        path, expected = tmp_path / "x.yaml", "permission denied"
        path.touch(0)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("loop.yaml", "loop.yaml cannot be included: cannot be read: Too many levels"),
        ("fifo.yaml", "fifo.yaml cannot be included: is not a regular file"),
        (".", ". cannot be included: is a directory"),
        ("x/**x", "Invalid pattern"),
        ("/*/../**x", "Invalid pattern"),
        (r'"a\0b"', "holds a NUL byte"),
        (r'"*\0b"', "names no file"),
        ("missing/*/", "names no file"),
        ("[", None),
        ("missing/*.yaml", None),
    ],
)
def test_a_file_that_cannot_be_included_is_a_problem_at_its_name(
    pattern: str, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _loop(Path("loop.yaml"))
    _fifo(Path("fifo.yaml"))
    text = f"include: [{pattern}]\n{GOOD}" if pattern != "[" else f"include: '['\n{GOOD}"
    if expected is None:
        assert loads(text, "app.yaml", {})
    else:
        assert message(text).startswith("app.yaml:1:11: include[0]: ")
        assert expected in message(text)


def test_a_name_with_a_nul_byte_is_no_file() -> None:
    with pytest.raises(ConfigError, match="no file can have this name"):
        load(Path("a\0b"), {})


TUNED = (Path(__file__).parents[2] / "configs" / "tuned.yaml").read_text()

# Words of the language and the characters that YAML gives a meaning, so that texts get far.
WORDS = [
    *"\n\n\n\t{}[]:,#*&!|>%@`\"'?-$\\ ",
    *("  ", "    ", ": ", "- ", "listeners", "pools", "web", "app", "bind", "pool", "upstreams"),
    *("tcp", "timeouts", "idle", "1h", "off", ":8080", "127.0.0.1:9001", "[::1]:80", "&a", "*a"),
    *("${X}", "${X:-1}", "$$", "---", "...", "<<", "!!int", "%YAML 1.1", "unix:/x", "\x85", "\r"),
    *("include", "weight", "0", "keepalive", "log", "sessions", "é", "\u2028", "\ufeff", "\ud800"),
]


@given(st.lists(st.sampled_from(WORDS), max_size=60).map("".join))
@settings(max_examples=500, deadline=None, print_blob=True)
@example("a: *\n")
@example("a: &")
@example("? [a]\n: b")
def test_no_text_raises_anything_but_a_configuration_error(text: str) -> None:
    read(text, {"X": "x"})


@given(st.binary(max_size=200) | st.text(max_size=200))
@settings(max_examples=300, deadline=None, print_blob=True)
def test_no_bytes_raise_anything_but_a_configuration_error(data: bytes | str) -> None:
    read(data, {})


@given(st.data())
@settings(max_examples=400, deadline=None, print_blob=True)
def test_no_damage_to_a_good_file_raises_anything_but_a_configuration_error(
    data: st.DataObject,
) -> None:
    text = TUNED
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(at, min(len(text), at + 12)))
        text = text[:at] + data.draw(st.sampled_from(["", *WORDS])) + text[end:]
    read(text, {})
