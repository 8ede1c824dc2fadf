"""One client's connection, from accept to its record.

A session is in intake where its listener wants to know more of the client first; then it is
connecting, then relaying, then sometimes parting: waiting until what was sent to the side that
survived has arrived, so that the reset which it is owed does not overtake it.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from select import EPOLLERR, EPOLLHUP, EPOLLIN
from socket import SocketType
from typing import TYPE_CHECKING, Final

from spliceproxy.relay.relay import Relay, arm_reset, interest
from spliceproxy.relay.tls_flow import secure
from spliceproxy.telemetry.record import ClosedBy, How, Why, milliseconds
from spliceproxy.worker.admission import admitted, leave
from spliceproxy.worker.announcement import announce
from spliceproxy.worker.approach import Step, needs_approach, steps_for
from spliceproxy.worker.connector import Connector
from spliceproxy.worker.deadline import deadline_of
from spliceproxy.worker.early_close import count_early_close, forgive
from spliceproxy.worker.intake import Preread
from spliceproxy.worker.known import balance_key
from spliceproxy.worker.parting import Parting, part
from spliceproxy.worker.pool import Pool, Upstream
from spliceproxy.worker.replay import Replay
from spliceproxy.worker.tcp_options import set_keepalive

if TYPE_CHECKING:
    from spliceproxy.limits.clients import Place
    from spliceproxy.relay.tls_end import TlsEnd
    from spliceproxy.telemetry.counters import Cell
    from spliceproxy.worker.handshake import Handshake
    from spliceproxy.worker.known import Known
    from spliceproxy.worker.listener import ListeningSocket
    from spliceproxy.worker.queue import Wait
    from spliceproxy.worker.tally import Counted
    from spliceproxy.worker.worker import Worker

FIRST_LOOK: Final = 1.0
"""Seconds until a session's timer first comes. Most sessions are over by then, having armed one
timer once; for the others it is the time to do what would have been wasted on the short ones."""


class Session:
    """One client's connection. `slot` belongs to the timers."""

    __slots__ = (
        "_client_events",
        "_connector",
        "_held",
        "_parting",
        "_replay",
        "_settled",
        "cell",
        "client",
        "client_address",
        "connect_ms",
        "counted",
        "entry",
        "handshake",
        "id",
        "known",
        "listener",
        "place",
        "pool",
        "preread",
        "relay",
        "retries",
        "slot",
        "started",
        "tls_error",
        "upstream",
        "upstream_tls",
        "wait",
        "worker",
    )

    def __init__(
        self, worker: Worker, entry: ListeningSocket, client: SocketType, address: object
    ) -> None:
        """`entry` is the socket that accepted `client`, whose `address` accept(2) told."""
        self.worker = worker
        self.entry = entry
        # A reload gives the socket another listener; this session keeps what it began with.
        self.listener = listener = entry.listener
        self.client = client
        self.client_address = address
        self.place: Place | None = None
        """What it has taken of its listener's limits."""
        self.started = worker.loop.now
        self.id = ""
        """What its record calls it, where somebody was told before; else empty until then."""
        self.known: Known | None = None
        self.preread: Preread | None = None
        """Until what the listener wants to know is known; there is no `pool` before."""
        if listener.intake is not None:
            self.preread = Preread(self, listener.intake)
        elif listener.pool is not None:
            self.pool = listener.pool
        self.handshake: Handshake | None = None
        self.upstream: Upstream | None = None
        self._held: Upstream | None = None
        """Connected with, and to be given back to the pool."""
        self.upstream_tls: TlsEnd | None = None
        """Where TLS with the upstream begins here."""
        self.relay: Relay | None = None
        self._replay: Replay | None = None
        self.retries = 0
        self.slot = 0
        self._client_events = 0
        self.connect_ms: float | None = None
        self.cell: Cell | None = None
        """Where it is counted while bytes can flow."""
        self.counted: Counted | None = None
        """What was counted of it so far."""
        self._connector: Connector | None = None
        self._parting: Parting | None = None
        self._settled = False
        self.tls_error: str | None = None
        """What went wrong in TLS, or before it, with the one whose side the record names."""
        self.wait: Wait | None = None

    def start(self) -> None:
        """Watch the client, and look for an upstream."""
        preread = self.preread
        # Whom a PROXY header is to tell of is looked at when it has.
        announced = preread is not None and preread.begins_with_header
        if self.listener.guarded and not announced and not admitted(self):
            return
        self.worker.on_session_start(self)
        client = self.client
        handler = self._on_client_before_relay if preread is None else preread.on_event
        try:
            self.worker.loop.add(client.fileno(), interest(client.family), handler)
        except OSError:  # no memory, or more fds than fs.epoll.max_user_watches allows
            self.abort("no_resources")
            return
        if preread is None:
            self._connect()
        else:
            preread.start()

    def on_intake_over(self, pool: Pool, events: int) -> None:
        """Called by the intake: the client is for `pool`, and `events` of it were seen."""
        self.preread = None
        self.pool = pool
        self._client_events = events
        self.worker.loop.set_handler(self.client.fileno(), self._on_client_before_relay)
        self._connect()

    def _connect(self) -> None:
        """Look for an upstream."""
        pool, loop = self.pool, self.worker.loop
        age = pool.plan.session_timeout
        loop.arm(self, self.started + (FIRST_LOOK if age is None else min(age, FIRST_LOOK)))
        key = balance_key(self) if pool.keyed else b""
        self._connector = connector = Connector(pool, loop, self, key)
        if self.known is not None or pool.tls is not None:
            connector.approaches = needs_approach(self)
        connector.start()

    @property
    def with_upstream(self) -> Upstream | None:
        """The upstream that counts it: it is connected with it, or connecting to it."""
        return self._held if self._connector is None else self._connector.held

    @property
    def parting(self) -> bool:
        """It is over, but for the last bytes on their way to the side that survived."""
        return self._parting is not None

    @property
    def replays(self) -> bool:
        """Its upstream may still be replaced by another one, which would get the same bytes."""
        relay = self.relay
        return self._replay is not None and relay is not None and relay.first_byte_at is None

    def owns(self, thing: object) -> bool:
        """Whether `thing` is the session or one of its parts."""
        if isinstance(thing, Connector):  # also one that is connecting no more
            return thing.waiting is self
        if getattr(thing, "session", None) is self:  # a stage before or after the relay
            return True
        relay = self.relay
        flows = () if relay is None else (relay, relay.up, relay.down)
        return thing in (self, *flows) or (thing is not None and thing is self._replay)

    def _on_client_before_relay(self, events: int) -> None:
        """Remember what the client did, for the relay. A reset ends the wait for an upstream."""
        self._client_events |= events
        if events & (EPOLLERR | EPOLLHUP):
            connector = self._connector
            if self.client.family != socket.AF_UNIX or (connector and connector.queued):
                self.end("client", "reset", "client_reset")

    def on_queued(self) -> None:
        """Called by the connector. A client of a UNIX socket may have gone before; what it sent is
        not worth a place for which others wait."""
        if self._client_events & (EPOLLERR | EPOLLHUP):
            self.end("client", "reset", "client_reset")

    def on_pool(self, pool: Pool) -> bytes:
        """Called by the connector: a reload put another pool of the same name in its place."""
        self.pool = pool
        if self._connector is not None:
            self._connector.approaches = needs_approach(self)
        return balance_key(self) if pool.keyed else b""

    def steps(self, upstream: Upstream) -> list[Step]:
        """Called by the connector: what is done before bytes can flow."""
        return steps_for(self, upstream)

    def on_connected(self, sock: SocketType, upstream: Upstream, events: int) -> None:
        """Called by the connector: bytes can flow."""
        connector, worker = self._connector, self.worker
        assert connector is not None
        self._connector = None
        self.wait = connector.wait
        self.upstream = self._held = upstream
        self.retries = connector.retries
        self.connect_ms = milliseconds(worker.loop.now - connector.began)
        worker.tally.on_connected(self, upstream)
        relay = Relay(self.client, sock, worker.means, worker.loop, self._on_relay_change)
        self.relay = relay
        if self.listener.pace is not None:
            self.listener.pace.set(relay, worker.loop)
        if worker.loop.now - self.started >= FIRST_LOOK:
            self._settle(relay)
        if self._settled or self.pool.shortest_silence < FIRST_LOOK:
            self._arm()
        plan, client_events = self.pool.plan, self._client_events
        tls = None if self.known is None else self.known.tls
        if tls is not None or self.upstream_tls is not None:
            secure(relay, tls, self.upstream_tls)
            if self.upstream_tls is not None:
                events |= EPOLLIN  # decrypted bytes may be there, of which no event tells
        if plan.send_proxy is not None and not connector.approaches:
            # What a TLS client has sent need not bring a byte.
            client_events |= announce(self, relay.up, 0 if tls else client_events)
        # A reload may have taken `replay` away from a session whose first bytes are kept.
        if plan.replay is None and self._replay is None:
            relay.start(client_events, events)
            return
        self._replay = replay = self._replay or Replay(self)
        replay.tried = connector.tried
        replay.start(relay, client_events, events)

    def reconnect(self, connector: Connector, pool: Pool, *, by_fin: bool) -> None:
        """Called by the replay: the upstream ended without a byte, and is left for one of `pool`,
        which may have taken the place of the session's."""
        relay, held = self.relay, self._held
        assert relay is not None
        assert held is not None
        if by_fin:
            count_early_close(self, relay)
        self.worker.tally.on_left(self)
        self.relay = self._held = self.upstream = self.upstream_tls = self.connect_ms = None
        self.pool.give_back(held)
        self.pool = pool
        self._connector = connector
        connector.approaches = needs_approach(self)
        client, loop = self.client, self.worker.loop
        loop.set_handler(client.fileno(), self._on_client_before_relay)
        if client.family == socket.AF_UNIX:  # its close may have been told already: once more
            loop.modify(client.fileno(), interest(client.family))

    def on_try_failed(self, upstream: Upstream, why: Why) -> None:
        """Called by the connector: `upstream` could not be connected."""
        self.worker.tally.on_try_failed(self, upstream, why)

    def on_failing(self, upstream: Upstream, why: Why) -> None:
        """Called by the connector: that upstream failed again and again."""
        self.worker.on_failing(upstream, why)

    def on_not_connected(self, why: Why) -> None:
        """Called by the connector: there is no upstream for this client."""
        self.abort(why)

    def _on_relay_change(self, relay: Relay) -> None:
        """A flow is over."""
        if not relay.over:
            if relay.first_over is relay.down and not relay.down.moved:
                count_early_close(self, relay)
            if self._settled or self.pool.shortest_silence < FIRST_LOOK:
                self._arm()
        elif relay.broken is None:
            first = relay.first_over
            self.end("client" if first is relay.up else "upstream", "fin", "done")
        else:
            self._parting = part(self, relay)

    def _arm(self) -> None:
        """Arm the timer for whatever comes first."""
        deadline = deadline_of(self)[0]
        connector = self._connector
        if connector is not None and connector.wake is not None:
            deadline = connector.wake if deadline is None else min(deadline, connector.wake)
        if deadline is not None:
            self.worker.loop.arm(self, deadline)

    def _settle(self, relay: Relay) -> None:
        """The session has lived for a moment, and may live on for hours."""
        self._settled = True
        if self.upstream is not None:
            forgive(self.upstream, relay)
        if relay.down.src.family != socket.AF_UNIX:
            with suppress(OSError):  # reset meanwhile: the relay will see it
                set_keepalive(relay.down.src, self.pool.plan.tcp)

    def on_deadline(self, now: float) -> None:
        """The deadline that was armed has come; it may have moved since."""
        stage = self.handshake or self.preread or self._parting
        if stage is not None:
            stage.on_deadline(now)
            return
        connector = self._connector
        if connector is not None and connector.wake is not None and now >= connector.wake:
            connector.on_wake(now)
            if self not in self.worker.sessions:
                return
        if self.relay is not None and not self._settled:
            self._settle(self.relay)
        deadline, why = deadline_of(self)
        if deadline is not None and now >= deadline:
            self.abort(why)
        else:
            self._arm()

    def leave_upstream(self, why: Why) -> None:
        """Its upstream is to have no sessions: end, or connect elsewhere while that can be."""
        if self._connector is None:
            self.abort(why)
        else:
            self._connector.move_on(why)

    def abort(self, why: Why) -> None:
        """End the session from our side, by a reset: neither peer may take it for finished."""
        sides = [self.client] if self.relay is None else [self.client, self.relay.down.src]
        for sock in sides:
            if sock.family != socket.AF_UNIX:
                arm_reset(sock)
        self.end("proxy", "reset", why)

    def end(self, closed_by: ClosedBy, how: How, why: Why) -> None:
        """Write the record, close what is open, and give the place to the next client."""
        worker = self.worker
        loop = worker.loop
        loop.wheel.disarm(self)
        connector = self._connector
        if connector is not None:
            self.upstream = connector.upstream
            self.retries = connector.retries
            connector.cancel()
            self.wait = connector.wait
            self._connector = None
        held = self._held
        if held is not None:
            self._held = None
            self.pool.give_back(held)
        replay = self._replay
        if replay is not None:
            replay.relay = self._replay = None
        relay = self.relay
        if relay is not None:
            relay.abandon()
            upstream = self.upstream
            if upstream is not None and upstream.early_closes:
                forgive(upstream, relay)
        worker.tally.on_end(self, closed_by, how, why)
        worker.records.tell(self, closed_by, how, why)
        if self.handshake is not None:
            self.handshake.on_session_end()
        self.preread = self.handshake = self._parting = None
        loop.close_socket_later(self.client)
        if relay is not None:
            loop.close_socket_later(relay.down.src)
            loop.close_later(relay)
            self.relay = None
        if self.place is not None:
            leave(self, self.place)
        worker.on_session_end(self)
