"""Ports for programs, and for listeners, that cannot choose one and tell."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

from harness.serving import LOOPBACK


def free_port(family: str = "v4") -> int:
    """A port at which nobody listens, for programs that cannot choose one and tell.

    It is below the kernel's own range, so no outgoing connection takes it meanwhile.
    """
    number, host = LOOPBACK[family]
    while True:
        port = random.SystemRandom().randrange(15000, 30000)
        with socket.socket(number, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                sock.bind((host, port))
                return port
