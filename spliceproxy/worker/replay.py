"""Retry before the first byte: another upstream for a session whose upstream ended without one."""

from __future__ import annotations

from socket import AF_UNIX
from typing import TYPE_CHECKING

from spliceproxy.relay.relay import Relay, arm_reset
from spliceproxy.relay.trial import Trial
from spliceproxy.worker.connector import Connector
from spliceproxy.worker.pool import client_key

if TYPE_CHECKING:
    from spliceproxy.worker.session import Session


class Replay(Trial):
    """The trial of a session, which asks the session's pool for other upstreams.

    Each upstream that is replaced costs one of `retries`, as one that cannot be connected does.
    """

    __slots__ = ("_session", "tried")

    def __init__(self, session: Session) -> None:
        limit = session.pool.plan.replay
        assert limit is not None
        super().__init__(limit, session.worker.loop)
        self._session = session
        self.tried: tuple[int, ...] = ()
        """Indices of the upstreams tried so far, the present one included."""

    def replace(self, relay: Relay, by_fin: bool) -> bool:
        """Where a try and an upstream are left, have the session connect to that one.

        The upstream that is left gets a reset: after a FIN it could take what it has for all of it.
        """
        session, tried = self._session, self.tried
        pool = session.pool
        if len(tried) > pool.plan.retries:
            return False
        key = client_key(session.client_address) if pool.keyed else b""
        other = pool.take(tried, key)
        if other is None:
            return False
        sock, loop = relay.down.src, session.worker.loop
        if sock.family != AF_UNIX:
            arm_reset(sock)
        relay.abandon()
        loop.close_socket_later(sock)
        loop.close_later(relay)
        connector = Connector(pool, loop, session, key)
        connector.wait = session.wait  # what it has waited already is told, and counts
        session.reconnect(connector, by_fin=by_fin)
        connector.start_with(other, tried)
        return True
