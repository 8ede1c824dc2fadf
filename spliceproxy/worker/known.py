"""What is known of a client beside its connection, and what follows from that."""

from __future__ import annotations

from socket import AF_INET, AF_INET6, AF_UNIX
from typing import TYPE_CHECKING

from spliceproxy.telemetry.record import address_text
from spliceproxy.worker.pool import client_key

if TYPE_CHECKING:
    from spliceproxy.relay.tls_end import TlsEnd
    from spliceproxy.wire.proxy_protocol import Header, SocketAddress
    from spliceproxy.worker.session import Session


class Known:
    """What was said of a client before it was connected."""

    __slots__ = ("alpn", "header", "postgres", "route", "sni", "ssl_request", "tls", "tls_ms")

    def __init__(self) -> None:
        self.header: Header | None = None
        """Its PROXY header."""
        self.route: str | None = None
        """The route that it took."""
        self.postgres = False
        """It took its route because it speaks PostgreSQL."""
        self.ssl_request = False
        """A PostgreSQL client that asked for TLS and was promised it: its ClientHello is next."""
        self.sni: str | None = None
        self.alpn: tuple[bytes, ...] = ()
        """What it asks for by TLS, as far as the routes or the pool wanted to know."""
        self.tls: TlsEnd | None = None
        """Where its TLS ends here."""
        self.tls_ms: float | None = None
        """Milliseconds of the handshake, once it is done."""

    @property
    def tls_version(self) -> str | None:
        """For the record: the version that was agreed on."""
        return None if self.tls is None else self.tls.tls.version()

    @property
    def alpn_text(self) -> str | None:
        """For the record."""
        if self.tls_ms is not None and self.tls is not None:
            return self.tls.tls.selected_alpn_protocol()
        if not self.alpn:
            return None
        offered = (name.decode("ascii", "backslashreplace") for name in self.alpn)
        return ",".join(offered)


def client_ip(session: Session) -> str:
    """The client's IP address, empty where it has none."""
    address = client_address(session)
    return str(address[0]) if isinstance(address, tuple) else ""


def client_address(session: Session) -> object:
    """Who the client is: as its PROXY header tells, or else as accept(2) told."""
    known = session.known
    if known is None or known.header is None or known.header.source is None:
        return session.client_address
    return known.header.source


def local_address(session: Session) -> SocketAddress | None:
    """Where the client connected to: as its PROXY header tells, or else at this proxy."""
    known = session.known
    if known is None or known.header is None or known.header.destination is None:
        return session.entry.local_address(session.client)
    return known.header.destination


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
    known = session.known
    if session.pool.plan.balance == "sni_hash" and known is not None and known.sni is not None:
        return known.sni.encode()
    return client_key(client_address(session))
