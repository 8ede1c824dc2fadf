"""Every file in configs/ runs as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
SERVE = Path(__file__).with_name("serve_config.py")


def test_there_are_files_to_run() -> None:
    assert CONFIGS


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_file_of_configs_serves_every_listener_through_its_upstreams(config: Path) -> None:
    own_network = ["unshare", "--net", "--map-root-user"]
    if subprocess.run([*own_network, "true"], capture_output=True).returncode:
        pytest.skip("no network namespace may be made here")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    result = subprocess.run(
        [*own_network, sys.executable, str(SERVE), str(config)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
