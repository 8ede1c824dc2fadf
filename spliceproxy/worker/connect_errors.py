"""What a failed connect says, and of whom."""

from __future__ import annotations

import errno
from typing import Final

from spliceproxy.telemetry.record import Why

NO_RESOURCES_ERRNOS: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC}
)
"""This machine has no fd or no memory left: another upstream would meet the same."""
NO_SOURCE_PORT_ERRNOS: Final = frozenset({errno.EADDRNOTAVAIL, errno.EADDRINUSE})
"""No port is free from this source to this upstream; another pair may have one."""

REFUSED_ERRNOS: Final = frozenset({errno.ECONNREFUSED, errno.ENOENT})
"""Nobody listens there; ENOENT: the path of a UNIX socket does not exist."""

UPSTREAM_ERRNOS: Final = REFUSED_ERRNOS | {errno.ETIMEDOUT, errno.ECONNRESET}
"""These speak of the upstream. What is in no such set may be this machine's doing: no right to
connect, an interface that is down."""
UNREACHABLE_ERRNOS: Final = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN})
"""By an event, the network says it of the upstream; at once, this machine has no route."""


def verdict(code: int) -> Why:
    """What a failed connect is called in the session record."""
    if code in NO_RESOURCES_ERRNOS:
        return "no_resources"
    if code in NO_SOURCE_PORT_ERRNOS:
        return "no_source_port"
    if code in REFUSED_ERRNOS:
        return "connect_refused"
    return "connect_timeout" if code == errno.ETIMEDOUT else "connect_failed"
