"""The host that an HTTP/1 request is for: for routing only, nothing is changed or checked for it.

By RFC 9112 section 3.2 and RFC 9110 sections 4.2 and 7.2:

1. A target in absolute form (`GET http://name/ HTTP/1.1`) or authority form (CONNECT) names the
   host, whatever Host says; it is known at the end of the request line.
2. Otherwise Host does, known at the end of the headers: a request with two of them, with a blank
   before the colon or with a folded line has none, because others read such requests otherwise.
3. The port is removed, the name is in the form of `read_host_name`, an address without brackets.
4. HTTP/2 (its preface) and HTTP/0.9 have no host here.
5. Where the headers do not end within `MAX_HEAD` bytes there is none.
"""

from __future__ import annotations

import re

from spliceproxy.wire.host_name import read_address, read_host_name
from spliceproxy.wire.need import Buffer, Need

MAX_HEAD = 16 * 1024
"""Bytes of request line and headers that are looked at."""

_REQUEST_LINE = re.compile(rb"([!-~]+) ([!-~]+) HTTP/1\.[0-9]\r?")
_AUTHORITY = re.compile(rb"(\[[^\[\]]*\]|[^\[\]:]*)(?::[0-9]*)?")
_SCHEME = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)


def read_http_host(data: Buffer) -> str | Need | None:
    """The host of the request that begins with `data`; None where it has none.

    `data` is all that was seen so far, and was sniffed as http.
    """
    head = bytes(data[:MAX_HEAD])
    line_end = head.find(b"\n")
    if line_end < 0:
        return _more(head)
    line = _REQUEST_LINE.fullmatch(head, 0, line_end)
    if line is None:
        return None
    method, target = line.groups()
    if method == b"CONNECT":
        return _read_authority(target)
    absolute = _SCHEME.match(target)
    if absolute is not None:
        return _read_authority(absolute[1])
    # A line may end without CR (section 2.2), so either can be the end of the headers.
    ends = [head.find(end, line_end) for end in (b"\n\r\n", b"\n\n")]
    end = min((end for end in ends if end >= 0), default=-1)
    return _host_header(head[line_end + 1 : end]) if end >= 0 else _more(head)


def _more(head: bytes) -> Need | None:
    return Need(len(head) + 1) if len(head) < MAX_HEAD else None


def _host_header(headers: bytes) -> str | None:
    host: str | None = None
    found = False
    for line in headers.split(b"\n"):
        name, _colon, value = line.partition(b":")
        if name[:1] in (b" ", b"\t"):
            return None
        if name.strip().lower() != b"host":
            continue
        if found or name != name.strip():
            return None
        found = True
        host = _read_authority(value.strip(b" \t\r"))
    return host


def _read_authority(authority: bytes) -> str | None:
    """The host of `host:port`; with a user before it, or with anything unusual, there is none."""
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        return None
    host: bytes = match[1]
    if host.startswith(b"["):
        return read_address(host[1:-1])
    return read_host_name(host)
