"""Listeners: accepting clients, and when not to.

- Listening sockets are level-triggered: a bounded burst, a pause or a limit leaves clients in the
  kernel's queue, and no new edge would tell of them.
- To pause is to unregister: EPOLLEXCLUSIVE does not allow a modify, and the socket is held by other
  processes too, so that even closing it here would leave it in epoll.
- A pause ends when a session ends here, or after a short time: sessions of other workers count
  against the same limits, and fds and memory come back without an event.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Mapping
from select import EPOLLIN
from socket import SOCK_STREAM, SocketType
from typing import TYPE_CHECKING, Final

from spliceproxy.ipc import ListenerPlan
from spliceproxy.telemetry.board import listener_sessions
from spliceproxy.telemetry.counters import ACCEPT_PAUSES
from spliceproxy.telemetry.record import address_text
from spliceproxy.wire.proxy_values import SocketAddress
from spliceproxy.worker.bandwidth import pace
from spliceproxy.worker.intake import Intake
from spliceproxy.worker.limits import Limits, LimitsOfAll
from spliceproxy.worker.pool import Pool
from spliceproxy.worker.session import Session
from spliceproxy.worker.termination import Termination

if TYPE_CHECKING:
    from spliceproxy.worker.worker import Worker

BURST: Final = 64
"""Clients accepted per event, at most."""
PAUSE: Final = 0.05
"""Seconds after which a pause is looked at again."""
QUIET: Final = 0.25
"""Seconds for which a retiring socket's queue has to stay empty: a long round trip, in which the
last acknowledgement of a handshake that began before is still under way."""

EPOLLEXCLUSIVE: Final = 1 << 28
_SHORTAGE_ERRNOS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""No fd or no memory: pause and say so; the clients wait in the kernel's queue."""
_GONE_ERRNOS: Final = frozenset(
    {
        errno.ECONNABORTED,
        errno.EPROTO,
        errno.EPERM,
        errno.ENETDOWN,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
        errno.ETIMEDOUT,
    }
)
"""That client is gone, or a firewall took it; the next one may be well (accept(2))."""


class Listener:
    """A listener as this worker knows it: its plan, its pool, and its session counter.

    `intake` is None where all its clients are connected with `pool` at once."""

    __slots__ = (
        "access",
        "counter",
        "guarded",
        "intake",
        "limits",
        "name",
        "pace",
        "plan",
        "pool",
        "records_all",
        "tls",
    )

    def __init__(
        self,
        plan: ListenerPlan,
        pools: Mapping[str, Pool],
        limits: Limits | None,
        before: Listener | None = None,
    ) -> None:
        """`pools` by their names, at the least those that the plan names; `before` is what has this
        name now."""
        self.plan = plan
        self.name = plan.name
        self.access = plan.access
        self.limits = limits
        self.guarded = plan.access is not None or limits is not None
        self.pace = pace(plan)
        self.intake = None if plan.intake is None else Intake(plan.intake, pools)
        self.pool = None if plan.pool is None else pools[plan.pool]
        self.records_all = plan.keep == "all" and plan.sample >= 1.0
        self.counter = listener_sessions(plan.slot)
        self.tls: Termination | None = None
        if plan.tls is not None:
            self.tls = Termination(plan.tls, None if before is None else before.tls)


def make_listeners(
    plans: Iterable[ListenerPlan],
    pools: Mapping[str, Pool],
    limits: LimitsOfAll,
    before: Mapping[str, Listener],
) -> dict[str, Listener]:
    """The listeners of a snapshot, by name; `before` are those that it replaces."""
    return {
        plan.name: Listener(plan, pools, limits.of(plan), before.get(plan.name)) for plan in plans
    }


class ListeningSocket:
    """One socket that accepts for a listener. It is a timer too: for pauses and for retiring."""

    __slots__ = (
        "_burst",
        "_family",
        "_last_accept",
        "_local",
        "_local_text",
        "_paused",
        "_retiring",
        "_shared",
        "_sock",
        "_worker",
        "listener",
        "number",
        "slot",
    )

    def __init__(
        self, worker: Worker, listener: Listener, number: int, fd: int, *, shared: bool
    ) -> None:
        """Accept from `fd`, which is this object's from now on; `number` is the supervisor's."""
        self._worker = worker
        self.listener = listener
        self.number = number
        self._sock = socket.socket(fileno=fd)
        self._sock.setblocking(False)
        self._family = int(self._sock.family)
        self._shared = shared
        self._burst = 1
        self._paused = True
        self._retiring = False
        self._last_accept = 0.0
        self.slot = 0
        self._local = local = _fixed_address(self._sock)
        self._local_text = None if local is None else address_text(self._family, local)
        self._resume()

    def local_text(self, client: SocketType) -> str:
        """The address that `client`, one of this socket's, connected to."""
        if self._local_text is not None:
            return self._local_text
        local = self.local_address(client)
        return "" if local is None else address_text(client.family, local)

    def local_address(self, client: SocketType) -> SocketAddress | None:
        """The same, as getsockname() tells it; None where the kernel does not know it any more."""
        if self._local is not None:
            return self._local
        try:
            local: SocketAddress = client.getsockname()
        except OSError:
            return None
        return local

    def _on_event(self, _events: int) -> None:
        worker = self._worker
        accept = self._sock._accept  # type: ignore[attr-defined]
        family = self._family
        accepted = 0
        while accepted < self._burst:
            if not worker.has_room(self.listener):
                self.pause()
                return
            if worker.fds_come_back():
                self._last_accept = worker.loop.now  # nobody looked: the queue is not quiet
                return  # the next batch brings this event again
            try:
                fd, address = accept()
            except BlockingIOError:
                self._burst = max(1, accepted)
                return
            except OSError as error:
                if error.errno in _GONE_ERRNOS:
                    accepted += 1
                    continue
                if error.errno in _SHORTAGE_ERRNOS:
                    worker.on_shortage(error)
                    self._last_accept = worker.loop.now  # somebody may wait: the queue is not quiet
                self.pause()  # also EINVAL: shut down, its queue empty, and about to be retired
                return
            accepted += 1
            self._last_accept = worker.loop.now
            # accept() of the socket module would ask the new socket for its options once more.
            client = SocketType(family, SOCK_STREAM, 0, fd)
            session = Session(worker, self, client, address)
            try:
                session.start()
            except Exception as error:
                worker.on_failure(session, error)
        # One more accept just to be told EAGAIN costs as much as a wait that finds the next client.
        self._burst = min(BURST, self._burst * 2)

    def pause(self) -> None:
        """Leave clients in the kernel's queue, for a moment."""
        worker = self._worker
        if not self._paused:
            self._paused = True
            worker.loop.remove(self._sock.fileno())
            worker.paused.add(self)
            worker.tally.slots[ACCEPT_PAUSES] += 1
        worker.loop.arm(self, worker.loop.now + PAUSE)

    def _resume(self) -> None:
        mask = EPOLLIN | (EPOLLEXCLUSIVE if self._shared else 0)
        self._worker.loop.add(self._sock.fileno(), mask, self._on_event)
        self._worker.paused.discard(self)
        self._paused = False

    def on_room(self) -> None:
        """A session ended: look whether a client may come in."""
        if self._paused and self._worker.has_room(self.listener):
            self._resume()

    def on_deadline(self, _now: float) -> None:
        """The end of a pause, or the next look at the queue of a retiring socket."""
        if self._retiring:
            self._retire_if_quiet()
        elif self._worker.has_room(self.listener):
            self.on_room()
        else:
            self._worker.loop.arm(self, self._worker.loop.now + PAUSE)

    def retire(self) -> None:
        """Nobody new can reach this socket: serve its queue, then close it and tell so."""
        self._retiring = True
        self._last_accept = self._worker.loop.now
        self._worker.loop.arm(self, self._last_accept + QUIET)

    def _retire_if_quiet(self) -> None:
        worker = self._worker
        now = worker.loop.now
        before = self._last_accept
        self._on_event(0)
        if self._last_accept == before and now - before >= QUIET and not self._waits_for_room():
            worker.on_retired(self)
        else:
            worker.loop.arm(self, now + PAUSE)

    def _waits_for_room(self) -> bool:
        return not self._worker.has_room(self.listener)

    def close(self) -> None:
        """Stop accepting. The socket lives on in other processes, so it leaves epoll first."""
        loop = self._worker.loop
        loop.wheel.disarm(self)
        if not self._paused:
            loop.remove(self._sock.fileno())
        self._worker.paused.discard(self)
        loop.close_socket_later(self._sock)


def _fixed_address(sock: socket.socket) -> SocketAddress | None:
    """A bound address that is the same for all clients; None for a wildcard."""
    address: SocketAddress = sock.getsockname()
    if sock.family != socket.AF_UNIX and address[0] in ("0.0.0.0", "::"):
        return None
    return address
