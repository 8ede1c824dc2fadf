"""TLS that begins here: how the upstreams of a pool are spoken to, and the handshake with one.

A context for each application protocol that clients have agreed on, as it is the context that
offers it. They are made when they are asked for first, and kept by a reload that leaves the pool's
TLS as it is.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from spliceproxy.relay.tls_context import client_context
from spliceproxy.relay.tls_end import TlsEnd, TlsError
from spliceproxy.worker.approach import DONE, READ, WRITE, ApproachError

if TYPE_CHECKING:
    from socket import SocketType

    from spliceproxy.ipc import PoolTlsPlan
    from spliceproxy.worker.pool import Upstream
    from spliceproxy.worker.session import Session


class Origination:
    """The TLS of one pool."""

    __slots__ = ("_contexts", "_plan")

    def __init__(self, plan: PoolTlsPlan, before: Origination | None = None) -> None:
        """`before` is what is in its place now."""
        self._plan = plan
        self._contexts: dict[str | None, ssl.SSLContext] = {}
        if before is not None and before._plan == plan:
            self._contexts = before._contexts

    def context(self, alpn: str | None) -> ssl.SSLContext:
        """For sessions whose client has agreed on `alpn`: the upstream is offered that alone."""
        context = self._contexts.get(alpn)
        if context is None:
            plan = self._plan
            context = self._contexts[alpn] = client_context(
                verify=plan.verify,
                ca=plan.ca,
                certificate=plan.certificate,
                alpn=() if alpn is None else (alpn,),
            )
        return context

    def server_name(self, upstream: Upstream) -> str | None:
        """What `upstream` is asked for, and has to prove where it is verified."""
        return self._plan.name or upstream.server_name or None


class ShakeHands:
    """The handshake with an upstream. What comes of it is the session's `upstream_tls`."""

    name = "end of the TLS handshake"

    def __init__(self, session: Session, tls: Origination, upstream: Upstream) -> None:
        self.turns = session.worker.handshakes
        self._session = session
        self._tls = tls
        self._upstream = upstream
        self._end: TlsEnd | None = None

    def go_on(self, sock: SocketType) -> int:
        """See `Step`."""
        end = self._end = self._end or self._begin(sock)
        try:
            done = end.shake_hands()
        except TlsError as error:
            raise ApproachError(str(error)) from None
        if end.unsent:
            return WRITE
        if not done:
            return READ
        self._session.upstream_tls = end
        return DONE

    def _begin(self, sock: SocketType) -> TlsEnd:
        known, name = self._session.known, self._tls.server_name(self._upstream)
        client = None if known is None else known.tls
        agreed = None if client is None else client.tls.selected_alpn_protocol()
        try:
            return TlsEnd(sock, self._tls.context(agreed), name)
        except ValueError:  # more than 63 bytes between two dots, for example
            raise ApproachError(f"TLS cannot ask for the name {name!a}") from None
