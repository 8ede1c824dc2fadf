"""`openssl s_time`: full handshakes, one after another, in some processes at once."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.load.tls import offer
from bench.peers.base import Address
from bench.programs import FailedError, find

_COUNT = re.compile(r"^(\d+) connections in \d+ real seconds", re.MULTILINE)


@dataclass(frozen=True)
class Handshakes:
    """Sessions that were made, asked for something, answered and ended."""

    sessions: int
    seconds: float


def handshakes(
    prefix: Sequence[str], address: Address, path: str, clients: int, seconds: int
) -> Handshakes:
    """Make new sessions for `seconds` and up to one more, none resumed. Raises FailedError.

    s_time ends when the clock's second does, so all end together, and the time is taken here.
    """
    host, port = address
    words = ["-connect", f"{host}:{port}", "-new", "-time", str(seconds), "-www", path]
    words += ["-no-CAfile", "-no-CApath", "-no-CAstore"]  # reading them takes longer than a session
    command = [*prefix, *offer(), find("openssl"), "s_time", *words]
    began = time.monotonic()
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(clients)
    ]
    sessions = 0
    try:
        for each in running:
            output = each.communicate(timeout=seconds + 20)[0].decode(errors="replace")
            sessions += parse_s_time(output, each.returncode)
    except subprocess.TimeoutExpired as error:
        raise FailedError(f"openssl s_time: not done within {seconds + 20} s") from error
    finally:
        for each in running:
            each.kill()
            each.wait()
    return Handshakes(sessions, time.monotonic() - began)


def parse_s_time(output: str, code: int) -> int:
    """How many sessions s_time says there were. Raises FailedError where one failed."""
    found = _COUNT.search(output)
    if code != 0 or found is None or not int(found[1]):
        raise FailedError(f"openssl s_time: exit code {code}: {output[-500:]}")
    return int(found[1])
