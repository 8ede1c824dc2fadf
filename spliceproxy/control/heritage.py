"""What the processes counted that this one replaced: counts go on over an upgrade.

The regions of their workers (telemetry/counters.py) are inherited as the memory that they are, and
read for as long as somebody may write them. What belonged to a process that is gone is added, at
the next upgrade, to a region that the new supervisor writes, so that no heritage grows for ever.
A program whose regions are made in another way leaves nothing that could be read.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence

import structlog

from spliceproxy.control.handover import LeftBoard
from spliceproxy.telemetry.board import Board
from spliceproxy.telemetry.counters import LAYOUT, Region, region_bytes
from spliceproxy.telemetry.ledger import Ledger

_log = structlog.get_logger()


class Heritage:
    """The regions that were left to this process; `regions` are those that may still be written."""

    def __init__(self, left: Sequence[LeftBoard], board: Board) -> None:
        """Takes over the fds. What is over is counted in the history of `board` from now on."""
        self._left: list[LeftBoard] = []
        self.regions: list[memoryview] = []
        history = Region(board.history)
        for one in left:
            if one.layout != LAYOUT:
                _log.warning("counts begin anew: the program before this one counted otherwise")
                os.close(one.fd)
                continue
            regions = _regions(one)
            if one.over:
                history.absorb(Ledger.of(regions).edges)
                os.close(one.fd)
            else:
                self.regions += regions
                self._left.append(one)

    def leave(self, board: int, workers: int, *, over: bool) -> list[LeftBoard]:
        """What a successor gets, with the fd of this process's own board; `over`: the processes
        before this one are gone."""
        own = LeftBoard(
            fd=board,
            start=Board.counters_start(workers),
            regions=workers + 1,
            layout=LAYOUT,
            over=False,
        )
        older = [LeftBoard(one.fd, one.start, one.regions, one.layout, over) for one in self._left]
        return [own, *older]

    def close(self) -> None:
        """Close the fds; the regions stay readable."""
        for one in self._left:
            os.close(one.fd)
        self._left = []


def _regions(left: LeftBoard) -> list[memoryview]:
    size = region_bytes()
    memory = mmap.mmap(left.fd, left.regions * size, prot=mmap.PROT_READ, offset=left.start)
    words = memoryview(memory).cast("Q")
    return [words[n * size // 8 : (n + 1) * size // 8] for n in range(left.regions)]
