"""Which protocol a client speaks, by the fewest bytes that tell.

1. tls: a record of type handshake and version 3 (16 03): two bytes. What is in it is for
   `client_hello` to say.
2. ssh: "SSH-", with which a client's identification begins (RFC 4253 section 4.2): four bytes.
3. postgres: a length and a request code, or version 3.x (see `postgres`): six to eight bytes.
4. http: a method, a blank, and what a request-target can begin with (RFC 9112 section 3); the
   preface of HTTP/2 has that form. A method and a blank alone would also be SMTP's `EHLO name`.

The rules exclude each other, so the order does not matter. Clients that wait for the server's first
word (SMTP, MySQL) give no byte, and Need(1) is all that can be said of them.
"""

from __future__ import annotations

import re
from typing import Literal

from spliceproxy.wire.need import Buffer, Need
from spliceproxy.wire.postgres import read_first_message

Protocol = Literal["tls", "http", "ssh", "postgres", "unknown"]

MAX_METHOD = 32
"""Characters of an HTTP method; the longest that is registered has 17."""

_MOST = MAX_METHOD + 9  # bytes after which every rule has decided: method, blank, "https://"
_TLS = b"\x16\x03"
_SSH = b"SSH-"
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGETS = (b"/", b"*", b"http://", b"https://")


def sniff(data: Buffer) -> Protocol | Need:
    """The protocol of a client whose first bytes are `data`, or how many it takes to go on."""
    head = bytes(data[:_MOST])
    if not head:
        return Need(1)
    if _TLS.startswith(head[:2]):
        return "tls" if len(head) > 1 else Need(2)
    if not head[0]:
        return _postgres(head)
    if head.startswith(_SSH):
        return "ssh"
    return _http(head)


def candidates(data: Buffer) -> tuple[Protocol, ...]:
    """The protocols that may still be told of a client, where `sniff` says `Need`."""
    head = bytes(data[:4])
    if not head:
        return ("tls", "ssh", "postgres", "http")
    if _TLS.startswith(head[:2]):
        return ("tls",)
    if not head[0]:
        return ("postgres",)
    return ("ssh", "http") if _SSH.startswith(head) else ("http",)


def _postgres(head: bytes) -> Protocol | Need:
    message = read_first_message(head)
    if isinstance(message, Need):
        return message
    return "unknown" if message is None else "postgres"


def _http(head: bytes) -> Protocol | Need:
    blank = head.find(b" ", 0, MAX_METHOD + 1)
    method = head if blank < 0 else head[:blank]
    if len(method) > MAX_METHOD or not _TOKEN.fullmatch(method):
        return "unknown"
    if blank < 0:
        return Need(len(head) + 1)
    target = head[blank + 1 :].lower()
    if method == b"CONNECT" or target.startswith(_TARGETS):
        return "http"
    may_be = any(start.startswith(target) for start in _TARGETS)
    return Need(len(head) + 1) if may_be else "unknown"
