"""What several tests of the admin API ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from told import Told, telling


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    with telling(tmp_path) as found:
        yield found
