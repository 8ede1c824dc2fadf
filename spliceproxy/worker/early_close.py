"""Upstreams that end first, by FIN and without a byte.

Where `eject.on` has early_close, that is a failure of theirs, until one of them sends something.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spliceproxy.relay.relay import Relay
    from spliceproxy.worker.pool import Upstream
    from spliceproxy.worker.session import Session


def count_early_close(session: Session, relay: Relay) -> None:
    """The upstream ended first, without a byte, and by FIN: a reset ends both flows at once."""
    upstream, eject = session.upstream, session.pool.plan.eject
    assert upstream is not None
    if eject is not None and eject.early_close and relay.up.moved > 0:
        upstream.early_closes += 1
        if upstream.early_closes >= eject.after:
            session.worker.on_failing(upstream, "early_close")


def forgive(upstream: Upstream, relay: Relay) -> None:
    """An upstream that sent something closes early no more."""
    if relay.down.moved:
        upstream.early_closes = 0
