"""The command in tests: the type of the fixture that runs it to its end, and one that runs on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from harness.wait import wait_until


class Spliceproxy(Protocol):
    def __call__(
        self, *arguments: str | Path, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]: ...


@contextmanager
def running(log: Path, *arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """`spliceproxy ARGUMENTS`, ready for clients, as long as the block lasts.

    What it says goes to the file `log`.
    """
    command = [sys.executable, "-m", "spliceproxy", *map(str, arguments)]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            wait_until(
                lambda: _is_ready(log) or process.poll() is not None, 15, "the proxy is ready"
            )
            assert _is_ready(log), log.read_text()
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _is_ready(log: Path) -> bool:
    return b'"event":"ready"' in log.read_bytes()
