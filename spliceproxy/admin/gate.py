"""What stands between a connection and the HTTP parser: how many there may be, how long each may
take to say what it wants, how much it may say, and how long it may not listen.

Rules:

1. Each kind of door has places of its own, so that whoever fills one keeps nobody out of another.
2. When they are all taken, the connection that has been asking or parting for longest is closed in
   favour of a new one: so those that do nothing keep nobody out. Where all are being answered, the
   new one is turned away with 503.
3. From its first moment, or the end of the last answer, until a request was read, `request_time`
   may pass; then it is told 408 where it had begun to speak, and closed.
4. From one answer to the next it may say `most_said` bytes; then it is told 413, and closed.
5. When bytes wait to be sent, some must be taken within `listen_time`; else it is cut off.
6. Where an answer is the last one, what else comes is thrown away for `parting_time`: to close at
   once would reset the connection and take the answer with it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum, auto


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the rules speak of; times are seconds."""

    request_time: float = 10.0
    listen_time: float = 10.0
    parting_time: float = 5.0
    most_said: int = 128 * 1024
    """Bytes: head and body of a request, with room to spare."""


BOUNDS = Bounds()
_RESET = struct.pack("ii", 1, 0)
"""A close is a reset, socket(7)."""


class _Doing(Enum):
    ASKING = auto()
    """A request has not come in whole."""
    ANSWERED = auto()
    """It is being answered."""
    PARTING = auto()
    """The last word was said, and nothing is heard any more."""


class Crowd:
    """The connections of one kind of door."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.closing = False
        """Whether nobody stays."""
        self.streams = 0
        """Answers without end, at this moment."""
        self.empty = asyncio.Event()
        """Set while there is none."""
        self.empty.set()
        self._gates: set[Gate] = set()
        self._spare: dict[Gate, None] = {}
        """Those that are not being answered, in the order in which that began."""

    def enter(self, gate: Gate) -> bool:
        """Take a place; whether there is one."""
        if len(self._gates) >= self.most:
            if not self._spare:
                return False
            oldest = next(iter(self._spare))
            self.leave(oldest)
            oldest.cut_off()
        self._gates.add(gate)
        self.empty.clear()
        return True

    def note(self, gate: Gate, *, spare: bool) -> None:
        """Know whether a gate can be closed in favour of a new one, from this moment on."""
        self._spare.pop(gate, None)
        if spare and gate in self._gates:
            self._spare[gate] = None

    def leave(self, gate: Gate) -> None:
        """Give a place back. A second call does nothing."""
        self._spare.pop(gate, None)
        self._gates.discard(gate)
        if not self._gates:
            self.empty.set()

    @property
    def new_ones(self) -> bool:
        """Whether anybody has come and not been answered so far."""
        return any(gate.is_new for gate in self._gates)

    def see_out(self) -> None:
        """Whoever was answered and asks nothing is closed; the others, and those that come, are
        closed after one answer."""
        self.closing = True
        for gate in list(self._gates):
            gate.unwanted.set()
            if not gate.is_new:
                gate.close_if_silent()

    def send_home(self) -> None:
        """The same, but those that are new and silent are closed too."""
        self.see_out()
        for gate in list(self._gates):
            gate.close_if_silent()

    def cut_off(self) -> None:
        """Leave nobody."""
        for gate in list(self._gates):
            gate.cut_off()


class Gate(asyncio.Protocol):
    """One connection: a protocol around that of the HTTP server."""

    def __init__(
        self,
        crowd: Crowd,
        inner: asyncio.Protocol,
        refusal: Callable[[int, str], bytes],
        bounds: Bounds = BOUNDS,
    ) -> None:
        """`refusal` makes a whole HTTP answer, which says that it is the last one."""
        self._crowd = crowd
        self._inner = inner
        self._refusal = refusal
        self._bounds = bounds
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._doing = _Doing.ASKING
        self._said = 0
        self._timer: asyncio.TimerHandle | None = None
        self._deaf: asyncio.TimerHandle | None = None
        self._entered = False
        self.is_new = True
        """Whether it was not answered so far: who kept a connection knows that it may be closed and
        comes again, but who is new does not."""
        self.unwanted = asyncio.Event()
        """Set when the answer under way, or the next one, is to be the last; when the connection is
        gone too."""
        self.gone = asyncio.Event()
        """Set when the connection is."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: somebody came. The HTTP server hears of it where there is a place."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if not self._crowd.enter(self):
            transport.write(self._refusal(503, "there are too many connections; try again"))
            transport.close()
            return
        self._entered = True
        if self._crowd.closing:
            self.unwanted.set()
        self._inner.connection_made(transport)
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.leave(self)
        self._set_timer(None)
        if self._deaf is not None:
            self._deaf.cancel()
        self.unwanted.set()
        self.gone.set()
        if self._entered:
            self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """asyncio: something was said. It is passed on while it is not too much."""
        if self._doing is _Doing.PARTING or not self._entered:
            return
        self._said += len(data)
        most = self._bounds.most_said
        if self._said <= most:
            self._hear(data)
        elif self._doing is _Doing.ASKING:
            self._part_with(413, f"a request has {most} bytes at the most")
        elif not self.unwanted.is_set():
            self.cut_off()

    def _hear(self, data: bytes) -> None:
        try:
            self._inner.data_received(data)
        except Exception:  # what the parser did not expect of anybody
            self._part_with(400, "this is not HTTP as it is understood here")

    def eof_received(self) -> bool | None:
        return None

    def pause_writing(self) -> None:
        self._deaf = self._deaf or self._loop.call_later(self._bounds.listen_time, self.cut_off)
        if self._entered:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._deaf is not None:
            self._deaf.cancel()
            self._deaf = None
            if self._entered:
                self._inner.resume_writing()

    @asynccontextmanager
    async def answering(self) -> AsyncIterator[None]:
        """While a request is answered, and the answer written. Where it was told already that it
        took too long, or was too much, raises ConnectionResetError when it is gone."""
        if self._doing is _Doing.PARTING:
            await self.gone.wait()
        if self.gone.is_set():
            raise ConnectionResetError
        self._doing = _Doing.ANSWERED
        self.is_new = False
        self._crowd.note(self, spare=False)
        self._set_timer(None)
        try:
            yield
        finally:
            if self._doing is _Doing.ANSWERED and not self.gone.is_set():
                self._ask()

    async def part(self) -> None:
        """The last answer was written: say so, and wait until the other side has heard it."""
        if not self.gone.is_set():
            self._part()
        await self.gone.wait()

    def close_if_silent(self) -> None:
        """Close it if it asks nothing."""
        if self._doing is _Doing.ASKING and not self._said:
            self._transport.close()

    def cut_off(self) -> None:
        """Close it at once, and have the kernel forget what waits to be sent."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def _ask(self) -> None:
        self._doing = _Doing.ASKING
        self._said = 0
        self._crowd.note(self, spare=True)
        self._set_timer(self._loop.call_later(self._bounds.request_time, self._on_late))

    def _on_late(self) -> None:
        if self._said:
            limit = self._bounds.request_time
            self._part_with(408, f"the request did not come in whole within {limit:g} s")
        else:
            self.cut_off()

    def _part_with(self, status: int, text: str) -> None:
        self._transport.write(self._refusal(status, text))
        self._part()

    def _part(self) -> None:
        self._doing = _Doing.PARTING
        self._crowd.note(self, spare=True)
        self._set_timer(self._loop.call_later(self._bounds.parting_time, self.cut_off))
        if not self._transport.is_closing():
            self._transport.resume_reading()  # the parser may have had enough
            self._transport.write_eof()

    def _set_timer(self, timer: asyncio.TimerHandle | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = timer
