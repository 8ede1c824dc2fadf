"""`python -m bench.origins.echo HOST PORT`: sends back what it receives, on any number of sessions.

Where it may, it goes before other processes, so that an answer's time is the proxy's. Sessions
that say nothing cost it nothing: it also holds the idle ones.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from contextlib import suppress

from bench.programs import raise_fd_limit


def serve(host: str, port: int) -> None:
    """Echo until the process is ended."""
    raise_fd_limit()
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -15)
    listener = socket.create_server((host, port), backlog=4096)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening = listener.fileno()
    epoll = select.epoll()
    epoll.register(listening, select.EPOLLIN)
    open_sockets: dict[int, socket.socket] = {}
    buffer = memoryview(bytearray(256 * 1024))
    while True:
        for fd, _ in epoll.poll():
            if fd == listening:
                sock, _ = listener.accept()
                open_sockets[sock.fileno()] = sock
                epoll.register(sock.fileno(), select.EPOLLIN)
                continue
            sock = open_sockets[fd]
            count = 0
            with suppress(OSError):
                count = sock.recv_into(buffer)
                sock.sendall(buffer[:count])
            if not count:
                del open_sockets[fd]
                sock.close()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
