"""What `/metrics` tells: the name, the labels and the meaning of each family of numbers.

Every number is told once, under the finest labels, so sums are exact: over all label sets,
`sessions_ended` and `sessions` are the sessions that were accepted, and `session_bytes` what the
session records say. Names and units follow the naming rules of Prometheus.
"""

from __future__ import annotations

from typing import Final, NamedTuple

PREFIX: Final = "spliceproxy_"


class Family(NamedTuple):
    """The numbers of one name."""

    name: str
    """As it is told, with `_total` of counters."""
    kind: str
    """counter, gauge or histogram."""
    labels: tuple[str, ...]
    meaning: str


_all: list[Family] = []


def _family(name: str, kind: str, labels: str, meaning: str) -> Family:
    family = Family(PREFIX + name, kind, tuple(labels.split()), meaning)
    _all.append(family)
    return family


SESSION_BYTES: Final = _family(
    "session_bytes_total",
    "counter",
    "listener pool upstream direction path",
    "Payload bytes delivered; direction is up (to the upstream) or down, path spliced or copied.",
)
SESSIONS: Final = _family(
    "sessions",
    "gauge",
    "listener pool upstream",
    "Live sessions; pool and upstream are empty while one is not connected.",
)
SESSIONS_ENDED: Final = _family(
    "sessions_ended_total",
    "counter",
    "listener pool upstream closed_by how why",
    "Sessions that ended; closed_by, how and why as in the session record.",
)
MAX_SESSIONS: Final = _family(
    "listener_max_sessions",
    "gauge",
    "listener",
    "How many sessions the listener may have, where it has a limit of its own.",
)
OLDER_SESSIONS: Final = _family(
    "older_sessions",
    "gauge",
    "",
    "Live sessions of processes that this one replaced in an upgrade; in no other gauge.",
)
CONNECT_FAILURES: Final = _family(
    "connect_failures_total",
    "counter",
    "pool upstream reason",
    "Tries to connect with an upstream that failed.",
)
RETRIES: Final = _family(
    "retries_total",
    "counter",
    "listener pool",
    "Further upstreams tried by sessions that ended.",
)
TLS_HANDSHAKES: Final = _family(
    "tls_handshakes_total",
    "counter",
    "listener result",
    "TLS handshakes of clients that are over; result is ok or failed.",
)
WAITING: Final = _family(
    "pool_waiting_sessions",
    "gauge",
    "pool",
    "Sessions in the queue of the pool.",
)
CONNECT_SECONDS: Final = _family(
    "connect_seconds",
    "histogram",
    "listener pool",
    "Time of the connect that succeeded, TLS with the upstream included.",
)
FIRST_BYTE_SECONDS: Final = _family(
    "first_byte_seconds",
    "histogram",
    "listener pool",
    "Time from accept to the first byte of the upstream.",
)
DURATION_SECONDS: Final = _family(
    "session_duration_seconds",
    "histogram",
    "listener pool",
    "Time from accept to the end of the session.",
)
QUEUE_SECONDS: Final = _family(
    "queue_wait_seconds",
    "histogram",
    "listener pool",
    "Time in the queue of the pool, of sessions that waited.",
)
TLS_SECONDS: Final = _family(
    "tls_handshake_seconds",
    "histogram",
    "listener",
    "Time of the client's TLS handshake.",
)
SIZE_BYTES: Final = _family(
    "session_size_bytes",
    "histogram",
    "listener pool",
    "Payload bytes of a session, both directions.",
)
UPSTREAM_STATE: Final = _family(
    "upstream_state",
    "gauge",
    "pool upstream state",
    "1 where the upstream is in that state, else 0; state is up, draining, down or ejected.",
)
UPSTREAM_WEIGHT: Final = _family(
    "upstream_weight",
    "gauge",
    "pool upstream",
    "The weight in force; 0 takes no new sessions.",
)
USABLE: Final = _family(
    "pool_usable_upstreams",
    "gauge",
    "pool",
    "Upstreams that could be chosen: with a weight, and neither down nor draining.",
)
WORKER_UP: Final = _family(
    "worker_up", "gauge", "worker", "Whether the worker is there and ready: 1 or 0."
)
WORKER_DEATHS: Final = _family(
    "worker_deaths_total", "counter", "worker", "Times that the worker died and was replaced."
)
WORKER_CPU: Final = _family(
    "worker_cpu_seconds_total", "counter", "worker", "CPU time of the worker."
)
WORKER_BUSY: Final = _family(
    "worker_busy_seconds_total",
    "counter",
    "worker",
    "Time between waking up and waiting again.",
)
WORKER_LAG: Final = _family(
    "worker_loop_lag_seconds",
    "gauge",
    "worker",
    "The longest time between waking up and waiting again, in the last second.",
)
WORKER_WAKES: Final = _family(
    "worker_wakes_total", "counter", "worker", "Times that the worker's loop woke up."
)
WORKER_EVENTS: Final = _family(
    "worker_events_total", "counter", "worker", "Events that the worker's loop was told."
)
WORKER_MEMORY: Final = _family(
    "worker_resident_memory_bytes", "gauge", "worker", "Resident memory of the worker."
)
PIPES_LENT: Final = _family(
    "worker_pipes_lent", "gauge", "worker", "Pipes that sessions have bytes in."
)
PIPES_POOLED: Final = _family(
    "worker_pipes_pooled", "gauge", "worker", "Pipes that wait to be lent."
)
PIPES_MADE: Final = _family("worker_pipes_made_total", "counter", "worker", "Pipes made.")
PIPES_REFUSED: Final = _family(
    "worker_pipes_refused_total",
    "counter",
    "worker",
    "Times that no pipe was to be had and bytes were copied.",
)
ACCEPT_PAUSES: Final = _family(
    "worker_accept_pauses_total",
    "counter",
    "worker",
    "Times that a listener stopped accepting for want of room.",
)
RECORDS: Final = _family(
    "worker_records_total", "counter", "worker", "Session records that were to be written."
)
RECORDS_DROPPED: Final = _family(
    "worker_records_dropped_total",
    "counter",
    "worker",
    "Session records that nobody took, or that died with the worker.",
)
CERTIFICATE_END: Final = _family(
    "certificate_not_after_timestamp_seconds",
    "gauge",
    "listener file",
    "When the certificate ends, in seconds since 1970.",
)
BROKEN_FILES: Final = _family(
    "certificate_broken_files",
    "gauge",
    "listener",
    "Files of certificates that cannot be used now; what was good last stays.",
)
RELOAD_OK: Final = _family(
    "config_last_reload_successful",
    "gauge",
    "",
    "Whether the last reload was put in force, or there was none: 1 or 0.",
)
RELOAD_TIME: Final = _family(
    "config_last_reload_success_timestamp_seconds",
    "gauge",
    "",
    "When the configuration was last put in force, in seconds since 1970.",
)
BUILD: Final = _family("build_info", "gauge", "version", "1, with the version of spliceproxy.")

FAMILIES: Final = tuple(_all)
"""All of them, in the order in which they are told."""
