"""The sessions that live, for whoever asks: found, sorted and told, or reset.

A question is answered in pieces, between which the loop serves the sessions. Those that match are
found by looking at each; only those that are told cost more than a look.
"""

from __future__ import annotations

from heapq import heappush, heappushpop
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog

from spliceproxy.ipc import Found, WasReset
from spliceproxy.ipc.queries import Matcher, SessionQuery, encode_found
from spliceproxy.ipc.sealed import memfd_of
from spliceproxy.relay.verdicts import FINISHED
from spliceproxy.telemetry.record import address_text, tcp_info
from spliceproxy.worker.known import client_text
from spliceproxy.worker.session_record import phase_of, session_record

if TYPE_CHECKING:
    from collections.abc import Callable

    from spliceproxy.ipc.queries import Looks, SortKey
    from spliceproxy.relay.flow import Flow
    from spliceproxy.worker.session import Session
    from spliceproxy.worker.worker import Worker

_log = structlog.get_logger()

LOOKS: Final = 200
"""Sessions that are looked at in one turn: half a millisecond, where there is much to look at."""
TELLS: Final = 20
"""Sessions that are told, or reset, in one turn: about as long."""

Sessions = list["Session"]


class Census:
    """Answers questions about a worker's sessions."""

    __slots__ = ("_tell", "_worker")

    def __init__(self, worker: Worker, tell: Callable[..., None]) -> None:
        """`tell(message, *fds)` tells the supervisor."""
        self._worker = worker
        self._tell = tell

    def find(self, request: int, query: str) -> None:
        """Answer a Find."""
        _Finding(self._worker, request, SessionQuery.decode(query), self._tell)

    def reset(self, request: int, query: str) -> None:
        """Answer a Reset."""
        _Resetting(self._worker, request, SessionQuery.decode(query), self._tell)


class _Search:
    """Looks at all sessions of the moment at which it began, some in each turn."""

    def __init__(
        self,
        worker: Worker,
        request: int,
        query: SessionQuery,
        tell: Callable[..., None],
    ) -> None:
        self._worker = worker
        self._request = request
        self._query = query
        self._matches = Matcher(query.where, _looks())
        self._ids = frozenset(query.ids)
        self._tell = tell
        self._to_look_at = list(worker.sessions)
        self._go_on(self._look)

    def _go_on(self, step: Callable[[], None]) -> None:
        """Take a step in the next turn. A mistake costs the answer, not the sessions."""

        def take() -> None:
            try:
                step()
            except Exception as error:
                _log.error("a question about sessions failed", exc_info=error)

        self._worker.loop.run_again(take)

    def _look(self) -> None:
        sessions, left = self._worker.sessions, self._to_look_at
        for _ in range(min(LOOKS, len(left))):
            session = left.pop()
            if session not in sessions or (self._ids and session.id not in self._ids):
                continue
            if self._matches(session):
                self._take(session)
        self._go_on(self._look if left else self._work)

    def _take(self, session: Session) -> None:
        """It is meant."""

    def _work(self) -> None:
        """All were looked at."""


class _Finding(_Search):
    """Keeps the first ones in the order that is asked for, and tells them, each with what it is
    sorted by."""

    def __init__(self, worker: Worker, *others: Any) -> None:
        self._matching = 0
        self._best: list[tuple[float, float, int, Session]] = []
        self._keys: list[SortKey] = []
        self._told: list[bytes] = []
        super().__init__(worker, *others)
        self._sign = -1 if self._query.sort.startswith("-") else 1

    def _take(self, session: Session) -> None:
        """What is equal comes in the order of its age, and then of the fd, which no other one has:
        the parts of an answer fit together, whoever puts the questions."""
        query = self._query
        self._matching += 1
        key, sign = SORT_KEYS[query.sort.removeprefix("-")](session), self._sign
        fd = session.client.fileno()
        entry = (sign * key, sign * -session.started, sign * fd, session)
        if len(self._best) < query.offset + query.limit:
            heappush(self._best, entry)
        else:
            heappushpop(self._best, entry)

    def _work(self) -> None:
        """Tell some of the sessions; in which order is all the same."""
        worker, sign, best = self._worker, self._sign, self._best
        for _ in range(min(TELLS, len(best))):
            key, age, fd, session = best.pop()
            if session in worker.sessions:
                self._keys.append((sign * key, sign * age, worker.index, sign * fd))
                self._told.append(orjson.dumps(describe(session)))
        if best:
            self._go_on(self._work)
        else:
            answer = memfd_of(encode_found(self._keys, self._told))
            self._tell(Found(self._request, self._matching), answer)


class _Resetting(_Search):
    """Resets all that are meant."""

    def __init__(self, worker: Worker, *others: Any) -> None:
        self._found: Sessions = []
        self._number = 0
        super().__init__(worker, *others)

    def _take(self, session: Session) -> None:
        self._found.append(session)

    def _work(self) -> None:
        worker = self._worker
        for _ in range(min(TELLS, len(self._found))):
            session = self._found.pop()
            if session in worker.sessions:
                self._number += 1
                session.abort("operator")
        if self._found:
            self._go_on(self._work)
        else:
            self._tell(WasReset(self._request, self._number))


def _looks() -> Looks[Session]:
    """How a filter looks at sessions."""
    return {
        "listener": lambda session: session.listener.name,
        "pool": _pool,
        "upstream": lambda s: None if s.with_upstream is None else s.with_upstream.name,
        "route": lambda session: None if session.known is None else session.known.route,
        "sni": lambda session: None if session.known is None else session.known.sni,
        "phase": phase_of,
        "why": lambda _session: None,
        "client": _client,
        "age": _age,
        "idle": _idle,
    }


def _pool(session: Session) -> str | None:
    return session.pool.name if session.preread is None else None


def _client(session: Session) -> str:
    peer = address_text(session.client.family, session.client_address)
    return peer if session.known is None else client_text(session, peer)


def last_byte(session: Session) -> float:
    """The loop's time at which a session last heard of a side, or began."""
    relay = session.relay
    return session.started if relay is None else max(relay.up.touched, relay.down.touched)


def moved(session: Session) -> tuple[int, int]:
    """Bytes up and down."""
    relay = session.relay
    return (0, 0) if relay is None else (max(0, relay.up.moved), relay.down.moved)


def rates(session: Session) -> tuple[float, float]:
    """Bytes per second up and down, of the last second; of a younger session, since it began."""
    counted = session.counted
    if counted is not None:
        return counted.rate_up, counted.rate_down
    age = max(1e-3, session.worker.loop.now - session.started)
    up, down = moved(session)
    # Of one that is older nothing moved since: the rounds would have counted it.
    return (up / age, down / age) if age < 2.0 else (0.0, 0.0)


def _rtt(session: Session) -> float:
    return tcp_info(session.client)[0] or 0.0


def _began(session: Session) -> float:
    """Larger for those that are older."""
    return -session.started


def _age(session: Session) -> float:
    return session.worker.loop.now - session.started


def _idle(session: Session) -> float:
    return session.worker.loop.now - last_byte(session)


SORT_KEYS: Final[dict[str, Callable[[Session], float]]] = {
    # These two do not move on with the clock while it is looked, told and asked again.
    "age": _began,
    "idle": lambda session: -last_byte(session),
    "bytes": lambda session: sum(moved(session)),
    "rate": lambda session: sum(rates(session)),
    "rtt": _rtt,
}


def describe(session: Session) -> dict[str, object]:
    """A session as it is now: the fields of its record that make sense before its end, and more."""
    worker, relay = session.worker, session.relay
    session.id = session.id or next(worker.session_ids)
    entry: dict[str, object] = dict(session_record(session, "proxy", "close", "operator"))
    for name in ("duration_ms", "closed_by", "how", "why", "tls_error"):
        del entry[name]
    upstream = session.with_upstream
    if upstream is not None:  # it may be connecting still
        entry["upstream"] = upstream.name
    rate_up, rate_down = rates(session)
    return {
        **entry,
        "age_seconds": round(_age(session), 3),
        "idle_seconds": round(_idle(session), 3),
        "rate_up": round(rate_up, 1),
        "rate_down": round(rate_down, 1),
        "flow_up": None if relay is None else flow_state(relay.up),
        "flow_down": None if relay is None else flow_state(relay.down),
    }


def flow_state(flow: Flow) -> str:
    """open, moving, blocked, paused, finished or broken."""
    if flow.end:
        return "finished" if flow.end == FINISHED else "broken"
    if flow.held and not flow.writable:
        return "blocked"
    if flow.queued:
        return "moving"
    return "paused" if flow.readable and flow.muted else "open"
