"""The results for people: a table of medians and ratios, with the targets beside them."""

from __future__ import annotations

from statistics import median

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.cpu import QUIET
from bench.results import OURS, Measured, Results
from bench.workloads.base import Metric


def figure(value: float | None) -> str:
    """Three or four digits that matter."""
    if value is None:
        return "-"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.1f}k"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def target_text(metric: Metric) -> str:
    """The target, and the stretch where there is one: `≥ 0.9 (1.0)`.

    It is of the ratio, or of our figure itself.
    """
    if metric.target is None:
        return ""
    sign = "≥" if metric.higher_is_better else "≤"
    stretch = "" if metric.stretch is None else f" ({metric.stretch:g})"
    what = " itself" if metric.absolute else ""
    return f"{sign} {metric.target:g}{stretch}{what}"


def verdict(measured: Measured, metric: Metric) -> str:
    """Whether the target is met, in a word with a colour."""
    value = measured.judged(metric)
    if metric.target is None or value is None:
        return ""
    if metric.stretch is not None and metric.meets(value, metric.stretch):
        return "[green]stretch[/]"
    return "[green]met[/]" if metric.meets(value, metric.target) else "[red]missed[/]"


def print_results(console: Console, results: Results) -> None:
    """Everything: the machine, the medians, what is missing."""
    machine = results.machine
    console.print(
        f"{machine['cpu']}, {machine['cpus']} CPUs, Linux {machine['kernel']} "
        f"({machine.get('congestion_control', '?')}), "
        f"{machine['system']}, Python {machine['python']}, "
        f"revision {machine['revision'] or 'unknown'}"
    )
    console.print(", ".join(results.versions.values()))
    peers = list(results.versions)
    table = Table("workload", "figure", *peers, "ratio", "best peer", "target", "")
    for column in table.columns[2 : 3 + len(peers)]:
        column.justify = "right"
    for measured in results.workloads:
        _rows(table, measured, peers)
    console.print(table)
    _print_notes(console, results)


def _rows(table: Table, measured: Measured, peers: list[str]) -> None:
    title = measured.name
    if not measured.rounds:
        table.add_row(title, "[red]not measured, see below[/]", end_section=True)
        return
    for metric in measured.metrics:
        if all(measured.median(peer, metric.name) is None for peer in peers):
            continue  # a size that --quick leaves out
        medians = [figure(measured.median(peer, metric.name)) for peer in peers]
        ratio = measured.ratio(metric)
        table.add_row(
            title,
            metric.unit,
            *medians,
            "-" if ratio is None else f"{ratio:.3f}{_mark(measured, metric)}",
            measured.best_peer(metric) or "-",
            target_text(metric),
            verdict(measured, metric),
            end_section=metric is measured.metrics[-1],
        )
        title = ""


def _mark(measured: Measured, metric: Metric) -> str:
    rate = metric.unit.endswith("/s")
    return "°" if rate and measured.limited_by_load() else " "


def _print_notes(console: Console, results: Results) -> None:
    for measured in results.workloads:
        for note in dict.fromkeys(measured.notes):
            console.print(f"[red]{measured.name}:[/] {escape(note)}", highlight=False)
    for what, why in results.missing.items():
        console.print(f"[yellow]not measured: {what}:[/] {escape(why)}", highlight=False)
    _print_disturbance(console, results)
    layouts = sorted({measured.pinning for measured in results.workloads})
    console.print("CPUs: " + "; or ".join(layouts))
    met = [verdict(m, metric) for m in results.workloads for metric in m.metrics]
    console.print(
        f"targets: {sum('green' in word for word in met)} met "
        f"({sum('stretch' in word for word in met)} of them the stretch), "
        f"{sum('missed' in word for word in met)} missed. "
        f"Ratios: {OURS} to the best peer of the same round, median of the rounds. "
        "°: no proxy's CPU was at its limit, the load's or the origin's was."
    )


def _print_disturbance(console: Console, results: Results) -> None:
    """Say how quiet the machine was: with others at work, rates and times are worth little."""
    shares = [
        values["disturbed"]
        for measured in results.workloads
        for rounds in measured.rounds.values()
        for values in rounds
        if "disturbed" in values
    ]
    if shares:
        middle, most = median(shares), max(shares)
        colour = "red" if middle > QUIET else "green"
        console.print(
            f"[{colour}]other processes took {middle:.0%} of the CPUs (median; at most {most:.0%})"
            + ("[/]: repeat this on a quiet machine" if middle > QUIET else "[/]")
        )


def print_comparison(console: Console, old: Results, new: Results) -> None:
    """Two runs side by side: our figures, and our ratios, which the machine's mood moves less."""
    console.print(f"old: revision {old.machine['revision']}, new: {new.machine['revision']}")
    table = Table("workload", "figure", "old", "new", "new/old", "ratio old", "ratio new", "")
    before = {measured.name: measured for measured in old.workloads}
    for measured in new.workloads:
        if measured.name not in before:
            continue
        for metric in measured.metrics:
            _compare(table, before[measured.name], measured, metric)
    console.print(table)


def _compare(table: Table, old: Measured, new: Measured, metric: Metric) -> None:
    was, now = old.median(OURS, metric.name), new.median(OURS, metric.name)
    if was is None or now is None:
        return
    ratios = old.ratio(metric), new.ratio(metric)
    basis = (ratios[0], ratios[1]) if None not in ratios else (was, now)
    change = (basis[1] or 0) / basis[0] if basis[0] else 1.0
    better = change if metric.higher_is_better else 1 / change if change else 1.0
    word = "[green]better[/]" if better > 1.03 else "[red]worse[/]" if better < 0.97 else ""
    shown = ["-" if ratio is None else f"{ratio:.3f}" for ratio in ratios]
    quotient = f"{now / was:.3f}" if was else "-"
    table.add_row(new.name, metric.unit, figure(was), figure(now), quotient, *shown, word)
