"""Patterns of `include`: what pathlib finds, but never for longer than anybody would wait."""

from __future__ import annotations

from pathlib import Path

import pytest

from spliceproxy.config import ConfigError, loads, patterns
from spliceproxy.config.patterns import matching

PATTERNS = (
    "*.yaml",
    "*",
    "?.yaml",
    "[ab].yaml",
    "[!a].yaml",
    "conf.d/*.yaml",
    "./conf.d//*.yaml",
    "*/*.yaml",
    "*/../a*.yaml",
    "**/*.yaml",
    "**/c.yaml",
    "*/**/deep/*.yaml",
    "**/**/c*",
    "conf.d/missing/*.yaml",
    "a.yaml/*",
    ".*",
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in (
        "a.yaml",
        "b.yaml",
        ".hidden.yaml",
        "conf.d/c.yaml",
        "conf.d/x/deep/c.yaml",
        "é.yaml",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "conf.d" / "up").symlink_to("..")
    (tmp_path / "gone").symlink_to("nowhere")
    return tmp_path


@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_pathlib_finds_is_found(pattern: str, home: Path) -> None:
    expected = sorted(set(home.glob(pattern)))
    assert matching(home, pattern) == expected
    assert matching(Path(), f"{home}/{pattern}") == expected


def test_a_pattern_for_the_whole_machine_is_an_error_soon(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patterns, "MAX_SEEN", 12)
    for pattern in ("**/*.yaml", "*/../*/../*", "**/**"):
        with pytest.raises(ValueError, match="leads to more than 12 names"):
            matching(home, pattern)
    assert matching(home, "conf.d/*.yaml") == [home / "conf.d" / "c.yaml"]
    with pytest.raises(ConfigError) as caught:
        loads(f"include: [{home}/**/*.yaml]\n", "app.yaml", {})
    right = "the pattern leads to more than 12 names; write a pattern such as conf.d/*.yaml"
    assert f"app.yaml:1:11: include[0]: {right}" in str(caught.value)


def test_directories_without_end_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(1200):
        Path("d").mkdir()
        monkeypatch.chdir("d")
    monkeypatch.chdir(tmp_path)
    try:
        with pytest.raises(ValueError, match="leads too deep"):
            matching(Path(), "**/x.yaml")
    finally:  # too deep for who clears up behind the tests, too
        while Path("d/d").exists():
            Path("d/d").rename("e")
            Path("d").rmdir()
            Path("e").rename("d")
