"""What all flows of a worker share: one copy buffer, the pipes, and the way to use them."""

from __future__ import annotations

from typing import Final

from spliceproxy.relay.pipes import PipePool

COPY_SIZE: Final = 64 * 1024
"""Bytes of the copy buffer: a read that fills it promotes the flow."""
JUDGE_SIZE: Final = 4096
"""Bytes that a promoted flow reads to learn whether its source is dry: little is copied so."""


class Means:
    """The copy buffer, the pool of pipes, and when a flow turns from the one to the other."""

    __slots__ = ("buffer", "demotes", "judge_view", "pipes", "promotes", "starts_bulk", "view")

    def __init__(self, mode: str, pipes: PipePool) -> None:
        """`mode`: adaptive, splice (pipes from the first byte) or copy (never a pipe)."""
        self.buffer = bytearray(COPY_SIZE)
        self.view = memoryview(self.buffer)
        self.judge_view = self.view[:JUDGE_SIZE]
        self.pipes = pipes
        self.promotes = mode != "copy"
        self.demotes = mode == "adaptive"
        self.starts_bulk = mode == "splice"
