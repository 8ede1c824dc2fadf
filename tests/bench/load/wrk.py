"""wrk: closed-loop HTTP load from one thread."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.peers.base import Address
from bench.programs import FailedError, find, run

_REPORT = Path(__file__).with_name("report.lua")


@dataclass(frozen=True)
class WrkReport:
    """What wrk measured."""

    requests: int
    bytes: int
    seconds: float
    errors: int
    p50_us: float
    p99_us: float


def wrk(
    prefix: Sequence[str],
    address: Address,
    path: str,
    connections: int,
    seconds: int,
    headers: Sequence[str] = (),
    *,
    scheme: str = "http",
    script: Path = _REPORT,
) -> WrkReport:
    """Run wrk for so many whole seconds. Raises FailedError, also where a request failed.

    A `script` of another's has to do what report.lua does.
    """
    url = f"{scheme}://{address[0]}:{address[1]}{path}"
    options = [f"-t1 -c{connections} -d{seconds} -s".split(), [str(script)]]
    for header in headers:
        options.append(["-H", header])
    words = [word for option in options for word in option]
    output = run([*prefix, find("wrk"), *words, url], seconds + 20)
    report = WrkReport(**json.loads(output.splitlines()[-1]))
    if report.errors or not report.requests:
        raise FailedError(f"wrk: {report.errors} errors in {report.requests} requests to {url}")
    return report
