"""Why a check failed, in a user's words."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from datetime import datetime

LOCAL_ERRNOS = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.EADDRNOTAVAIL,
        errno.EADDRINUSE,
        errno.ENODEV,
        errno.EPERM,
    }
)
"""What this machine lacks or forbids. It says nothing about the upstream, and never counts."""

_WORDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.EPIPE: "connection reset",
    errno.ENOENT: "no such socket",
}


@dataclass(frozen=True, slots=True)
class Passed:
    """The upstream did what the check asks of it."""

    how: str
    """"connected", "status 200"."""
    expires: datetime | None = None
    """The end of the certificate that it showed."""


class CheckFailedError(Exception):
    """The upstream did not do what the check asks of it. The text says what it did."""


def explain(error: OSError) -> str:
    """An error of connect, send or receive: "connection refused"."""
    number = error.errno or 0
    return _WORDS.get(number) or os.strerror(number).lower()


def quote(data: bytes) -> str:
    """The beginning of what an upstream said, for one line of a log."""
    shown = data[:60].decode("ascii", "backslashreplace")
    return f'"{shown.encode("unicode_escape").decode()}"' + ("…" if len(data) > 60 else "")
