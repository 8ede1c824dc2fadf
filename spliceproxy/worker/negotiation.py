"""What PostgreSQL clients ask for before TLS begins, answered here where a route needs their SNI.

1. GSSENCRequest is answered N, once: encryption by Kerberos would hide everything. The client asks
   for TLS next, goes on in clear, or leaves.
2. SSLRequest is answered S, and a ClientHello has to follow. Who serves the client is not known
   yet, so S is a promise: `approach` asks the upstream for the same, and takes no other answer.
3. Both are taken out of the stream, and nothing may stand behind them: it was sent before anybody
   encrypted, maybe by somebody in between (CVE-2021-23214).
"""

from __future__ import annotations

from socket import MSG_DONTWAIT
from typing import TYPE_CHECKING, Final

from spliceproxy.wire.need import Need
from spliceproxy.wire.postgres import ACCEPTED, REFUSED, REQUEST_LENGTH, read_first_message

if TYPE_CHECKING:
    from spliceproxy.wire.protocol import Protocol
    from spliceproxy.worker.session import Session

LEAST: Final = Need(6)
"""Bytes that tell what follows an answer, of a ClientHello as of a start-up packet."""


class Negotiation:
    """The negotiation of one client, from its first request until it is known what it speaks."""

    __slots__ = ("_gssenc",)

    def __init__(self) -> None:
        self._gssenc = False
        """GSSENCRequest was answered."""

    def go_on(self, session: Session, protocol: Protocol, data: memoryview) -> Protocol | Need:
        """What a client is to the routes, whose unread bytes are `data`, of `protocol` by
        themselves; Need: it was answered, and has to go on; or the session has ended.

        Tells `session.known` of an SSLRequest.
        """
        known = session.known
        assert known is not None
        if known.ssl_request:
            if protocol != "tls":
                return _refuse(session, "no ClientHello followed SSLRequest")
            return "postgres"
        message = read_first_message(data)
        if message not in ("ssl_request", "gssenc_request"):
            return protocol
        name = "SSLRequest" if message == "ssl_request" else "GSSENCRequest"
        if len(data) > REQUEST_LENGTH:
            return _refuse(session, f"bytes came behind {name}, before its answer")
        if message == "ssl_request":
            known.ssl_request = True
            return _answer(session, data, ACCEPTED)
        if self._gssenc:
            return _refuse(session, "GSSENCRequest came twice")
        self._gssenc = True
        return _answer(session, data, REFUSED)


def _answer(session: Session, view: memoryview, answer: bytes) -> Need:
    """Take a request out of the stream, over what was seen of it, and answer it."""
    client = session.client
    try:
        # An urgent byte in it ends a read early (tcp(7)).
        if client.recv_into(view, REQUEST_LENGTH, MSG_DONTWAIT) != REQUEST_LENGTH:
            return _refuse(session, "a request that is not whole")
        client.send(answer, MSG_DONTWAIT)
    except BlockingIOError:  # one byte: the kernel has no memory
        session.abort("no_resources")
    except OSError:
        session.end("client", "reset", "client_reset")
    return LEAST


def _refuse(session: Session, text: str) -> Need:
    session.tls_error = text
    session.abort("tls_handshake")
    return LEAST
