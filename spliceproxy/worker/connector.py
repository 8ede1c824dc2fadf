"""From a pool to a connected upstream: non-blocking connect, and another upstream on failure.

What the kernel does (connect(2), ip(7), unix(7)):

- A refused, unreachable or silent upstream costs a try, and is not tried twice by one session.
- EADDRNOTAVAIL, EMFILE and their like speak of this machine, not of the upstream.
- A full backlog of a UNIX socket is EAGAIN, and room brings no event: only trying again finds out.
- bind() to a source address without IP_BIND_ADDRESS_NO_PORT picks a port before the destination
  is known, which allows about 28,000 sessions in all instead of so many per upstream.
"""

from __future__ import annotations

import errno
import socket
from select import EPOLLERR, EPOLLHUP
from socket import AF_UNIX, SO_ERROR, SOL_SOCKET, SocketType
from typing import Final, Protocol

from spliceproxy.relay.relay import interest
from spliceproxy.telemetry.record import Why
from spliceproxy.worker.approach import Approach, ApproachError, Step
from spliceproxy.worker.connect_errors import (
    NO_SOURCE_PORT_ERRNOS,
    UNREACHABLE_ERRNOS,
    UPSTREAM_ERRNOS,
    verdict,
)
from spliceproxy.worker.loop import Loop
from spliceproxy.worker.pool import Pool, Upstream
from spliceproxy.worker.queue import Queue, Wait
from spliceproxy.worker.tcp_options import set_tcp_options
from spliceproxy.worker.timers import Timer

UNIX_RETRY: Final = 0.05
"""Seconds until a UNIX socket with a full backlog is tried again."""
_IP_BIND_ADDRESS_NO_PORT: Final = 24  # linux/in.h
FAILED: Final = EPOLLERR | EPOLLHUP
"""Without one of these, a writable event on a connecting socket means that it is connected."""
_STREAM: Final = socket.SOCK_STREAM | socket.SOCK_NONBLOCK


class Waiting(Timer, Protocol):
    """Who wants the connection, and whose timer the connector may arm for its `wake`."""

    tls_error: str | None
    """What went wrong with the last upstream after the connect, where it `approaches`."""

    def steps(self, upstream: Upstream) -> list[Step]:
        """What is done on a socket that is connected with `upstream` before `on_connected`; where
        it `approaches`."""

    def on_connected(self, sock: SocketType, upstream: Upstream, events: int) -> None:
        """Connected; `events` were seen on the socket, which is registered. The one who waited has
        to give `upstream` back to the pool."""

    def on_try_failed(self, upstream: Upstream, why: Why) -> None:
        """`upstream` could not be connected."""

    def on_failing(self, upstream: Upstream, why: Why) -> None:
        """`upstream.failures` have come to `eject.after`, the last one by `why`."""

    def on_queued(self) -> None:
        """No place is free: the session waits in the pool's queue now."""

    def on_pool(self, pool: Pool) -> bytes:
        """A reload put `pool` in the place of the session's, which waits or needs another upstream.
        Returns the client's key, where that pool is keyed."""

    def on_not_connected(self, why: Why) -> None:
        """No upstream could be had. `why` is what happened to the last one."""


class Connector:
    """Connects one session, trying `1 + retries` upstreams at the most. `tried` holds the indices
    of those tried so far, `upstream` the last one. `wake` is when `on_wake` wants to be called.
    """

    __slots__ = (
        "_approach",
        "_expires",
        "_gone",
        "_held",
        "_key",
        "_loop",
        "_pool",
        "approaches",
        "began",
        "sock",
        "tried",
        "upstream",
        "wait",
        "waiting",
        "wake",
    )

    def __init__(self, pool: Pool, loop: Loop, waiting: Waiting, key: bytes = b"") -> None:
        """`key` is the client's, where the pool is keyed."""
        self._pool = pool
        self._key = key
        self._held: Upstream | None = None
        """Taken from the pool, and to be given back."""
        self._loop = loop
        self.waiting = waiting
        self.approaches = False
        """An upstream is told something first, and answers: `Waiting.steps`."""
        self._approach: Approach | None = None
        self._expires: float | None = None
        self.wake: float | None = None
        self.sock: SocketType | None = None
        self.tried: tuple[int, ...] = ()
        self._gone = 0
        """Upstreams that were tried, and have left the pool since."""
        self.upstream: Upstream | None = None
        self.wait: Wait | None = None
        """Its time in the queue, where it had to do with it."""
        self.began = loop.now
        """The loop's time at which the last try began, in seconds."""

    def start(self) -> None:
        """Try the first upstream. May call back before it returns."""
        queue = self._pool.queue
        if queue is not None and queue.waiting:
            self._queue_up(queue, "no_upstream")
        else:
            self._advance("no_upstream")

    def start_with(self, upstream: Upstream, tried: tuple[int, ...]) -> None:
        """Go on after the upstreams `tried`, with one that was taken from the pool already."""
        self.tried = tried
        why = self._try(upstream)
        if why is not None:
            self._advance(why)

    @property
    def retries(self) -> int:
        """How many upstreams were tried beside the first one."""
        tries = len(self.tried) + self._gone
        return tries - 1 if tries else 0

    @property
    def held(self) -> Upstream | None:
        """The upstream that it is connecting to."""
        return self._held

    def move_on(self, why: Why) -> None:
        """Leave the upstream that it is connecting to, and try another one; where there is none the
        session ends with `why`. May call back."""
        self._close()
        self._advance(why)

    def cancel(self) -> None:
        """Give up; nobody is called."""
        self._close()
        self._give_back()
        self._leave_queue()

    @property
    def queued(self) -> bool:
        """It waits for a place."""
        return self.wait is not None and self.wait.queue is not None

    def _queue_up(self, queue: Queue, why: Why) -> None:
        """Wait for a place, or end with `why` where waiting is of no use."""
        wait = self.wait or Wait()
        wait.why = why
        self._follow(queue.pool)
        refusal = queue.join(self, wait)
        if refusal is None or refusal == "queue_full":
            self.wait = wait
        if refusal is not None:
            self.waiting.on_not_connected(refusal)
            return
        self._expires = self.wake = None
        plan = queue.pool.plan.queue
        if plan is not None and plan.timeout is not None:
            self.wake = wait.since + plan.timeout - (wait.seconds or 0.0)
            self._loop.arm(self.waiting, self.wake)
        self.waiting.on_queued()

    def _leave_queue(self) -> None:
        wait = self.wait
        if wait is not None and wait.queue is not None:
            wait.queue.leave(self, wait)

    def _follow(self, pool: Pool) -> None:
        """Go on with the pool that took the place of this one, if any did."""
        if pool is not self._pool:
            tried = pool.indices_of(self._pool, self.tried)
            self._gone += len(self.tried) - len(tried)
            self.tried = tried
            self._pool = pool
            self._key = self.waiting.on_pool(pool)

    def take_turn(self, pool: Pool) -> bool:
        """Take a place that is free in `pool`, for `on_turn`; False: none is for this session."""
        self._follow(pool)
        self._held = pool.take_turn(self.tried, self._key)
        return self._held is not None

    def on_turn(self) -> None:
        """The wait is over: connect with what was taken, or end where there is no hope."""
        wait, upstream = self.wait, self._held
        assert wait is not None
        self._leave_queue()
        self.wake = None
        if upstream is None:
            self.waiting.on_not_connected(wait.why)
            return
        wait.past_it = True
        why = self._try(upstream)
        if why is not None:
            self._advance(why)

    def _give_back(self) -> None:
        held = self._held
        if held is not None:
            self._held = None
            self._pool.give_back(held)

    def _close(self) -> None:
        sock = self.sock
        if sock is not None:
            self.sock = self._approach = None
            self._loop.close_socket_later(sock)

    def _advance(self, why: Why) -> None:
        """Try upstreams until one is on its way; `why` is what happened to the last one."""
        self._give_back()
        if self._pool.successor is not None:  # what it would go to may have left since
            self._follow(self._pool.latest)
        pool = self._pool
        while why != "no_resources" and len(self.tried) <= pool.plan.retries:
            upstream = pool.take(self.tried, self._key)
            if upstream is None:
                if pool.queue is not None:
                    self._queue_up(pool.queue, why)
                    return
                break
            failure = self._try(upstream)
            if failure is None:
                return
            why = failure
        self.waiting.on_not_connected(why)

    def _try(self, upstream: Upstream) -> Why | None:
        """Begin to connect with what was taken: None, or what failed at once."""
        loop = self._loop
        self._held = upstream
        self.tried = (*self.tried, upstream.index)
        self.upstream = upstream
        self.began = loop.now
        if self.approaches:
            self.waiting.tls_error = None
        timeout = self._pool.plan.connect_timeout
        if timeout is not None:
            self.wake = self._expires = self.began + timeout
            loop.arm(self.waiting, self.wake)
        code = self._connect(upstream)
        if not code:
            return None
        self._give_back()
        return self._failed(upstream, verdict(code), code in UPSTREAM_ERRNOS)

    def _failed(self, upstream: Upstream, why: Why, its_doing: bool = True) -> Why:
        """A try failed by `why`, which is returned; by the upstream's doing, or this machine's."""
        self.waiting.on_try_failed(upstream, why)
        eject = self._pool.plan.eject
        if its_doing and eject is not None and eject.connect:
            upstream.failures += 1
            if upstream.failures >= eject.after:
                self.waiting.on_failing(upstream, why)
        return why

    def _connect(self, upstream: Upstream) -> int:
        """Begin to connect: 0, or the errno of a failure that came at once."""
        code = 0
        sources = self._pool.sources(upstream.family) or (None,)
        for source in sources:
            code = self._connect_from(source, upstream)
            if code not in NO_SOURCE_PORT_ERRNOS:
                break
        return code

    def _connect_from(self, source: tuple[str, int] | None, upstream: Upstream) -> int:
        try:
            self.sock = sock = SocketType(upstream.family, _STREAM)
            if upstream.family != AF_UNIX:
                set_tcp_options(sock, self._pool.plan.tcp)
                if source is not None:
                    sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
                    sock.bind(source)
            code = sock.connect_ex(upstream.address)
            if code in (0, errno.EINPROGRESS):
                self._loop.add(sock.fileno(), interest(upstream.family), self._on_event)
        except OSError as error:
            code = error.errno or errno.EIO
        if code == errno.EINPROGRESS:
            return 0
        if code == 0:
            self._connected(0)
            return 0
        self._close()
        if code == errno.EAGAIN and upstream.family == AF_UNIX:
            self.wake = self._loop.now + UNIX_RETRY
            self._loop.arm(self.waiting, self.wake)
            return 0
        return code

    def _on_event(self, events: int) -> None:
        sock, upstream = self.sock, self.upstream
        assert sock is not None
        assert upstream is not None
        code = 0
        if events & FAILED:
            code = sock.getsockopt(SOL_SOCKET, SO_ERROR)
        elif upstream.may_self_connect and _is_self_connected(sock):
            code = errno.ECONNREFUSED
        if code:
            self._close()
            its_doing = code in UPSTREAM_ERRNOS or code in UNREACHABLE_ERRNOS
            self._advance(self._failed(upstream, verdict(code), its_doing))
        else:
            self._connected(events)

    def _connected(self, events: int) -> None:
        sock, upstream, loop = self.sock, self.upstream, self._loop
        assert sock is not None
        assert upstream is not None
        if not self.approaches or self._approach is not None:
            self.sock = self._held = self._approach = None
            if upstream.failures:
                upstream.failures = 0
            self.waiting.on_connected(sock, upstream, events)
            return
        self._approach = Approach(sock, loop, self.waiting.steps(upstream), self._on_turn)
        loop.set_handler(sock.fileno(), self._on_approach_event)
        if events:
            self._on_approach_event(events)
        else:  # at once: a failure would be met in the middle of the call that connects
            loop.run_again(self._begin_approach)

    def _begin_approach(self) -> None:
        self._on_approach_event(0)

    def _on_turn(self) -> None:
        self._go_on_approaching(None)

    def _on_approach_event(self, events: int) -> None:
        self._go_on_approaching(events)

    def _go_on_approaching(self, events: int | None) -> None:
        """With events, or in a turn of its own."""
        approach, upstream = self._approach, self.upstream
        if approach is None or upstream is None:
            return  # it was left meanwhile
        try:
            if not (approach.take_turn() if events is None else approach.go_on(events)):
                return
        except ApproachError as error:
            self.waiting.tls_error = str(error)
            self._close()
            self._advance(self._failed(upstream, "tls_handshake"))
            return
        self._connected(approach.events)

    def on_wake(self, now: float) -> None:
        """The end of the wait or of the try, or the time to try a full UNIX socket again."""
        if self.queued:
            self._leave_queue()
            self.waiting.on_not_connected("queue_timeout")
            return
        upstream = self.upstream
        assert upstream is not None
        if self._expires is not None and now >= self._expires:
            if self._approach is not None:
                self.waiting.tls_error = self._approach.waits_for
            self._close()
            self._advance(self._failed(upstream, "connect_timeout"))
            return
        self.wake = self._expires
        if self.sock is None:
            code = self._connect(upstream)
            if code:
                why = self._failed(upstream, verdict(code), code in UPSTREAM_ERRNOS)
                self._advance(why)


def _is_self_connected(sock: SocketType) -> bool:
    """Whether both ends are one socket: nobody listens on that port (tcp(7), simultaneous open)."""
    try:
        return bool(sock.getsockname() == sock.getpeername())
    except OSError:  # reset already: the relay will see it
        return False
