"""What systemd tells us, and wants to be told.

The sources are sd_notify(3), sd_listen_fds(3) and sd_watchdog_enabled(3). All of it is a few
environment variables and one datagram socket, so no library is needed. Each variable is removed
from the environment when it is read: workers must not inherit it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass

from spliceproxy.errors import BindError

_FIRST_FD = 3


class Notifier:
    """Tells the service manager what state we are in. Does nothing where none listens."""

    def __init__(self, address: str | None, watchdog: float | None = None) -> None:
        """`address` is a path or `@abstract`; `watchdog` is how often `WATCHDOG=1` is wanted, in
        seconds between two of them at most."""
        self.watchdog = watchdog
        self._given = address
        self._sock: socket.socket | None = None
        if address:
            self._address = "\0" + address[1:] if address.startswith("@") else address
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._sock.setblocking(False)

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] = os.environ) -> Notifier:
        """The notifier that NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID describe."""
        address = environ.pop("NOTIFY_SOCKET", None)
        microseconds = environ.pop("WATCHDOG_USEC", "")
        pid = environ.pop("WATCHDOG_PID", str(os.getpid()))
        wanted = microseconds.isdecimal() and int(microseconds) > 0 and pid == str(os.getpid())
        return cls(address, int(microseconds) / 1e6 if wanted else None)

    def environment(self) -> dict[str, str]:
        """What tells another process the same: the one that is to replace this one."""
        found = {} if self._given is None else {"NOTIFY_SOCKET": self._given}
        if self.watchdog is not None:
            found["WATCHDOG_USEC"] = str(round(self.watchdog * 1e6))
        return found

    def notify(self, **state: str | int) -> None:
        """Send assignments: `notify(READY=1, STATUS="ready")`.

        Never blocks and never fails: a service manager that does not listen is not our trouble.
        """
        if self._sock is None:
            return
        text = "\n".join(f"{key}={value}" for key, value in state.items())
        try:
            self._sock.sendto(text.encode(), self._address)
        except OSError:
            return

    async def feed_watchdog(self, well: Callable[[], bool]) -> None:
        """Say that all is well, twice as often as is asked, while that is true; without end, where
        it is asked at all."""
        while self.watchdog:
            if well():
                self.notify(WATCHDOG=1)
            await asyncio.sleep(self.watchdog / 2)

    def close(self) -> None:
        """Close the socket; later notifications go nowhere."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None


@dataclass(frozen=True, slots=True)
class Handed:
    """A socket that the service manager opened for us."""

    name: str
    """FileDescriptorName= of its socket unit; empty where it has none."""
    sock: socket.socket


def take_handed_sockets(environ: MutableMapping[str, str] = os.environ) -> list[Handed]:
    """The sockets of LISTEN_FDS, close-on-exec from now on; the caller owns them.

    Raises BindError where one of them is no socket.
    """
    pid = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    names += [""] * int(count)
    handed = []
    for fd, name in zip(range(_FIRST_FD, _FIRST_FD + int(count)), names, strict=False):
        try:
            os.set_inheritable(fd, False)
            sock = socket.socket(fileno=fd)
        except OSError as error:
            raise BindError(f"fd {fd} {name!r}, handed over by systemd: {error.strerror}") from None
        # systemd's own word for a descriptor without FileDescriptorName=.
        handed.append(Handed("" if name == "unknown" else name, sock))
    return handed
