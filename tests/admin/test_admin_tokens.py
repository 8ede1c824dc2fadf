"""admin/tokens.py: what a token file may hold, and what becomes of one that changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from spliceproxy import config
from spliceproxy.admin import TokenError, TokenFiles

GOOD = "0123456789abcdef"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "write.token"
    path.touch(0o600)
    return path


def tokens(read: Path | None = None, write: Path | None = None) -> TokenFiles:
    named = {"read": read, "write": write}
    keys = ", ".join(f"{key}: 'file:{path}'" for key, path in named.items() if path is not None)
    return TokenFiles(
        config.loads(
            f"admin: {{tokens: {{{keys}}}}}\n"
            'listeners: {web: {bind: ":8080", pool: app}}\n'
            "pools: {app: {upstreams: 127.0.0.1:9001}}\n",
            "test.yaml",
            {},
        )
    )


@pytest.mark.parametrize("text", [GOOD, f"{GOOD}\n", f" \t{GOOD} \r\n\n"])
def test_white_space_around_a_token_does_not_count(text: str, file: Path) -> None:
    file.write_text(text)
    assert tokens(write=file).now().write == GOOD.encode()


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        (b"", "is empty; openssl rand -hex 32 makes a good one"),
        (b" \n", "is empty"),
        (b"short", "has 5 characters, which can be guessed"),
        (b"0123456789abcde", "has 15 characters"),
        (f"{GOOD} {GOOD}".encode(), "is not one word of visible ASCII characters"),
        (f"{GOOD}\n{GOOD}".encode(), "is not one word"),
        (f"{GOOD}ü".encode(), "is not one word"),
        (b"\0" * 32, "is not one word"),
        (b"x" * 5000, "is not one word"),
    ],
)
def test_what_holds_no_token_is_an_error_at_the_start(data: bytes, wrong: str, file: Path) -> None:
    file.write_bytes(data)
    with pytest.raises(TokenError) as caught:
        tokens(write=file)
    assert str(caught.value).startswith(f"admin.tokens.write: {file}: {wrong}")


def test_what_cannot_be_read_is_named_file_by_file(tmp_path: Path) -> None:
    fifo, nowhere = tmp_path / "fifo", tmp_path / "nowhere"
    os.mkfifo(fifo)
    with pytest.raises(TokenError) as caught:
        tokens(read=nowhere, write=fifo)
    assert str(caught.value).splitlines() == [
        f"admin.tokens.read: {nowhere}: No such file or directory",
        f"admin.tokens.write: {fifo}: is not a regular file",
    ]


def test_one_token_for_both_is_an_error(file: Path) -> None:
    file.write_text(GOOD)
    with pytest.raises(TokenError, match="read and write hold the same token; make two"):
        tokens(read=file, write=file)


def test_without_a_file_each_start_makes_a_write_token_of_its_own() -> None:
    first, second = tokens().now(), tokens().now()
    assert first.write != second.write
    assert len(first.write) >= 32
    assert first.read is None


def replaced(file: Path, text: str) -> None:
    """As Kubernetes and editors do it: another file in its place."""
    other = file.with_name("other")
    other.write_text(text)
    other.rename(file)


def test_a_token_that_changes_holds_at_once(file: Path) -> None:
    file.write_text(GOOD)
    found = tokens(write=file)
    with capture_logs() as lines:
        replaced(file, GOOD[::-1])
        assert found.now().write == GOOD[::-1].encode()
        file.write_text("x" * 40)
        assert found.now().write == b"x" * 40
        assert found.now().write == b"x" * 40
    assert [line["event"] for line in lines] == ["token changed"] * 2
    assert not any(GOOD[::-1] in str(line) for line in lines)


@pytest.mark.parametrize("how", ["empty", "gone", "directory"])
def test_a_token_that_breaks_leaves_the_last_one_in_force(how: str, file: Path) -> None:
    file.write_text(GOOD)
    found = tokens(write=file)
    file.unlink()
    if how == "empty":
        file.touch()
    elif how == "directory":
        file.mkdir()
    with capture_logs() as lines:
        assert found.now().write == GOOD.encode()
        assert found.now().write == GOOD.encode()
    [line] = lines
    assert (line["log_level"], line["event"]) == (
        "warning",
        "a token cannot be read: the last one holds",
    )
    if how == "directory":
        file.rmdir()
    replaced(file, "y" * 20)
    assert found.now().write == b"y" * 20


def test_a_file_that_everybody_may_read_is_a_warning(file: Path) -> None:
    file.write_text(GOOD)
    assert tokens(write=file).warnings() == []
    file.chmod(0o644)
    assert tokens(write=file).warnings() == [
        f"admin.tokens.write: {file}: everybody on this machine may read it; chmod o-r"
    ]
