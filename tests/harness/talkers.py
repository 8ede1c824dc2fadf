"""Sessions that last, and say so at once when something in them is not as it should be."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from harness.proxy import Name, connect

TALKERS = 8
TLS_NAME = "www.example.com"


class Talker(threading.Thread):
    """A session that lasts: it sends and hears again, until it is told to stop."""

    def __init__(self, name: Name, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(daemon=True)
        self._sock = connect(name)
        if tls is not None:
            self._sock = tls.wrap_socket(self._sock, server_hostname=TLS_NAME)
        self.rounds = 0
        self.trouble = ""
        self._over = threading.Event()

    def run(self) -> None:
        try:
            with self._sock as sock:
                while not self._over.is_set():
                    sock.sendall(b"%8d" % self.rounds)
                    came = b""
                    while len(came) < 8:
                        came += sock.recv(8 - len(came)) or b"the end ."
                    if int(came) != self.rounds:
                        self.trouble = repr(came)
                        return
                    self.rounds += 1
        except (OSError, ValueError) as error:
            self.trouble = repr(error)

    def leave(self) -> None:
        self._over.set()
        self.join(10)


@contextmanager
def talkers(name: Name, tls: ssl.SSLContext | None = None) -> Iterator[list[Talker]]:
    """`tls`: for sessions with `TLS_NAME` in TLS."""
    crowd = [Talker(name, tls) for _ in range(TALKERS)]
    for one in crowd:
        one.start()
    try:
        yield crowd
    finally:
        for one in crowd:
            one.leave()
