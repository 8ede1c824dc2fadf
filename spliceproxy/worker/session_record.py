"""What is told of a session at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spliceproxy.telemetry.record import (
    ClosedBy,
    How,
    Phase,
    Record,
    Why,
    address_text,
    iso_ms,
    milliseconds,
    tcp_info,
)
from spliceproxy.worker.known import client_text

if TYPE_CHECKING:
    from spliceproxy.worker.session import Session


def session_record(session: Session, closed_by: ClosedBy, how: How, why: Why) -> Record:
    """The record of a session that ends now, while its sockets are still open."""
    worker, entry, relay, client = session.worker, session.entry, session.relay, session.client
    now, known = worker.loop.now, session.known
    wait = None if session.wait is None else session.wait.seconds
    peer = address_text(client.family, session.client_address)
    client_rtt, client_retrans = tcp_info(client)
    upstream_rtt = upstream_retrans = first_byte_ms = None
    up = down = spliced_up = spliced_down = 0
    if relay is not None:
        upstream_rtt, upstream_retrans = tcp_info(relay.down.src)
        # Negative: a part of the PROXY header is still to be sent.
        up, spliced_up = max(0, relay.up.moved), relay.up.spliced
        down, spliced_down = relay.down.moved, relay.down.spliced
        if relay.first_byte_at is not None:
            first_byte_ms = milliseconds(relay.first_byte_at - session.started)
    return {
        "session": session.id or next(worker.session_ids),
        "worker": worker.index,
        "listener": session.listener.name,
        "route": None if known is None else known.route,
        "pool": session.pool.name if session.preread is None else None,
        "upstream": None if session.upstream is None else session.upstream.name,
        "client": peer if known is None else client_text(session, peer),
        "peer": peer,
        "local": entry.local_text(client),
        "start": iso_ms(session.started + worker.pulse.wall_offset),
        "duration_ms": milliseconds(now - session.started),
        "phase": phase_of(session),
        "closed_by": closed_by,
        "how": how,
        "why": why,
        "bytes_up": up,
        "bytes_down": down,
        "spliced_up": spliced_up,
        "spliced_down": spliced_down,
        "queue_ms": None if wait is None else milliseconds(wait),
        "tls_ms": None if known is None else known.tls_ms,
        "tls_version": None if known is None else known.tls_version,
        "tls_error": session.tls_error,
        "connect_ms": session.connect_ms,
        "first_byte_ms": first_byte_ms,
        "retries": session.retries,
        "sni": None if known is None else known.sni,
        "alpn": None if known is None else known.alpn_text,
        "client_rtt_us": client_rtt,
        "client_retrans": client_retrans,
        "upstream_rtt_us": upstream_rtt,
        "upstream_retrans": upstream_retrans,
    }


def refusal_record(session: Session, how: How, why: Why) -> Record:
    """The record of a client that was turned away before its session began."""
    record = session_record(session, "proxy", how, why)
    record["phase"], record["pool"] = "accept", None
    return record


def phase_of(session: Session) -> Phase:
    """How far it came."""
    if session.preread is not None:
        return session.preread.phase
    if session.relay is not None:
        return "relay"
    return "connect" if session.wait is None or session.wait.past_it else "queue"
