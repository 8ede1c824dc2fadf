"""Intake: what must be known of a client before it is connected.

1. Whether a PROXY header comes first is decided by the peer's address alone. Its bytes, and no
   others, are taken out of the socket; all else is looked at by MSG_PEEK, for the upstream to get.
2. While more is needed SO_RCVLOWAT keeps the worker asleep until as much may be there (socket(7));
   FIN and reset wake all the same. A client that makes it look again and again is looked at by
   the timer, so that bytes sent one by one make no work for each; one that is silent makes none.
3. What was peeked at raises no further event: who goes on is told of it as of one.
4. A UNIX socket knows no SO_RCVLOWAT, and its hang-up says no more than a FIN.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import partial
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLRDHUP
from socket import AF_UNIX, MSG_DONTWAIT, MSG_PEEK, SO_RCVLOWAT, SOL_SOCKET
from typing import TYPE_CHECKING, Final

from spliceproxy.balance.round_robin import RoundRobin
from spliceproxy.wire.client_hello import MAX_BYTES, ClientHelloError, ClientHelloReader
from spliceproxy.wire.http_host import read_http_host
from spliceproxy.wire.need import Need
from spliceproxy.wire.networks import NONE
from spliceproxy.wire.protocol import Protocol, candidates, sniff
from spliceproxy.wire.proxy_protocol import ProxyHeaderError, parse_proxy_header
from spliceproxy.worker.admission import objection, turn_away
from spliceproxy.worker.known import Known, client_ip
from spliceproxy.worker.negotiation import Negotiation
from spliceproxy.worker.router import BYTES, NO_ROUTE, Facts, Router, ends_tls

if TYPE_CHECKING:
    from spliceproxy.ipc import IntakePlan, RoutePlan
    from spliceproxy.telemetry.record import Phase
    from spliceproxy.worker.pool import Pool
    from spliceproxy.worker.session import Session

LOOKS: Final = 8
"""Looks that found too little, after which the timer decides when to look again."""
PAUSE: Final = 0.05
"""Seconds between two such looks."""

_PEEK: Final = MSG_PEEK | MSG_DONTWAIT
_ENDED: Final = EPOLLRDHUP | EPOLLHUP
_view: Final = memoryview(bytearray(MAX_BYTES))
"""What the last look saw, whoever's it was: nothing in it is kept."""


class Intake:
    """What one listener wants to know, and where its routes lead."""

    __slots__ = ("_targets", "others", "proxy_from", "router", "timeout")

    def __init__(self, plan: IntakePlan, pools: Mapping[str, Pool]) -> None:
        self.proxy_from = plan.proxy_from
        self.others = plan.others
        self.timeout = plan.timeout
        self.router = Router(plan.routes, hello=plan.hello)
        self._targets = [_Target(route, pools) for route in plan.routes]

    def target(self, route: int) -> _Target:
        """Where a route leads."""
        return self._targets[route]


class _Target:
    """The pools of one route, each in its turn by its share: exact over many sessions."""

    __slots__ = ("_pools", "_postgres", "_route", "_turns", "name")

    def __init__(self, route: RoutePlan, pools: Mapping[str, Pool]) -> None:
        self.name = route.name
        self._route = route
        self._postgres = "postgres" in route.protocol
        self._pools = [pools[name] for name, _ in route.pools]
        self._turns = RoundRobin([share for _, share in route.pools], random.random())

    def ends_tls(self, protocol: str | None) -> bool:
        """Whether TLS of a client ends here, on a listener that has certificates."""
        return ends_tls(self._route, protocol)

    def is_postgres(self, protocol: str | None) -> bool:
        """Whether a client is here because it speaks PostgreSQL. What others speak is not waited
        for, so that it may be known or not."""
        return protocol == "postgres" and self._postgres

    def choose(self) -> Pool:
        """The pool of the next client."""
        if len(self._pools) == 1:
            return self._pools[0]
        return self._pools[self._turns.choose() or 0]


class Preread:
    """The intake of one session, from accept until its pool is known."""

    __slots__ = (
        "_bare",
        "_by_timer",
        "_deadline",
        "_events",
        "_facts",
        "_hello",
        "_intake",
        "_looks",
        "_low",
        "_negotiation",
        "_seen",
        "phase",
        "session",
    )

    def __init__(self, session: Session, intake: Intake) -> None:
        self.session = session
        self.phase: Phase = "accept"
        self._intake = intake
        self._deadline = None if intake.timeout is None else session.started + intake.timeout
        self._events = 0
        self._looks = 0
        self._low = 1
        """What SO_RCVLOWAT is."""
        self._facts = Facts("")
        self._hello: ClientHelloReader | None = None
        self._negotiation: Negotiation | None = None
        self._seen = 0
        """Bytes at the last look."""
        self._by_timer = False
        self._bare = False
        """A header was read, and no byte behind it: what was heard of the client was the header."""

    def start(self) -> None:
        """Begin: the client's events come to `on_event`. May connect or end the session."""
        session, intake = self.session, self._intake
        session.known = Known()
        if self.begins_with_header:
            self.phase = "proxy"
            self._arm()
        elif intake.proxy_from is not None and intake.others == "refuse":
            turn_away(session, "access_denied")
        else:
            self._on_client_known()

    @property
    def begins_with_header(self) -> bool:
        """Whether the peer is one that says who the client is."""
        networks, peer = self._intake.proxy_from, self.session.client_address
        return networks is not None and isinstance(peer, tuple) and networks.find(peer[0]) != NONE

    def on_event(self, events: int) -> None:
        """Events of the client."""
        self._events |= events
        session = self.session
        if events & (EPOLLERR | EPOLLHUP) and session.client.family != AF_UNIX:
            session.end("client", "reset", "client_reset")
        elif events & _ENDED or (events & EPOLLIN and not self._by_timer):
            self._look()  # not for the first event of all, which says no more than "writable"

    def on_deadline(self, now: float) -> None:
        """The time is over, or it is time to look again."""
        if self._deadline is not None and now >= self._deadline:
            route = self._intake.router.choose(self._facts)
            silent = not self._seen and self._negotiation is None
            if self.phase == "preread" and silent and not self._ends_tls(route):
                self._take_route(route)
            else:
                self.session.abort("preread_timeout")
            return
        if self._by_timer:
            self._by_timer = False
            self._look()
        if self.session.preread is self:
            self._arm()

    def _arm(self) -> None:
        if self._deadline is not None:
            self.session.worker.loop.arm(self.session, self._deadline)

    def _look(self) -> None:
        """See what is there, and go on as far as that leads."""
        session = self.session
        try:
            seen = session.client.recv_into(_view, MAX_BYTES, _PEEK)
        except BlockingIOError:
            return
        except OSError:
            session.end("client", "reset", "client_reset")
            return
        in_header = self.phase == "proxy"
        need = self._read_header(seen) if in_header else self._read_first_bytes(seen)
        if not need:
            return
        if not seen or self._events & _ENDED:
            self._on_no_more(seen)
        else:
            self._wait_for(need, seen)

    def _wait_for(self, need: int, seen: int) -> None:
        """Look again when `need` bytes may be there."""
        session = self.session
        low = need
        self._looks += 1
        if self._looks >= LOOKS and seen != self._seen:
            self._by_timer = True
            low = MAX_BYTES
            session.worker.loop.arm(session, session.worker.loop.now + PAUSE)
        self._seen = seen
        self._wake_at(low)

    def _wake_at(self, low: int) -> None:
        """Hear of the client when so many bytes are there. Raising or lowering loses no event."""
        client = self.session.client
        if low != self._low and client.family != AF_UNIX:
            self._low = low
            client.setsockopt(SOL_SOCKET, SO_RCVLOWAT, low)

    def _read_header(self, seen: int) -> int:
        """Take the PROXY header out of the stream, and go on; or tell how many bytes it takes."""
        session = self.session
        try:
            header = parse_proxy_header(_view[:seen])
        except ProxyHeaderError:
            session.abort("bad_proxy_header")
            return 0
        if isinstance(header, Need):
            return header.total
        # An urgent byte in it ends a read early (tcp(7)).
        if session.client.recv_into(_view, header.length, MSG_DONTWAIT) != header.length:
            session.abort("bad_proxy_header")
            return 0
        assert session.known is not None
        session.known.header = header
        self._bare = seen == header.length
        guarded = session.listener.guarded
        why = objection(session, client_ip(session)) if guarded else None
        if why is None:
            self._on_client_known()
        else:
            turn_away(session, why)
        return 0

    def _on_no_more(self, seen: int) -> None:
        """The client finished before it had said enough: some have nothing to say."""
        route = self._intake.router.choose(self._facts)
        nothing = not seen and self._ends_tls(route)
        if self.phase == "preread" and self._negotiation is None and not nothing:
            self._take_route(route)
        elif seen and self.phase == "proxy":
            self.session.abort("bad_proxy_header")
        elif seen:
            self.session.tls_error = "the client ended in the middle of its negotiation"
            self.session.abort("tls_handshake")
        else:
            self.session.end("client", "fin", "done")

    def _on_client_known(self) -> None:
        """Who the client is will not change any more: from here on it is as any other one."""
        self._facts.ip = ip = client_ip(self.session)
        route = self._intake.router.before_bytes(ip)
        if route != BYTES:
            self._take_route(route)
            return
        behind_header = self.phase == "proxy"
        self.phase = "preread"
        self._seen = 0
        self._wake_at(1)
        self._arm()
        if behind_header:
            self._look()

    def _read_first_bytes(self, seen: int) -> int:
        """Take a route, or tell how many bytes it takes."""
        data, facts, router = _view[:seen], self._facts, self._intake.router
        self._bare = self._bare and not seen
        protocol = sniff(data)
        if isinstance(protocol, Need):
            if not router.protocols.isdisjoint(candidates(data)):
                return protocol.total
            protocol = "unknown"  # to the routes
        in_tls = protocol == "tls"
        if self._negotiation or (protocol == "postgres" and router.negotiates(facts.ip)):
            protocol = self._negotiate(protocol, data)
            if isinstance(protocol, Need):
                return 0
        facts.protocol = protocol
        if in_tls and router.wants_hello:
            need = self._read_hello(data)
            if need:
                return need
        elif protocol == "http" and router.wants_host:
            host = read_http_host(data)
            if isinstance(host, Need):
                return host.total
            facts.host = host
        self._take_route(router.choose(facts))
        return 0

    def _negotiate(self, protocol: Protocol, data: memoryview) -> Protocol | Need:
        """What the client is to the routes; Need: it has to go on, which is waited for already."""
        session = self.session
        self._negotiation = self._negotiation or Negotiation()
        found = self._negotiation.go_on(session, protocol, data)
        if isinstance(found, Need) and session.preread is self:
            if self._events & _ENDED:
                self._look()
            else:
                self._wait_for(found.total, 0)
        return found

    def _read_hello(self, data: memoryview) -> int:
        """What is no ClientHello is for the upstream to refuse: it speaks TLS, and no more."""
        reader = self._hello = self._hello or ClientHelloReader()
        try:
            hello = reader.read(data)
        except ClientHelloError:
            return 0
        if isinstance(hello, Need):
            return hello.total
        known, facts = self.session.known, self._facts
        if hello is not None and known is not None:
            known.sni = facts.sni = hello.sni
            known.alpn = facts.alpn = hello.alpn
        return 0

    def _take_route(self, route: int) -> None:
        """Go where it leads, or where the listener sends the others."""
        session = self.session
        pool = session.listener.pool
        if route != NO_ROUTE:
            target = self._intake.target(route)
            pool = target.choose()
            if session.known is not None:
                session.known.route = target.name
                session.known.postgres = target.is_postgres(self._facts.protocol)
        if pool is None:
            self.phase = "route"
            turn_away(session, "no_route")
            return
        self._wake_at(1)
        tls = session.listener.tls
        if tls is not None and self._ends_tls(route):
            self.phase = "tls"
            tls.shake_hands(session, partial(self._go_on, pool))
        else:
            self._go_on(pool, 0)

    def _ends_tls(self, route: int) -> bool:
        """Whether TLS of this client, whose route this is, ends here."""
        session, protocol = self.session, self._facts.protocol
        if session.listener.tls is None:
            return False
        if session.known is not None and session.known.ssl_request:
            protocol = "tls"  # whatever it is to the routes
        return route == NO_ROUTE or self._intake.target(route).ends_tls(protocol)

    def _go_on(self, pool: Pool, more_events: int) -> None:
        """What the session has to do with the client begins. `more_events` came since the look."""
        session = self.session
        events = self._events | more_events  # an end that was told is not told again
        if session.known is not None and session.known.tls is not None:
            events |= EPOLLIN  # decrypted bytes may be there, of which no event tells
        elif self._bare:
            events &= ~EPOLLIN  # it would say that there are bytes for the upstream
        elif events:
            events |= EPOLLIN
        # A reload may have put another one in its place meanwhile.
        session.on_intake_over(session.worker.pools.get(pool.name, pool), events)
