"""`python -m bench.load.echo HOST PORT SECONDS BYTES`: one session, one message at a time.

Says how long an answer takes. Where it may, it goes before other processes.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
import time
from contextlib import suppress

from bench.load.quantiles import quantiles_us


def lockstep(host: str, port: int, seconds: float, size: int) -> list[int]:
    """Round trips of one message after another; nanoseconds each."""
    message = os.urandom(size)
    time.sleep(0.4)  # until the bulk beside it flows
    times = []
    with socket.create_connection((host, port), 20) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end = time.perf_counter_ns() + int(seconds * 1e9)
        sent = 0
        while sent < end:
            sent = time.perf_counter_ns()
            sock.sendall(message)
            got = 0
            while got < size:
                got += len(sock.recv(size - got)) or sys.exit("the session ended")
            times.append(time.perf_counter_ns() - sent)
    return times


if __name__ == "__main__":
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -15)
    gc.disable()
    measured = lockstep(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
    print(json.dumps(quantiles_us(measured)))
