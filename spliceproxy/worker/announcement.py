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
from spliceproxy.wire.proxy_values import SocketAddress, Tlvs
from spliceproxy.worker.known import client_address, local_address

if TYPE_CHECKING:
    from spliceproxy.worker.session import Session

_BYTES_OR_TROUBLE: Final = EPOLLIN | TROUBLE
_AND_MORE: Final = MSG_DONTWAIT | MSG_MORE


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
    sni = None if session.known is None else session.known.sni
    return build_v2(client, local, Tlvs(authority=sni, unique_id=session.id.encode("ascii")))
