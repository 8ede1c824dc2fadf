"""`python -m bench.load.tls_digest CA HTTPS_HOST HTTPS_PORT ECHO_HOST ECHO_PORT`: digest.py by TLS.

The certificate is checked. Prints the SHA-256 of each body and of 16 MiB through the echo, and on
which version and cipher client and proxy agreed.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import ssl
import sys

from harness.load import blocks, read_exactly

from bench.certificate import HOST
from bench.load.digest import ECHO_BYTES, ECHO_SEED, body_digests

_PIECE = 32 * 1024
"""Bytes on their way at a time: fewer than the sockets hold, since one thread writes and reads."""


class _Connection(http.client.HTTPConnection):
    """To a proxy that goes by another name than its address."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        super().__init__(HOST)
        self.sock = sock


def connect(context: ssl.SSLContext, host: str, port: int) -> ssl.SSLSocket:
    """A session whose handshake is over."""
    plain = socket.create_connection((host, port), 20)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(plain, server_hostname=HOST)


def echo_digest(sock: ssl.SSLSocket) -> str:
    """What came back of the stream of harness.load."""
    sha = hashlib.sha256()
    for block in blocks(ECHO_BYTES, ECHO_SEED):
        for at in range(0, len(block), _PIECE):
            piece = block[at : at + _PIECE]
            sock.sendall(piece)
            sha.update(read_exactly(sock, len(piece)))
    return sha.hexdigest()


if __name__ == "__main__":
    _context = ssl.create_default_context(cafile=sys.argv[1])
    with connect(_context, sys.argv[2], int(sys.argv[3])) as _https:
        _found = body_digests(_Connection(_https))
    with connect(_context, sys.argv[4], int(sys.argv[5])) as _echo:
        _found["echo"] = echo_digest(_echo)
        _cipher = _echo.cipher()
        _found["agreed"] = "" if _cipher is None else f"{_cipher[1]} {_cipher[0]}"
    print(json.dumps(_found))
