"""Host names as clients write them, in the one form that routes are compared with."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address

MAX_NAME = 253
"""Characters of a name, without a trailing dot (RFC 1035 section 3.1: 255 octets on the wire)."""

# RFC 1123 section 2.1, and the underscore, which people use. Where a hyphen stands is not looked
# at: there are names that begin or end with one.
_NAME = re.compile(rb"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*")
_ADDRESS = re.compile(rb"[0-9A-Fa-f:.]{2,45}")


def read_host_name(raw: bytes) -> str | None:
    """The name in lower case, without a trailing dot; None where `raw` is not a host name.

    A literal IPv4 address has the form of a name: ask `read_address` first where that matters.
    """
    if raw.endswith(b"."):
        raw = raw[:-1]
    if len(raw) > MAX_NAME or not _NAME.fullmatch(raw):
        return None
    return raw.decode("ascii").lower()


def read_address(raw: bytes) -> str | None:
    """The IPv4 or IPv6 address in its usual form; None where `raw` is not one. No brackets."""
    if not _ADDRESS.fullmatch(raw):
        return None
    try:
        return str((IPv6Address if b":" in raw else IPv4Address)(raw.decode("ascii")))
    except ValueError:
        return None
