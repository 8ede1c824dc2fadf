"""The command as a user starts it: a real process, its output, its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from command import Spliceproxy

MINIMAL = """\
listeners:
  web: {bind: "127.0.0.1:0", pool: app}
pools:
  app:
    upstreams: [127.0.0.1:9001, 127.0.0.1:9002]
"""


@pytest.fixture
def spliceproxy(tmp_path: Path) -> Spliceproxy:
    """Runs `spliceproxy ARGUMENTS` in an empty directory, to its end."""

    def run(
        *arguments: str | Path, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "spliceproxy", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
            env={**os.environ, **(env or {})},
        )

    return run


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    """A small correct configuration."""
    file = tmp_path / "app.yaml"
    file.write_text(MINIMAL)
    return file


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    """A configuration with two mistakes."""
    file = tmp_path / "wrong.yaml"
    file.write_text(MINIMAL.replace("pool: app", "pool: ap").replace("upstreams", "upstream"))
    return file
