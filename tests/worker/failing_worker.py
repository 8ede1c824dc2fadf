"""A worker with mistakes in it, as the next change of the program may bring: see
test_session_mistakes. Started like `python -m spliceproxy.worker`."""

from __future__ import annotations

import sys

from spliceproxy.relay.flow import Flow
from spliceproxy.relay.relay import Relay
from spliceproxy.relay.trial import Trial
from spliceproxy.worker.__main__ import main
from spliceproxy.worker.connector import Connector
from spliceproxy.worker.session import Session


class MistakeError(Exception):
    """Something that nobody thought of."""


def move_copy(self: Flow, budget: int, view: memoryview) -> int:
    verdict = well_moving(self, budget, view)
    if self.means.buffer.startswith(b"mistake in a handler"):
        self.means.buffer[:7] = b"handled"
        raise MistakeError("in a handler of the relay")
    return verdict


def start(self: Connector) -> None:
    if self._pool.name == "mistake":
        raise MistakeError("while a client is accepted")
    well_starting(self)


def on_deadline(self: Session, now: float) -> None:
    if self.entry.listener.pool.name == "mistake in a timer":
        raise MistakeError("in a timer")
    well_timed(self, now)


def send(self: Trial, relay: Relay) -> bool:
    sent = well_sending(self, relay)
    if self._kept == b"mistake in a trial":
        raise MistakeError("before the first byte")
    return sent


well_moving, Flow._move_copy = Flow._move_copy, move_copy  # type: ignore[method-assign]
well_starting, Connector.start = Connector.start, start  # type: ignore[method-assign]
well_timed, Session.on_deadline = Session.on_deadline, on_deadline  # type: ignore[method-assign]
well_sending, Trial._send = Trial._send, send  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
