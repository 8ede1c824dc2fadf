"""Reading a PROXY header from a blocking socket, and not a byte more."""

from __future__ import annotations

import socket

from spliceproxy.wire.need import Need
from spliceproxy.wire.proxy_protocol import Header, parse_proxy_header


def take_header(sock: socket.socket) -> Header:
    """Peek until there is a header, each time for what the parser needs, and take it out."""
    found: Header | Need = Need(1)
    while isinstance(found, Need):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, found.total)
        seen = sock.recv(4096, socket.MSG_PEEK)
        if not seen or (sock.family != socket.AF_UNIX and len(seen) < found.total):
            raise EOFError(f"{seen!r} and no more")
        found = parse_proxy_header(seen)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
    sock.recv(found.length)
    return found
