"""`python -m bench`: the command behind `make bench`."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.machine import describe_machine
from bench.peers import PEERS, Ours, Peer
from bench.place import PINNINGS
from bench.programs import raise_fd_limit
from bench.results import Results
from bench.rounds import Options, measurements, run_workload
from bench.site import Site
from bench.table import print_comparison, print_results
from bench.workloads import Workload, all_workloads

LATEST = Path("build/bench/latest.json")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="The main workloads only, fewer rounds.")
@click.option("--only", multiple=True, metavar="NAME", help="Workloads whose name begins so.")
@click.option("--peer", "only_peers", multiple=True, metavar="NAME", help="Only these peers.")
@click.option("--list", "list_them", is_flag=True, help="Name the workloads and end.")
@click.option("--rounds", type=click.IntRange(1), help="Rounds; 5, and 3 with --quick.")
@click.option("--seconds", type=click.IntRange(1), default=1, help="Length of a measurement.")
@click.option("--pin", type=click.Choice(PINNINGS), help="One layout for all; see README.md.")
@click.option(
    "--beside",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Another checkout of spliceproxy, measured in the same rounds.",
)
@click.option("--nice", type=int, default=0, help="Priority of all that runs; -10 where root.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), default=LATEST)
@click.option("--compare", nargs=2, type=click.Path(exists=True, path_type=Path), help="OLD NEW")
def main(
    quick: bool,
    only: tuple[str, ...],
    only_peers: tuple[str, ...],
    list_them: bool,
    rounds: int | None,
    seconds: int,
    pin: str | None,
    beside: Path | None,
    nice: int,
    json_path: Path,
    compare: tuple[Path, Path] | None,
) -> None:
    """Measure spliceproxy beside HAProxy, nginx, Envoy and no proxy at all.

    The exit code is 1 where a measurement failed; a target that is missed is no failure.
    """
    console = Console() if sys.stdout.isatty() else Console(width=170)
    if compare:
        print_comparison(console, Results.read(compare[0]), Results.read(compare[1]))
        return
    workloads = _select(only, quick)
    if list_them:
        for workload in workloads:
            console.print(f"{workload.name:28} {workload.title}", highlight=False)
        return
    if nice:
        os.nice(nice)
    options = Options(rounds or (3 if quick else 5), seconds, quick)
    results = _run(console, workloads, options, only_peers, pin, beside)
    results.write(json_path)
    print_results(console, results)
    console.print(f"kept in {json_path}")
    if any(measured.notes for measured in results.workloads):
        sys.exit(1)


def _select(only: tuple[str, ...], quick: bool) -> list[Workload]:
    chosen = [
        workload
        for workload in all_workloads()
        if (workload.name.startswith(only) if only else workload.quick or not quick)
    ]
    if not chosen:
        raise click.UsageError(f"no workload begins with {' or '.join(only)}; see --list")
    return chosen


def _run(
    console: Console,
    workloads: list[Workload],
    options: Options,
    only_peers: tuple[str, ...],
    pin: str | None,
    beside: Path | None,
) -> Results:
    machine = describe_machine()
    raise_fd_limit()
    # Ctrl-C and a stop from outside both take the ordinary way out, which leaves nothing behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        peers: list[Peer] = [kind(directory) for kind in PEERS]
        if beside is not None:
            peers.insert(1, Ours(directory, "beside", beside.resolve()))
        if only_peers:
            peers = [peer for peer in peers if peer.name in only_peers]
        site = Site(directory, peers, pin)
        said = {"rounds": options.rounds, "seconds": options.seconds, "pin": pin}
        results = Results(machine, said, site.versions, site.missing)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        try:
            with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
                total = measurements(workloads, options, len(site.versions))
                task = bar.add_task("starting", total=total)
                for workload in workloads:

                    def step(text: str) -> None:
                        bar.update(task, advance=1, description=f"{text:48}")

                    results.workloads.append(run_workload(site, workload, options, step))
        finally:
            site.close()
    return results


if __name__ == "__main__":
    main()
