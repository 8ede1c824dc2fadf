"""The one session record that the supervisor writes: how many sessions died with a worker."""

from __future__ import annotations

import os

import structlog

from spliceproxy.control.worker_process import WorkerProcess
from spliceproxy.errors import SpliceproxyError
from spliceproxy.telemetry.log import colour_wanted
from spliceproxy.telemetry.record import worker_died_record
from spliceproxy.telemetry.writer import RecordWriter

_log = structlog.get_logger()
_CLOSE_TIME = 1.0
_STDOUT = 1


class Obituary:
    """Writes a `worker_died` record where the workers write theirs.

    Its writer, a thread, exists from the first death on only.
    """

    def __init__(self, to: str, log_format: str) -> None:
        """`to` is `stdout` or `file:/path`; `log_format` is auto, console or json."""
        self._to = to
        self._console = to == "stdout" and log_format != "json" and os.isatty(_STDOUT)
        self._writer: RecordWriter | None = None

    def write(self, worker: WorkerProcess, lost: int, lost_records: int) -> None:
        """Record that `worker` died with `lost` sessions, and with the records of others."""
        try:
            if self._writer is None:
                self._writer = RecordWriter(
                    self._to, console=self._console, colour=colour_wanted(_STDOUT), mends=True
                )
        except SpliceproxyError as error:
            _log.error("session record not written", error=str(error))
            return
        self._writer.write(
            worker_died_record(
                worker=worker.index,
                pid=worker.pid,
                lost=lost,
                lost_records=lost_records,
                start=worker.started_at,
                duration=worker.age,
            )
        )
        self._writer.flush()

    def reopen(self) -> None:
        """Open the file anew: it was rotated."""
        if self._writer is not None:
            self._writer.reopen()

    def close(self) -> None:
        """Write what waits, for a second at most."""
        if self._writer is not None:
            self._writer.close(_CLOSE_TIME)
