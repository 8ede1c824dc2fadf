"""Session records on their way: to the log that keeps them, and to whoever watches live."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Final

import structlog

from spliceproxy.telemetry import log
from spliceproxy.telemetry.counters import RECORDS, RECORDS_DROPPED, RECORDS_WRITTEN
from spliceproxy.telemetry.record import wanted
from spliceproxy.telemetry.writer import RecordWriter
from spliceproxy.worker.session_record import refusal_record, session_record
from spliceproxy.worker.timers import Alarm

if TYPE_CHECKING:
    from spliceproxy.ipc import Snapshot
    from spliceproxy.telemetry.record import ClosedBy, How, Record, Why
    from spliceproxy.worker.loop import Loop
    from spliceproxy.worker.session import Session
    from spliceproxy.worker.streams import Streams

FLUSH_AFTER: Final = 0.1
"""Seconds that session records gather before they are written."""
CLOSE_TIMEOUT: Final = 0.5
"""Seconds that the last session records may take to be written: less than the second after which
the supervisor kills a worker that was told to end at once, so that the lost ones are counted."""


class Records:
    """Tells of sessions that ended."""

    __slots__ = ("_flush", "_log", "_loop", "_region", "_streams", "_writer")

    def __init__(self, loop: Loop, region: memoryview, streams: Streams, worker: int) -> None:
        """`region` is the worker's, where the records are counted."""
        self._loop = loop
        self._region = region
        self._streams = streams
        self._writer: RecordWriter | None = None
        self._flush = Alarm(self._on_flush)
        # Not bind(): that would choose, for ever, the destination from before log.set_up().
        self._log = structlog.get_logger(worker=worker)

    def open(self, snapshot: Snapshot) -> None:
        """Begin to write where the configuration says, once and for all."""
        console = (
            snapshot.sessions_to == "stdout" and snapshot.log_format != "json" and os.isatty(1)
        )
        # Sessions matter more than their records: a file that cannot be had stops nobody.
        self._writer = RecordWriter(
            snapshot.sessions_to,
            console=console,
            colour=log.colour_wanted(1),
            patient=True,
            on_written=self._on_written,
        )

    def tell(self, session: Session, closed_by: ClosedBy, how: How, why: Why) -> None:
        """A session ends now; its parts are still there."""
        kept = session.listener.records_all or self._keeps(session, why)
        watched = bool(self._streams.open) and self._streams.wants(why)
        if kept or watched:
            self._pass_on(session_record(session, closed_by, how, why), kept, watched)

    def tell_refused(self, session: Session, how: How, why: Why) -> None:
        """A client was refused before its session began."""
        kept = session.listener.records_all or self._keeps(session, why)
        watched = bool(self._streams.open) and self._streams.wants(why)
        if kept or watched:
            self._pass_on(refusal_record(session, how, why), kept, watched)

    def _keeps(self, session: Session, why: Why) -> bool:
        """Whether the configuration has this record written."""
        plan = session.listener.plan
        return wanted(plan.keep, plan.sample, why, random.random)

    def _pass_on(self, record: Record, kept: bool, watched: bool) -> None:
        if watched:
            self._streams.tell(record)
        writer = self._writer
        if kept and writer is not None:
            self._region[RECORDS] += 1
            writer.write(record)
            if not self._flush.slot:
                self._loop.arm(self._flush, self._loop.now + FLUSH_AFTER)

    def _on_flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def _on_written(self, records: int) -> None:
        """Called by the writer's thread, which alone writes this slot."""
        self._region[RECORDS_WRITTEN] += records

    def reopen(self) -> None:
        """Open the file anew: it was rotated."""
        if self._writer is not None:
            self._writer.reopen()

    def report(self) -> None:
        """Say how many were lost since the last time."""
        writer = self._writer
        dropped = 0 if writer is None else writer.take_dropped()
        if writer is not None and dropped:
            self._region[RECORDS_DROPPED] += dropped
            self._log.warning("session records dropped", records=dropped, reason=writer.trouble)

    def close(self) -> None:
        """Write what waits, for a moment at the most."""
        if self._writer is not None:
            self._writer.close(CLOSE_TIMEOUT)
            self.report()
