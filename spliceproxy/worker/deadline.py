"""When silence or age ends a session."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spliceproxy.telemetry.record import Why
    from spliceproxy.worker.session import Session


def deadline_of(session: Session) -> tuple[float | None, Why]:
    """The earliest moment of the loop's clock at which it would end, and why; None: never."""
    plan = session.pool.plan
    deadline: float | None = None
    why: Why = "session_timeout"
    if plan.session_timeout is not None:
        deadline = session.started + plan.session_timeout
    relay = session.relay
    if relay is not None:
        silence = plan.idle_timeout
        name: Why = "idle_timeout"
        if relay.half_closed:
            silence, name = plan.half_close_timeout, "half_close_timeout"
        if silence is not None:
            silent = max(relay.up.touched, relay.down.touched) + silence
            if deadline is None or silent < deadline:
                deadline, why = silent, name
    return deadline, why
