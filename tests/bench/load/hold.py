"""`python -m bench.load.hold HOST PORT NUMBER [speak]`: connects, says so, and holds the sessions.

With `speak`, each session carries one byte there and back before it is silent. It ends when its
standard input does.
"""

from __future__ import annotations

import json
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.peers.base import Address
from bench.programs import Running, raise_fd_limit, script, script_environment


@contextmanager
def holding(
    prefix: Sequence[str], address: Address, number: int, speak: bool = False
) -> Iterator[None]:
    """So many idle sessions for as long as the block lasts. Raises FailedError."""
    if not number:
        yield
        return
    words = script("load.hold", *address, number, *(["speak"] if speak else []))
    with tempfile.TemporaryDirectory(prefix="bench-hold-") as name:
        log = Path(name) / "hold.log"
        holder = Running([*prefix, *words], log, env=script_environment(), talk=True)
        try:
            holder.hear()
            yield
        finally:
            holder.end()


def connect_all(host: str, port: int, number: int) -> list[socket.socket]:
    """So many connections."""
    return [socket.create_connection((host, port), 20) for _ in range(number)]


if __name__ == "__main__":
    raise_fd_limit()
    sockets = connect_all(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    # A byte there and back on the last one: the proxy and the origin have accepted all of them.
    for each in sockets if "speak" in sys.argv[4:] else sockets[-1:]:
        each.sendall(b"x")
        assert each.recv(1) == b"x"
    print(json.dumps({"connected": len(sockets)}), flush=True)
    sys.stdin.read()
    for each in sockets:
        each.close()
