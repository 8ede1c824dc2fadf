"""What /metrics may tell: docs/metrics.md, names, labels, and how many series."""

from __future__ import annotations

from pathlib import Path

from spliceproxy.telemetry.families import FAMILIES

DOC = Path(__file__).parents[2] / "docs" / "metrics.md"


def rows() -> list[str]:
    """The table of docs/metrics.md, as the program would write it."""
    return [
        f"| `{name}` | {kind} | {' '.join(f'`{label}`' for label in labels)} | {meaning} |"
        for name, kind, labels, meaning in FAMILIES
    ]


def test_the_table_in_the_docs_tells_of_every_family() -> None:
    told = [line for line in DOC.read_text().splitlines() if line.startswith("| `")]
    assert told == rows()
