"""The run itself: workload after workload, and in each the peers in turn, round after round."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.cpu import QUIET, Disturbance, wait_at_rest
from bench.peers.base import Target
from bench.programs import FailedError, MissingError
from bench.results import Measured
from bench.site import Site
from bench.workloads.base import Rig, Workload

_TRIES = 2
"""A measurement that others disturbed is made once more, and the quieter one counts; not so with
`--quick`, which has little time."""


@dataclass(frozen=True)
class Options:
    """How long and how often."""

    rounds: int
    seconds: int
    quick: bool


def run_workload(
    site: Site, workload: Workload, options: Options, progress: Callable[[str], None]
) -> Measured:
    """Measure one workload through every peer: A B C, A B C, so that drift meets all alike.

    `progress` hears what is being done, once for each measurement. What fails is noted, and the
    other peers are measured all the same.
    """
    pinning = site.pinning(workload)
    measured = Measured.of(workload, pinning.text)
    try:
        targets, measured.notes = site.targets(workload)
        rig = Rig(site.network(workload), pinning, options.seconds, options.quick, progress)
        workload.prepare(rig, targets)
    except (MissingError, FailedError) as error:
        measured.notes.append(str(error))
        return measured
    began = time.monotonic()
    measured.compared = [target.name for target in targets if target.compared]
    for number in range(rounds_of(workload, options)):
        for index, target in enumerate(targets):
            progress(f"{workload.name}  round {number + 1}  {target.name}")
            if workload.fresh and number:
                targets[index] = target = site.renew(workload, target)
            _measure(site, workload, rig, target, measured)
    measured.took = time.monotonic() - began
    return measured


def _measure(site: Site, workload: Workload, rig: Rig, target: Target, measured: Measured) -> None:
    values: dict[str, float] = {}
    try:
        for again in range(1 if rig.quick else _TRIES):
            wait_at_rest(site.pids())
            disturbance = Disturbance(site.pids())
            found = workload.measure(rig, target)
            found["disturbed"] = disturbance.share()
            if not again or found["disturbed"] < values["disturbed"]:
                values = found
            if values["disturbed"] <= QUIET:
                break
    except FailedError as error:
        measured.notes.append(f"{target.name}: {error}")
    # A round that failed keeps its place, so that ratios stay within a round.
    measured.rounds.setdefault(target.name, []).append(values)


def rounds_of(workload: Workload, options: Options) -> int:
    """How many rounds it gets."""
    return min(workload.rounds or options.rounds, options.rounds)


def measurements(workloads: Sequence[Workload], options: Options, peers: int) -> int:
    """How many measurements a run is, for the progress bar."""
    return sum(rounds_of(workload, options) * peers for workload in workloads)
