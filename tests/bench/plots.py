"""`python -m bench.plots [JSON]`: the results as drawings that a README can show.

Each is SVG without a background, in colours that can be read on white and on black.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from bench.results import OURS, Measured, Results
from bench.table import figure
from bench.workloads.base import Metric

try:
    import matplotlib as mpl
    from matplotlib import pyplot as plt
except ImportError:
    mpl = plt = None

COLOURS = {
    OURS: "#e4572e",
    "haproxy": "#3d8bd4",
    "nginx": "#2ea36b",
    "envoy": "#a06cd5",
    "direct": "#8a8f98",
}
_GREY = "#80868f"
"""For words and axes: 4:1 against both white and GitHub's dark grey."""
_HERE = Path(__file__).parent.parent.parent


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", type=click.Path(path_type=Path), default="build/bench/latest.json")
@click.option("--to", "directory", type=click.Path(path_type=Path), default=_HERE / "docs/bench")
def main(source: Path, directory: Path) -> None:
    """Draw every group of workloads of a run into DIRECTORY, and its JSON beside them."""
    if plt is None:
        sys.exit("matplotlib is not installed; make bench-plots installs it")
    try:
        results = Results.read(source)
    except (OSError, ValueError) as error:
        sys.exit(f"{source}: {error}; run make bench first")
    directory.mkdir(parents=True, exist_ok=True)
    # Text stays text, so that a drawing is small; ids do not change by chance.
    style = {"svg.fonttype": "none", "svg.hashsalt": "bench", "font.family": "sans-serif"}
    with mpl.rc_context(style):
        for group in dict.fromkeys(measured.group for measured in results.workloads):
            members = [m for m in results.workloads if m.group == group and m.rounds]
            for name, panels in _drawings(group, members):
                path = directory / f"{name}.svg"
                _draw(path, panels, list(results.versions))
                click.echo(f"wrote {path}")
    results.write(directory / "results.json")


Bars = Sequence[tuple[str, Measured, Metric]]
Panel = tuple[str, Bars]


def _drawings(group: str, members: list[Measured]) -> list[tuple[str, list[Panel]]]:
    """File names of a group, and for each its panels: a unit, and the bars that are in it."""
    panels: dict[str, list[tuple[str, Measured, Metric]]] = {}
    for measured in members:
        for metric in measured.metrics:
            known = any(measured.median(peer, metric.name) is not None for peer in measured.rounds)
            if metric.plotted and known:
                unit, _, beside = metric.unit.partition(" beside ")
                label = f"beside {beside}" if beside else measured.label
                panels.setdefault(unit, []).append((label, measured, metric))
    name = group.replace(" ", "-")
    most = max((len(bars) for bars in panels.values()), default=0)
    if most <= 9:
        return [(name, list(panels.items()))] if panels else []
    # Too many for one drawing: one for each number of connections.
    found = []
    for ending in dict.fromkeys(measured.label.split()[-1] for measured in members):
        chosen = [
            (unit, [bar for bar in bars if bar[0].split()[-1] == ending])
            for unit, bars in panels.items()
        ]
        found.append((f"{name}-{ending}", chosen))
    return found


def _draw(path: Path, panels: list[Panel], peers: list[str]) -> None:
    height = 0.9 + 2.3 * len(panels)
    drawing, axes = plt.subplots(len(panels), 1, figsize=(8.6, height), squeeze=False)
    for axis, (unit, bars) in zip(axes[:, 0], panels, strict=True):
        _panel(axis, unit, bars, peers)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    drawing.legend(
        handles, labels, ncols=len(peers), loc="upper center", frameon=False, labelcolor=_GREY
    )
    drawing.tight_layout(rect=(0, 0, 1, 1 - 0.4 / height))
    drawing.savefig(path, transparent=True, metadata={"Date": None})
    plt.close(drawing)


def _panel(axis: Any, unit: str, bars: Bars, peers: list[str]) -> None:
    """Groups of bars, each scaled to its highest, so that 12 B and 1 MiB can stand side by side.

    The figure stands on each bar.
    """
    width = 0.84 / len(peers)
    for number, peer in enumerate(peers):
        xs, heights, words = [], [], []
        for place, (_, measured, metric) in enumerate(bars):
            value = measured.median(peer, metric.name)
            known = [measured.median(each, metric.name) or 0.0 for each in peers]
            if value is not None:
                xs.append(place + (number - (len(peers) - 1) / 2) * width)
                heights.append(value / (max(known) or 1))
                words.append(figure(value))
        colour = COLOURS.get(peer, _GREY)
        drawn = axis.bar(xs, heights, width * 0.92, label=peer, color=colour)
        axis.bar_label(drawn, words, padding=2, color=_GREY, fontsize=6.5, rotation=90)
    better = "more" if bars[0][2].higher_is_better else "less"
    axis.set_title(f"{unit} ({better} is better)", color=_GREY, fontsize=9, loc="left")
    axis.set_xticks(range(len(bars)), [label for label, *_ in bars], color=_GREY, fontsize=8)
    axis.set_ylim(0, 1.32)
    axis.set_yticks([])
    axis.tick_params(length=0)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(_GREY)


if __name__ == "__main__":
    main()
