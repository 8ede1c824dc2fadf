"""Who may come in: looked up once for each session, before anything else is done for it.

A refused client costs an accept, the look, its record and a close: it is never registered, armed
or counted, and no upstream hears of it.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from spliceproxy.ipc import DENY
from spliceproxy.relay.relay import arm_reset

if TYPE_CHECKING:
    from spliceproxy.limits.clients import Place
    from spliceproxy.telemetry.record import How, Why
    from spliceproxy.wire.networks import NetworkTable
    from spliceproxy.worker.session import Session


def admitted(session: Session) -> bool:
    """Whether the client of a session that is about to begin may come in; else it is refused."""
    address = session.client_address
    why = objection(session, address[0] if isinstance(address, tuple) else "")
    if why is None:
        return True
    refuse(session, why)
    return False


def objection(session: Session, ip: str) -> Why | None:
    """Why the client of `session`, of which this is the IP address, may not come in.

    None: it may, and has its place among the listener's limits, which it gives back at its end.
    To be asked once for each session. A client of a UNIX socket has the address "".
    """
    listener = session.listener
    if listener.access is not None and not admits(listener.access, ip):
        return "access_denied"
    if listener.limits is None:
        return None
    why, session.place = listener.limits.enter(ip, session.worker.loop.now)
    return why


def leave(session: Session, place: Place) -> None:
    """Give a session's place back, at its end."""
    limits = session.listener.limits
    assert limits is not None
    limits.leave(place)
    session.place = None


def admits(access: NetworkTable, ip: str) -> bool:
    """Whether a client with this IP address may come in."""
    return access.find(ip) != DENY


def refuse(session: Session, why: Why) -> None:
    """Turn the client of a session away that was not begun, as its listener's `on_refuse` says."""
    worker, listener, client = session.worker, session.listener, session.client
    how: How = "close"
    if listener.plan.on_refuse == "reset" and client.family != socket.AF_UNIX:
        how = "reset"
        arm_reset(client)
    else:
        # close alone would be a reset where the client's first bytes are there already.
        with suppress(OSError):  # the client is gone
            client.shutdown(socket.SHUT_WR)
    worker.tally.on_refused(session, "proxy", how, why)
    worker.records.tell_refused(session, how, why)
    client.close()  # at once: no event can be under way for what epoll never knew


def turn_away(session: Session, why: Why) -> None:
    """The same for a session that has begun: it had to be known first who the client is, or what
    it wants."""
    if session.listener.plan.on_refuse == "reset":
        session.abort(why)
        return
    with suppress(OSError):  # the client is gone
        session.client.shutdown(socket.SHUT_WR)
    session.end("proxy", "close", why)
