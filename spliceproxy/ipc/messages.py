"""What supervisor and workers say to each other: small, flat, JSON in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import ClassVar

import orjson

from spliceproxy.errors import IpcError


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
class Find(Message):
    """To a worker: tell which of your sessions these are, by a Found with the same number."""

    request: int
    query: str
    """A SessionQuery as JSON (ipc/queries.py)."""


@dataclass(frozen=True, slots=True)
class Found(Message):
    """From a worker: an answer to Find. A memfd (one fd) has the sessions, as
    `encode_found` of ipc/queries.py puts them."""

    fds: ClassVar[int] = 1
    request: int
    matching: int
    """How many there are in all."""


@dataclass(frozen=True, slots=True)
class Reset(Message):
    """To a worker: end these sessions by a reset, and say so by a WasReset with the same number."""

    request: int
    query: str
    """As in Find; its sort and limit mean nothing."""


@dataclass(frozen=True, slots=True)
class WasReset(Message):
    """From a worker: it has ended so many."""

    request: int
    sessions: int


@dataclass(frozen=True, slots=True)
class Watch(Message):
    """To a worker: tell the records of sessions as they end through this socket (one fd), until
    its other end is closed."""

    fds: ClassVar[int] = 1
    keep: str
    """all, or errors."""
    where: str
    """A SessionQuery as JSON, whose filter they have to meet."""


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
    """What the last one met: connect_refused, connect_timeout, connect_failed, tls_handshake,
    early_close."""


@dataclass(frozen=True, slots=True)
class Warned(Message):
    """From a worker: a line of its log, a warning or worse, for those who follow what happens."""

    line: str
    """Its plain values, as JSON."""


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
        Warned,
        End,
        Spare,
        Find,
        Found,
        Reset,
        WasReset,
        Watch,
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
