"""What is done on an upstream's socket between connect and relay, where something has to be.

A pool's PROXY header alone needs no approach: it goes with the first bytes (see `announcement`). An
approach is for what an upstream has to answer before bytes may flow. It is a list of steps, one
after the other; the connector gives it the socket's events and the time of one try, and goes to
the next upstream where a step fails.

1. A step takes out of the stream what is its own, and not a byte more: the rest is the relay's.
2. Events are edges, so each step begins without one, and all that came are kept for the relay.
3. A UNIX socket tells of room only while it is asked to (see `relay.interest`).
4. A step that takes long waits for its turn among those of all sessions (`worker/turns.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from select import EPOLLOUT
from socket import AF_UNIX, MSG_DONTWAIT, MSG_MORE, SocketType
from typing import TYPE_CHECKING, Final, Protocol

from spliceproxy.relay.relay import interest
from spliceproxy.relay.tls_end import TlsEnd, TlsError
from spliceproxy.wire.postgres import ACCEPTED, REFUSED, SSL_REQUEST
from spliceproxy.worker.announcement import header_for

if TYPE_CHECKING:
    from spliceproxy.worker.loop import Loop
    from spliceproxy.worker.origination import Origination
    from spliceproxy.worker.pool import Upstream
    from spliceproxy.worker.session import Session
    from spliceproxy.worker.turns import Turns

# What a step says at the end of its turn.
DONE: Final = 0
READ: Final = 1
"""It waits for bytes, or for the end."""
WRITE: Final = 2
"""It waits for room, and maybe for bytes."""


class ApproachError(Exception):
    """The upstream is of no use to this session; the text is the record's `tls_error`."""


class Step(Protocol):
    """One thing that has to be done."""

    name: str
    """What the upstream owes meanwhile, as in `no answer to SSLRequest`."""

    @property
    def turns(self) -> Turns | None:
        """Where it waits before each `go_on`; None: it takes no time."""

    def go_on(self, sock: SocketType) -> int:
        """As far as it goes now: DONE, READ or WRITE. Raises ApproachError, OSError."""


class Announce:
    """Sends a PROXY header. Another step follows that sends too: both leave in one segment."""

    name = "room for the PROXY header"
    turns = None

    def __init__(self, header: bytes) -> None:
        self._left = header

    def go_on(self, sock: SocketType) -> int:
        """See `Step`."""
        self._left = self._left[_send(sock, self._left, MSG_MORE) :]
        return WRITE if self._left else DONE


class AskForTls:
    """Asks a PostgreSQL server for TLS; the byte that it answers is all that is taken."""

    name = "answer to SSLRequest"
    turns = None

    def __init__(self) -> None:
        self._left = SSL_REQUEST

    def go_on(self, sock: SocketType) -> int:
        """See `Step`."""
        if self._left:
            self._left = self._left[_send(sock, self._left) :]
            if self._left:
                return WRITE
        try:
            answer = sock.recv(1, MSG_DONTWAIT)
        except BlockingIOError:
            return READ
        if answer == ACCEPTED:
            return DONE
        if answer == REFUSED:
            raise ApproachError("the upstream refuses TLS (N)")
        if not answer:
            raise ApproachError("the upstream closed before it answered SSLRequest")
        raise ApproachError(f"the upstream answers SSLRequest by byte {answer.hex()}")


class ShakeHands:
    """The handshake with an upstream. What comes of it is the session's `upstream_tls`."""

    name = "end of the TLS handshake"

    def __init__(self, session: Session, tls: Origination, upstream: Upstream) -> None:
        self.turns = session.worker.handshakes
        self._session = session
        self._tls = tls
        self._upstream = upstream
        self._end: TlsEnd | None = None

    def go_on(self, sock: SocketType) -> int:
        """See `Step`."""
        end = self._end = self._end or self._begin(sock)
        try:
            done = end.shake_hands()
        except TlsError as error:
            raise ApproachError(str(error)) from None
        if end.unsent:
            return WRITE
        if not done:
            return READ
        self._session.upstream_tls = end
        return DONE

    def _begin(self, sock: SocketType) -> TlsEnd:
        known, name = self._session.known, self._tls.server_name(self._upstream)
        client = None if known is None else known.tls
        agreed = None if client is None else client.tls.selected_alpn_protocol()
        try:
            return TlsEnd(sock, self._tls.context(agreed), name)
        except ValueError:  # more than 63 bytes between two dots, for example
            what = f"ask for the name {name!a}" if name else "verify an upstream that has no name"
            raise ApproachError(f"TLS cannot {what}") from None


class Approach:
    """The steps of one try, on a connected and registered socket."""

    __slots__ = ("_asking", "_due", "_loop", "_on_turn", "_sock", "_steps", "events")

    def __init__(
        self, sock: SocketType, loop: Loop, steps: Sequence[Step], on_turn: Callable[[], None]
    ) -> None:
        """`on_turn` is called when a step's turn has come, which is taken by `take_turn`."""
        self._sock = sock
        self._loop = loop
        self._steps = list(reversed(steps))
        self._asking = False
        """A UNIX socket's room is asked for."""
        self._on_turn = on_turn
        self._due = False
        """Its turn will come."""
        self.events = 0
        """All that were seen, for whoever has the socket next."""

    @property
    def waits_for(self) -> str:
        """What the upstream has not done, for the record of one whose time is over."""
        return f"no {self._steps[-1].name}" if self._steps else ""

    def go_on(self, events: int) -> bool:
        """Do what can be done now; whether all is. Raises ApproachError."""
        self.events |= events
        return self._go_on(in_turn=False)

    def take_turn(self) -> bool:
        """Go on, with what takes long."""
        self._due = False
        return self._go_on(in_turn=True)

    def _go_on(self, *, in_turn: bool) -> bool:
        verdict = DONE
        while self._steps:
            step = self._steps[-1]
            if step.turns is not None and not in_turn:
                if not self._due:
                    self._due = True
                    step.turns.add(self._on_turn)
                return False
            try:
                verdict = step.go_on(self._sock)
            except OSError as error:
                raise ApproachError(f"{self.waits_for}: {error.strerror}") from None
            if verdict != DONE:
                break
            self._steps.pop()
        self._ask_for_room(verdict == WRITE)
        return not self._steps

    def _ask_for_room(self, wanted: bool) -> None:
        if wanted != self._asking and self._sock.family == AF_UNIX:
            self._asking = wanted
            mask = interest(AF_UNIX) | (EPOLLOUT if wanted else 0)
            self._loop.modify(self._sock.fileno(), mask)


def needs_approach(session: Session) -> bool:
    """Whether upstreams of the session's pool are told something that they have to answer."""
    if session.pool.tls is not None:
        return True
    known = session.known
    # Its client was promised TLS, and the ClientHello waits to be relayed.
    return known is not None and known.ssl_request and known.tls is None


def steps_for(session: Session, upstream: Upstream) -> list[Step]:
    """What has to be done with one upstream, of a session that needs an approach, in order."""
    pool, known = session.pool, session.known
    steps: list[Step] = []
    if pool.plan.send_proxy is not None:
        steps.append(Announce(header_for(session)))
    if known is not None and (known.ssl_request or known.postgres):
        # Its upstream waits for the request too, whoever makes the handshake.
        steps.append(AskForTls())
    if pool.tls is not None:
        steps.append(ShakeHands(session, pool.tls, upstream))
    return steps


def _send(sock: SocketType, data: bytes, flags: int = 0) -> int:
    """How many bytes the kernel took. Raises OSError."""
    try:
        return sock.send(data, MSG_DONTWAIT | flags)
    except BlockingIOError:
        return 0
