"""What an upstream is told of the client before the client's first byte: a PROXY header.

It goes as soon as the upstream is connected, because the upstream may be the one who speaks first.
Where the client's bytes are known to be there, MSG_MORE lets them leave in the same segment.
"""

from __future__ import annotations

from select import EPOLLIN
from socket import MSG_DONTWAIT, MSG_MORE
from typing import TYPE_CHECKING, Final, cast

from spliceproxy.relay.flow import TROUBLE, Flow
from spliceproxy.wire.proxy_build import build_v1, build_v2
from spliceproxy.wire.proxy_values import SocketAddress, Ssl, Tlvs
from spliceproxy.worker.known import client_address, local_address

if TYPE_CHECKING:
    from ssl import SSLObject

    from spliceproxy.worker.session import Session

_BYTES_OR_TROUBLE: Final = EPOLLIN | TROUBLE
_AND_MORE: Final = MSG_DONTWAIT | MSG_MORE
_LONGEST_NAME: Final = 256
"""Bytes of a common name that is told: 64 characters at the most (RFC 5280, appendix A.1)."""


def announce(session: Session, up: Flow, client_events: int) -> int:
    """Send the header of the session's pool to the destination of `up`, which has not begun yet.

    `client_events` were seen at the client; EPOLLIN among them must stand for bytes that are still
    unread, or that are kept for this upstream. Returns the events with which to begin.
    """
    # Beside trouble, readable need not mean bytes, and MSG_MORE holds the header back for 200 ms
    # where neither bytes nor a FIN follow.
    follows = client_events & _BYTES_OR_TROUBLE == EPOLLIN
    left = send_first(up, header_for(session), _AND_MORE if follows else MSG_DONTWAIT)
    return client_events | EPOLLIN if left else client_events


def send_first(up: Flow, header: bytes, flags: int) -> int:
    """Send `header` before the bytes of the source of `up`, or have `up` hold what is left of it.

    Returns how much that is. Nothing tells whether room is missing or the destination is broken;
    the flow finds out, as with any byte, in a turn that it has to be given.
    """
    try:
        sent = up.dst.send(header, flags)
    except OSError:
        sent = 0
    left = len(header) - sent
    if left:
        up.held = left
        up.moved = -left
        up.pending = memoryview(header)[sent:]
    return left


def header_for(session: Session) -> bytes:
    """All that is told of a client, and the one place that knows where it comes from."""
    client = cast(SocketAddress, client_address(session))
    local = local_address(session)
    if session.pool.plan.send_proxy == "v1":
        return build_v1(client, local)
    session.id = session.id or next(session.worker.session_ids)
    known, unique_id = session.known, session.id.encode("ascii")
    if known is None:
        return build_v2(client, local, Tlvs(unique_id=unique_id))
    if known.tls is None:
        return build_v2(client, local, Tlvs(authority=known.sni, unique_id=unique_id))
    tls = known.tls.tls
    agreed = tls.selected_alpn_protocol()
    alpn = None if agreed is None else agreed.encode("ascii")
    tlvs = Tlvs(alpn=alpn, authority=known.sni, unique_id=unique_id, ssl=_how(tls))
    return build_v2(client, local, tlvs)


def _how(tls: SSLObject) -> Ssl:
    """How a client speaks TLS with us.

    Without the kinds of our own certificate's key and signature (SIG_ALG, KEY_ALG), as Python does
    not tell which of several chains was shown.
    """
    client, verify, name = Ssl.TLS, 1, None
    if tls.getpeercert(binary_form=True):
        # A handshake with a certificate that does not stand the test has failed.
        client, verify, name = client | Ssl.CERTIFICATE_IN_SESSION, 0, _common_name(tls)
        if not tls.session_reused:
            client |= Ssl.CERTIFICATE_NOW
    cipher = tls.cipher()
    return Ssl(client, verify, tls.version(), name, None if cipher is None else cipher[0])


def _common_name(tls: SSLObject) -> str | None:
    """The first one of the client's certificate, as others tell it; None: it has none, or none that
    fits."""
    try:
        subject = (tls.getpeercert() or {}).get("subject", ())
    except ValueError:  # it has text in it that is none
        return None
    for entries in cast(tuple[tuple[tuple[str, str], ...], ...], subject):
        for key, value in entries:
            if key == "commonName":
                return value if len(value.encode("utf-8", "replace")) <= _LONGEST_NAME else None
    return None
