"""`python -m bench.check`: the command behind `make bench-check`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bench.check.instructions import count_instructions, environment
from bench.check.syscalls import Counts, count_system_calls
from bench.programs import FailedError, MissingError

BASELINE = Path(__file__).parent.parent / "baseline.json"
TOLERANCE = 0.08
"""Share by which instructions may grow; system calls may not grow at all."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--update", is_flag=True, help="Make what is counted the new baseline.")
@click.option("--show", is_flag=True, help="List the system calls one by one.")
@click.option("--no-instructions", is_flag=True, help="Count system calls only.")
def main(update: bool, show: bool, no_instructions: bool) -> None:
    """Count system calls and instructions per session and per request; compare with baseline.json.

    The exit code is 1 where something costs more than before.
    """
    console = Console() if sys.stdout.isatty() else Console(width=120)
    try:
        calls, sequences = count_system_calls()
    except (MissingError, FailedError) as error:
        raise click.ClickException(str(error)) from error
    if show:
        for scenario, lines in sequences.items():
            console.print(f"[bold]{scenario}[/]")
            console.print("\n".join(f"  {line}" for line in lines), markup=False, soft_wrap=True)
    counted: dict[str, Any] = {"system_calls": calls}
    why_not = "not asked for"
    if not no_instructions:
        try:
            counted["instructions"] = count_instructions()
            counted["environment"] = environment()
        except (MissingError, FailedError) as error:
            why_not = str(error)
    baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    worse = _print_calls(console, baseline.get("system_calls", {}), calls)
    worse += _judge_instructions(console, baseline, counted, why_not, no_instructions)
    if update:
        kept = {**baseline, **counted}
        BASELINE.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
        console.print(f"the new baseline is in {BASELINE.name}")
    elif worse:
        console.print("[red]worse:[/] " + "; ".join(worse), highlight=False)
        console.print("If it has to be so, commit a new baseline: make bench-check ARGS=--update")
        sys.exit(1)


def _print_calls(console: Console, was: dict[str, Counts], now: dict[str, Counts]) -> list[str]:
    """The table of system calls; what is worse."""
    table = Table("system calls", "baseline", "now", "", "call by call")
    worse = []
    for scenario, counts in now.items():
        before = was.get(scenario)
        total = sum(counts.values())
        old = None if before is None else sum(before.values())
        if old is not None and total > old:
            worse.append(f"{scenario}: {total} system calls, {old} before")
        table.add_row(
            scenario,
            "-" if old is None else str(old),
            str(total),
            _word(old, total, 0.0),
            _difference(before, counts),
        )
    console.print(table)
    return worse


def _difference(before: Counts | None, counts: Counts) -> str:
    parts = []
    for name in sorted({*counts, *(before or {})}):
        count = counts.get(name, 0)
        old = count if before is None else before.get(name, 0)
        parts.append(f"{name} {count}" if count == old else f"[bold]{name} {old}→{count}[/]")
    return ", ".join(parts)


def _word(old: float | None, new: float, tolerance: float) -> str:
    if old is None:
        return "new"
    if new > old * (1 + tolerance):
        return "[red]worse[/]"
    return "[green]better[/]" if new < old * (1 - tolerance) else "same"


def _judge_instructions(
    console: Console,
    baseline: dict[str, Any],
    counted: dict[str, Any],
    why_not: str,
    wanted_none: bool,
) -> list[str]:
    """The table of instructions; what is worse. Counts of another environment are only shown."""
    now: dict[str, int] | None = counted.get("instructions")
    if now is None:
        console.print(f"instructions not counted: {why_not}", highlight=False)
        strict = os.environ.get("SPLICEPROXY_NO_SKIP", "") not in ("", "0") and not wanted_none
        return ["instructions could not be counted"] if strict else []
    was: dict[str, int] = baseline.get("instructions", {})
    same = baseline.get("environment") == counted["environment"]
    table = Table("instructions in user space", "baseline", "now", "now/baseline", "")
    worse = []
    for scenario, number in now.items():
        old = was.get(scenario)
        if same and old is not None and number > old * (1 + TOLERANCE):
            worse.append(f"{scenario}: {number / old - 1:+.1%} instructions")
        table.add_row(
            scenario,
            "-" if old is None else f"{old:,}",
            f"{number:,}",
            "-" if old is None else f"{number / old:.3f}",
            _word(old, number, TOLERANCE) if same else "not compared",
        )
    console.print(table)
    console.print(f"counted by {counted['environment']}", highlight=False)
    if was and not same:
        console.print(f"baseline by {baseline.get('environment')}: not compared", highlight=False)
    return worse


if __name__ == "__main__":
    main()
