"""What is known of a client beside its connection, and what follows from that."""

from __future__ import annotations

from socket import AF_INET, AF_INET6, AF_UNIX
from typing import TYPE_CHECKING

from spliceproxy.telemetry.record import address_text
from spliceproxy.worker.pool import client_key

if TYPE_CHECKING:
    from spliceproxy.wire.proxy_protocol import Header
    from spliceproxy.worker.session import Session


class Known:
    """What was said of a client before it was connected."""

    __slots__ = ("header",)

    def __init__(self) -> None:
        self.header: Header | None = None
        """Its PROXY header."""


def client_address(session: Session) -> object:
    """Who the client is: as its PROXY header tells, or else as accept(2) told."""
    known = session.known
    if known is None or known.header is None or known.header.source is None:
        return session.client_address
    return known.header.source


def client_text(session: Session, peer: str) -> str:
    """The same for the record; `peer` is the text of the peer's own address."""
    address = client_address(session)
    if address is session.client_address:
        return peer
    if not isinstance(address, tuple):
        return address_text(AF_UNIX, address)
    ip, port = address[:2]
    return address_text(*((AF_INET6, (ip, port, 0, 0)) if ":" in ip else (AF_INET, (ip, port))))


def balance_key(session: Session) -> bytes:
    """What a pool whose choice depends on the client knows it by."""
    return client_key(client_address(session))
