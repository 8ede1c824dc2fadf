"""The only door between the supervisor's wing and the workers' wing.

One UNIX seqpacket pair per worker carries small typed messages, and listening sockets beside them
(SCM_RIGHTS). What is large, the configuration, travels as a sealed memfd: a seqpacket message of
300 KB is EMSGSIZE, and a sealed memfd can be read but never changed under the reader.

Messages are flat and go as JSON, in both directions. A `Snapshot` goes from the supervisor to its
workers only, and only for as long as both are the same program, so it is pickled (`sealed`).
"""

from __future__ import annotations

import array
import errno
import os
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import ClassVar, NamedTuple, Protocol

import orjson

from spliceproxy.errors import IpcError
from spliceproxy.limits.window import Rate
from spliceproxy.wire.networks import NetworkTable

MAX_MESSAGE = 64 * 1024
"""Bytes of one message, at most."""

ALLOW, DENY = 0, 1
"""The answers of a listener's access rules."""

Sockaddr = tuple[str, int] | tuple[str, int, int, int] | str | bytes
"""What connect() and bind() take: (host, port) and its IPv6 form, or a UNIX path; bytes that
begin with NUL are an abstract name."""


@dataclass(frozen=True, slots=True)
class TcpPlan:
    """Socket options of the connections to one pool's upstreams. 0 or "" means: leave as it is."""

    nodelay: bool = True
    keepalive: tuple[int, int, int] | None = None
    """Idle seconds, seconds between probes, number of probes; None: no keepalive."""
    user_timeout_ms: int = 0
    receive_buffer: int = 0
    """Bytes."""
    send_buffer: int = 0
    """Bytes."""
    interface: str = ""
    mark: int = 0
    sources: tuple[str, ...] = ()
    """IP addresses to connect from."""


class UpstreamPlan(NamedTuple):
    """One address that serves. A tuple, because there may be thousands to unpickle."""

    name: str
    """As the record and the logs show it: `10.0.0.1:80`, `[::1]:80`, `unix:/run/app.sock`."""
    family: int
    """socket.AF_INET, AF_INET6 or AF_UNIX."""
    address: Sockaddr
    weight: int = 1
    """0: takes no new sessions."""
    slot: int = 0
    """Its place among the board's upstreams."""
    tier: int = 0
    """Used when no lower tier has a usable one."""
    max_sessions: int | None = None
    """Over all workers; None: no limit of its own."""


@dataclass(frozen=True, slots=True)
class EjectPlan:
    """When a worker says that an upstream fails."""

    after: int
    """Failures of one kind in a row."""
    connect: bool
    """Failed connects count."""
    early_close: bool
    """Upstreams that end first, without a byte, count."""


@dataclass(frozen=True, slots=True)
class QueuePlan:
    """Where clients wait while no upstream can be chosen."""

    size: int
    """Clients of one worker."""
    timeout: float | None
    """Seconds that one may wait; None: no limit."""
    when_down: bool
    """Also while no upstream may be chosen at all, not only while they are full."""


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """A named group of upstreams. Times are seconds; None is off."""

    name: str
    balance: str
    upstreams: tuple[UpstreamPlan, ...]
    retries: int
    connect_timeout: float | None
    idle_timeout: float | None
    half_close_timeout: float | None
    session_timeout: float | None
    tcp: TcpPlan
    slot: int = 0
    """Its place among the board's upstreams, where its sessions are counted."""
    max_sessions: int | None = None
    """Over all workers; None: no limit of its own."""
    panic: float | None = None
    """Where less than this share of a tier is healthy, all of it is used; None: never."""
    tables: Mapping[int, array.array[int]] = field(default_factory=dict)
    """For `source_hash`: a Maglev table of indices into `upstreams`, for each tier."""
    eject: EjectPlan | None = None
    """None: failures are not counted."""
    slow_start: bool = False
    """A part of an upstream's share may be held back on the board."""
    queue: QueuePlan | None = None
    """None: nobody waits."""
    replay: int | None = None
    """Bytes of a client that are kept for another upstream until the first byte from this one;
    None: a session stays with the upstream that it was connected with."""


@dataclass(frozen=True, slots=True)
class LimitsPlan:
    """What a listener takes, of all workers together. None: no such limit."""

    rate: Rate | None
    """New sessions of everybody."""
    client_rate: Rate | None = None
    """New sessions of one client network."""
    client_sessions: int | None = None
    """Live sessions of one client network."""
    v4: int = 32
    """Bits that addresses of one network have in common."""
    v6: int = 64


@dataclass(frozen=True, slots=True)
class ListenerPlan:
    """A named set of addresses that accept clients."""

    name: str
    slot: int
    """Which of the board's session counters is this listener's."""
    pool: str
    max_sessions: int | None
    """Over all workers; None: no limit of its own."""
    keep: str
    """Which session records are written: all, errors, off."""
    sample: float
    """The share of them that is written, 0 to 1."""
    access: NetworkTable | None = None
    """Which clients are refused; None: nobody."""
    on_refuse: str = "reset"
    """How clients are refused: reset or close."""
    rate_up: int | None = None
    """Bytes per second of one session towards its upstream; None: no limit."""
    rate_down: int | None = None
    """The same towards its client."""
    limits: LimitsPlan | None = None
    """None: clients come as often and as many as they like."""


@dataclass(frozen=True, slots=True)
class RelayPlan:
    """How one worker may move bytes."""

    mode: str
    """adaptive, splice or copy."""
    pipe_size: int
    """Bytes that a pipe is asked to hold."""
    max_pipes: int
    """Pipes that this worker may own."""
    pipe_pages: int | None
    """This worker's share of the user's pipe pages; None: the user has no such limit."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that one worker knows: resolved, inherited, never changed. A reload brings another."""

    listeners: tuple[ListenerPlan, ...]
    pools: tuple[PoolPlan, ...]
    relay: RelayPlan
    max_sessions: int | None
    """Over all workers; None: as many as the fds of each worker allow."""
    worker_sessions: int
    """Sessions that the fds of one worker allow."""
    sessions_to: str
    """Where session records go: `stdout` or `file:/path`."""
    log_level: str
    log_format: str
    """auto, console or json; auto looks at each stream: stderr, and stdout for the records."""


@dataclass(frozen=True, slots=True)
class Message:
    """Something that one side tells the other; `fds` says how many fds travel with it."""

    fds: ClassVar[int] = 0


@dataclass(frozen=True, slots=True)
class Configure(Message):
    """To a worker: here is your snapshot (one fd, a sealed memfd), the first one or a newer one."""

    fds: ClassVar[int] = 1
    generation: int
    """Counts the configurations of this supervisor, from 0."""


@dataclass(frozen=True, slots=True)
class Serve(Message):
    """To a worker: accept clients from this listening socket (one fd).

    It may be the worker's own, or one that it is lent while a sibling is away.
    """

    fds: ClassVar[int] = 1
    socket: int
    """The supervisor's number of the socket, the same in every message about it. One that the
    worker serves already is another listener's from now on."""
    listener: str
    shared: bool
    """Other workers wait on the same socket too: EPOLLEXCLUSIVE."""


@dataclass(frozen=True, slots=True)
class Release(Message):
    """To a worker: stop accepting from this socket now; its owner is back."""

    socket: int


@dataclass(frozen=True, slots=True)
class Retire(Message):
    """To a worker: no new client can reach this socket. Accept until it is empty, then say so."""

    socket: int


@dataclass(frozen=True, slots=True)
class Retired(Message):
    """From a worker: that socket's queue stayed empty, and the worker closed its copy."""

    socket: int


@dataclass(frozen=True, slots=True)
class Stop(Message):
    """To a worker: let sessions end for `drain` seconds, reset the rest, exit 0."""

    drain: float | None
    """None: without limit. 0: now."""


@dataclass(frozen=True, slots=True)
class End(Message):
    """To a worker: end the sessions that you have with these upstreams or by these listeners.

    Those that come to them later are ended too while the order runs, and it runs for `over`.
    """

    why: str
    """For the session's record: drained, upstream_down, removed, failback."""
    upstreams: Sequence[int] = ()
    """Their slots on the board; MOST_NAMED of them at the most."""
    listeners: Sequence[int] = ()
    """The slots of their counters."""
    over: float = 0.0
    """Seconds in which they end one by one, who is silent longest first; 0: at once."""


@dataclass(frozen=True, slots=True)
class Spare(Message):
    """To a worker: leave these upstreams and listeners out of every order that runs."""

    upstreams: Sequence[int] = ()
    listeners: Sequence[int] = ()


MOST_NAMED = 5000
"""Slots of one message, which so stays far below MAX_MESSAGE."""


@dataclass(frozen=True, slots=True)
class Reopen(Message):
    """To a worker: open the file of session records anew (it was rotated)."""


@dataclass(frozen=True, slots=True)
class Ready(Message):
    """From a worker: configured, and accepting from every socket it was told to serve so far."""

    pid: int
    generation: int
    """Of the snapshot that it obeys."""


@dataclass(frozen=True, slots=True)
class Failing(Message):
    """From a worker: as many sessions in a row as `eject.after` says failed on that upstream."""

    slot: int
    """The upstream's place on the board."""
    why: str
    """What the last one met: connect_refused, connect_timeout, connect_failed, early_close."""


_MESSAGES: dict[str, type[Message]] = {
    kind.__name__: kind
    for kind in (
        Configure,
        Serve,
        Release,
        Retire,
        Retired,
        Stop,
        Reopen,
        Ready,
        Failing,
        End,
        Spare,
    )
}


def encode(message: Message) -> bytes:
    """The JSON form of a message: its fields, and its name as `message`."""
    return orjson.dumps({"message": type(message).__name__, **asdict(message)})


def decode(data: bytes) -> Message:
    """The message behind its JSON form. Raises IpcError where there is none."""
    try:
        values = orjson.loads(data)
        kind = _MESSAGES[values.pop("message")]
        return kind(**{field.name: values[field.name] for field in fields(kind)})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IpcError(f"not a message: {data[:80]!r}: {error!r}") from None


class HasFileno(Protocol):
    """What owns an fd: a socket, a file. Its fileno() is -1 once it is closed."""

    def fileno(self) -> int: ...


class Channel:
    """One end of a seqpacket pair: whole messages, in order, with their fds.

    Never blocks. What the kernel does not take at once waits in an outbox. While `waiting` is
    true, call `flush()` when the fd is writable; while `short` is true, by a timer instead.

    What waits needs no fd of its own: a process that is short of fds, or that has hundreds of
    sockets to hand over before the other side reads the first, would fail to duplicate them.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._outbox: deque[tuple[bytes, tuple[HasFileno | int, ...]]] = deque()
        self.short = False
        """The kernel has too many fds of this user under way (ETOOMANYREFS, unix(7)). The fd is
        writable all the same, so that its events say nothing."""

    @classmethod
    def pair(cls) -> tuple[Channel, socket.socket]:
        """A channel, and the other end's bare socket, to be handed to the new process."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(here), there

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def waiting(self) -> bool:
        return bool(self._outbox)

    def send(self, message: Message, *files: HasFileno | int) -> None:
        """Send, or queue, one message with its fds, which stay the caller's.

        A file that is closed before its message has left takes the message with it. A bare number
        must stay open for as long as the channel. Raises OSError (EPIPE and ECONNRESET where the
        other side is gone); then all that waited is dropped.
        """
        if len(files) != message.fds:
            kind = type(message).__name__
            raise IpcError(f"{kind} travels with {message.fds} fds, not {len(files)}")
        self._outbox.append((encode(message), files))
        if len(self._outbox) == 1:
            self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the kernel takes it. Raises OSError as `send` does."""
        self.short = False
        while self._outbox:
            data, files = self._outbox[0]
            fds = [file if isinstance(file, int) else file.fileno() for file in files]
            if -1 not in fds and not self._send(data, fds):
                return
            self._outbox.popleft()

    def _send(self, data: bytes, fds: list[int]) -> bool:
        """Send one message; False: later. Raises OSError."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._sock.sendmsg([data], rights)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS:
                self._outbox.clear()
                raise
            self.short = True
            return False
        return True

    def receive(self) -> tuple[Message, list[int]] | None:
        """The next message and its fds, which the caller then owns; None when the peer is gone.

        Raises BlockingIOError when nothing is there, IpcError when it makes no sense.
        """
        try:
            data, fds, _flags, _address = socket.recv_fds(self._sock, MAX_MESSAGE, 253)
        except ConnectionResetError:
            return None
        if not data:
            return None
        try:
            message = decode(data)
            if len(fds) != message.fds:
                raise IpcError(f"{type(message).__name__} came with {len(fds)} fds")
        except IpcError:
            for fd in fds:
                os.close(fd)
            raise
        return message, fds

    def close(self) -> None:
        """Close this end; what waited in the outbox is dropped. A second call does nothing."""
        self._outbox.clear()
        self._sock.close()
