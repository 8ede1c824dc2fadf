"""The session record: why did it end, and who ended it.

One structured line per session, written when it ends. A field never changes its meaning; what is
unknown, or does not apply, is null.

| field | meaning |
| --- | --- |
| `session` | unique text: worker, a random part per start of the worker, a counter, all in hex |
| `worker` | index of the worker that carried the session |
| `listener` | name of the listener that accepted the client |
| `route` | the route that matched: `routes[0]` is the listener's first one; null: none did |
| `pool` | name of the pool that was chosen |
| `upstream` | the upstream that served, or the last one tried |
| `client` | who the client is: the peer, or what a trusted PROXY header says |
| `peer` | the other end of the client's connection: `10.0.0.1:443`, `[::1]:443`, `unix:/path`, \
`unix:@abstract`, and `unix:` where it has no name |
| `local` | the address that the client connected to |
| `start` | accept, ISO 8601 in UTC with milliseconds |
| `duration_ms` | from accept to the end, milliseconds |
| `phase` | how far the session came (`Phase`); `proxy`: a PROXY header was expected |
| `closed_by` | who ended it (`ClosedBy`) |
| `how` | by which means the one who ended it did so (`How`) |
| `why` | the reason (`Why`) |
| `bytes_up` | payload bytes delivered to the upstream's socket |
| `bytes_down` | payload bytes delivered to the client's socket |
| `spliced_up` | those of `bytes_up` that went by splice(2), never through this program's memory |
| `spliced_down` | the same of `bytes_down` |
| `queue_ms` | time in the pool's queue, milliseconds; null where it did not wait |
| `tls_ms` | time of the client's TLS handshake, milliseconds |
| `tls_version` | what the client's connection came to, as `TLSv1.3`; null: TLS was not ended here |
| `tls_error` | why TLS with one side failed, as OpenSSL says it |
| `connect_ms` | time of the connect that succeeded, milliseconds; with TLS, where the pool has it |
| `first_byte_ms` | from accept to the upstream's first byte, milliseconds |
| `retries` | further upstreams tried after the first one |
| `sni` | server name that the client asked for |
| `alpn` | application protocols that the client offers, as `h2,http/1.1`; where TLS ends here, \
the one that was agreed on |
| `client_rtt_us` | smoothed round-trip time of the client's connection at the end, microseconds |
| `client_retrans` | segments sent again to the client |
| `upstream_rtt_us` | as `client_rtt_us`, of the upstream's connection |
| `upstream_retrans` | segments sent again to the upstream |

A worker that dies writes no records: the supervisor writes one with why `worker_died`, the same
fields, and three more: `pid` of the worker, `lost`, the sessions that died with it, and
`lost_records`, sessions that had ended, but whose records it had not written yet.

A record is built for each session, so `Record` is a typed dict that the caller writes as one
literal (0.9 µs; a call with thirty keywords costs twice that), and the closed lists are plain text
that mypy checks.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Literal, TypedDict, get_args

import orjson

from spliceproxy.telemetry.amounts import duration_text, size_text

Phase = Literal["accept", "proxy", "preread", "tls", "route", "queue", "connect", "relay"]
ClosedBy = Literal["client", "upstream", "proxy"]
How = Literal["fin", "reset", "close"]
Why = Literal[
    "done",
    "client_reset",
    "upstream_reset",
    "client_error",
    "upstream_error",
    "idle_timeout",
    "half_close_timeout",
    "session_timeout",
    "connect_refused",
    "connect_timeout",
    "connect_failed",
    "no_upstream",
    "no_source_port",
    "no_resources",
    "no_route",
    "queue_full",
    "queue_timeout",
    "access_denied",
    "client_limit",
    "rate_limit",
    "client_rate_limit",
    "handshake_limit",
    "preread_timeout",
    "bad_proxy_header",
    "tls_handshake",
    "tls_truncated",
    "tls_error",
    "drained",
    "removed",
    "upstream_down",
    "failback",
    "operator",
    "stopped",
    "worker_died",
    "internal_error",
]

PHASES: frozenset[str] = frozenset(get_args(Phase))
CLOSED_BY: frozenset[str] = frozenset(get_args(ClosedBy))
HOWS: frozenset[str] = frozenset(get_args(How))
WHYS: frozenset[str] = frozenset(get_args(Why))

NORMAL_ENDS: frozenset[str] = frozenset({"done", "drained", "removed", "operator"})
"""Both sides were done, or a person wanted this end. All others are errors to `keep: errors`, also
`stopped`: the proxy ended before the session did."""


class Record(TypedDict):
    """One session's end, its fields in the order in which they are written."""

    session: str
    worker: int
    listener: str
    route: str | None
    pool: str | None
    upstream: str | None
    client: str
    peer: str
    local: str
    start: str
    duration_ms: float
    phase: Phase
    closed_by: ClosedBy
    how: How
    why: Why
    bytes_up: int
    bytes_down: int
    spliced_up: int
    spliced_down: int
    queue_ms: float | None
    tls_ms: float | None
    tls_version: str | None
    tls_error: str | None
    connect_ms: float | None
    first_byte_ms: float | None
    retries: int
    sni: str | None
    alpn: str | None
    client_rtt_us: int | None
    client_retrans: int | None
    upstream_rtt_us: int | None
    upstream_retrans: int | None


FIELDS: tuple[str, ...] = tuple(Record.__annotations__)


def worker_died_record(
    *, worker: int, pid: int, lost: int, lost_records: int, start: float, duration: float
) -> dict[str, object]:
    """What the supervisor writes for a worker that died with `lost` sessions, and before it had
    written the `lost_records` of others, which had ended.

    `start` is when the worker was started (seconds since the epoch), `duration` how long it lived
    (seconds).
    """
    known: dict[str, object] = {
        "worker": worker,
        "start": iso_ms(start),
        "duration_ms": milliseconds(duration),
        "closed_by": "proxy",
        "why": "worker_died",
        "pid": pid,
        "lost": lost,
        "lost_records": lost_records,
    }
    return {**dict.fromkeys(FIELDS), **known}


def wanted(keep: str, sample: float, why: str, random: Callable[[], float]) -> bool:
    """Whether a session that ended so is written.

    `keep` is all, errors or off; of what it lets pass, the share `sample` (0 to 1) is written.
    `random` returns a number from 0 up to, but not including, 1.
    """
    if keep == "off" or (keep == "errors" and why in NORMAL_ENDS):
        return False
    return sample >= 1.0 or random() < sample


def session_ids(worker: int) -> Iterator[str]:
    """Endless unique texts for `session`; the random part tells two lives of one worker apart."""
    prefix = f"{worker:x}-{os.urandom(4).hex()}-"
    for number in count(1):
        yield f"{prefix}{number:x}"


_iso_second: tuple[int, str] = (-1, "")


def iso_ms(seconds: float) -> str:
    """Seconds since the epoch as `2026-01-31T23:59:59.999Z`.

    The text of the last second is kept, which makes a call three times as cheap. It is one tuple,
    so that another thread sees the old one or the new one.
    """
    global _iso_second
    whole = int(seconds)
    known, text = _iso_second
    if known != whole:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
        _iso_second = (whole, text)
    return f"{text}.{int((seconds - whole) * 1000):03d}Z"


def milliseconds(seconds: float) -> float:
    """Seconds as milliseconds, to the microsecond."""
    return round(seconds * 1000.0, 3)


def address_text(family: int, address: object) -> str:
    """A socket address as text, as accept(), getpeername() and getsockname() return it.

    `10.0.0.1:443`, `[::1]:443`, `[fe80::1%2]:443`, `unix:/path`, `unix:@abstract`, `unix:`.
    Nothing is cached: nearly every client has an address of its own, and formatting one costs
    less than finding it.
    """
    if family == socket.AF_INET and isinstance(address, tuple):
        return f"{address[0]}:{address[1]}"
    if family == socket.AF_INET6 and isinstance(address, tuple):
        scope = f"%{address[3]}" if address[3] else ""
        return f"[{address[0]}{scope}]:{address[1]}"
    if isinstance(address, (str, bytes)):
        return "unix:" + _path_text(os.fsencode(address))
    return str(address)


def _path_text(path: bytes) -> str:
    """A UNIX path as printable text: whoever connects chooses the bytes of his own address."""
    if path[:1] == b"\0":
        path = b"@" + path[1:]
    text = path.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


_TCP_INFO = struct.Struct("=68xI28xI")
"""linux/tcp.h, struct tcp_info: tcpi_rtt at 68, tcpi_total_retrans at 100."""
_IPPROTO_TCP = socket.IPPROTO_TCP
_TCP_INFO_OPTION = socket.TCP_INFO


def tcp_info(sock: socket.SocketType) -> tuple[int | None, int | None]:
    """Smoothed round-trip time in microseconds and segments sent again; (None, None) if unknown.

    Source: tcp(7), TCP_INFO.
    """
    try:
        rtt, retrans = _TCP_INFO.unpack(sock.getsockopt(_IPPROTO_TCP, _TCP_INFO_OPTION, 104))
    except (OSError, struct.error):  # not TCP, or no socket any more
        return None, None
    return rtt or None, retrans  # no sample was taken: 0


def render(record: Mapping[str, object]) -> bytes:
    """The record as one line of JSON."""
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def render_console(record: Mapping[str, object], colour: bool = True) -> bytes:
    """The record as one line for a person at a terminal: end, who, how long, how much, why."""
    dim, red, bold, reset = ("\x1b[2m", "\x1b[31m", "\x1b[1m", "\x1b[0m") if colour else ("",) * 4
    now = time.time()
    clock = time.strftime("%H:%M:%S", time.localtime(now)) + f".{int(now % 1 * 1000):03d}"
    why = str(record["why"])
    end = why if why == "done" else f"{why} ({circumstances(record)})"
    end = end if why in NORMAL_ENDS else f"{red}{end}{reset}"
    if record.get("lost") is not None:
        return f"{dim}{clock}{reset} worker {record['worker']} {end}\n".encode()
    return (
        f"{dim}{clock}{reset} {bold}{record['listener']}{reset} → "
        f"{record['upstream'] or record['pool'] or '-'}  {dim}{record['client']}{reset}  "
        f"{duration_text(record['duration_ms'])}  "
        f"↑ {size_text(record['bytes_up'])} ↓ {size_text(record['bytes_down'])}  {end}\n"
    ).encode("utf-8", "backslashreplace")


def circumstances(record: Mapping[str, object]) -> str:
    """What a person wants to know of an end that was not simply done."""
    if record.get("lost") is not None:
        records = record.get("lost_records")
        more = f", and {records} records" if records else ""
        return f"pid {record['pid']}, {record['lost']} sessions lost{more}"
    parts = [f"{record['how']} by {record['closed_by']}"]
    if record["phase"] != "relay":
        parts.append(f"in {record['phase']}")
    return ", ".join(parts)
