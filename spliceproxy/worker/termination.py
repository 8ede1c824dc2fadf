"""What clients of a listener that terminates TLS are shown: a context for each certificate.

Contexts are made when they are asked for first, one in a third of a millisecond: a thousand of them
would keep everybody waiting at a reload. Those that stay the same are kept by a reload, so that
their clients can resume.
"""

from __future__ import annotations

import ssl
from dataclasses import replace
from typing import TYPE_CHECKING

from spliceproxy.relay.tls_context import server_context
from spliceproxy.relay.tls_end import TlsEnd
from spliceproxy.worker.admission import turn_away
from spliceproxy.worker.handshake import Handshake

if TYPE_CHECKING:
    from collections.abc import Callable

    from spliceproxy.ipc import CertificatePlan, TlsPlan
    from spliceproxy.worker.session import Session


class Termination:
    """The TLS of one listener."""

    __slots__ = ("_contexts", "_names", "_plan")

    def __init__(self, plan: TlsPlan, before: Termination | None = None) -> None:
        """`before` is what is in its place now."""
        self._plan = plan
        self._contexts: dict[CertificatePlan, ssl.SSLContext] = {}
        if before is not None and _settings(before._plan) == _settings(plan):
            kept = set(plan.certificates)
            self._contexts = {one: made for one, made in before._contexts.items() if one in kept}
        self._names: dict[str, CertificatePlan] = {}
        for certificate in plan.certificates:
            for name in certificate.names:
                self._names.setdefault(name, certificate)

    def shake_hands(self, session: Session, on_done: Callable[[int], None]) -> None:
        """Begin the handshake with a client whose SNI is known. `on_done` is called when bytes can
        flow, with the events that were seen of it meanwhile; where it fails, or where too many are
        under way, the session ends."""
        known, limits = session.known, session.listener.limits
        assert known is not None
        if limits is not None and not limits.enter_handshake():
            turn_away(session, "handshake_limit")
            return
        # From here on the end of the session gives back what was counted.
        session.handshake = handshake = Handshake(session, on_done)
        known.tls = end = TlsEnd(session.client, self.context(known.sni))
        handshake.start(end, self._plan.timeout)

    def context(self, name: str | None) -> ssl.SSLContext:
        """For a client that asks for `name`: its own certificate's, or the wildcard's, or the first
        one's."""
        certificate = None
        if name is not None:
            certificate = self._names.get(name) or self._names.get("*." + name.partition(".")[2])
        certificate = certificate or self._plan.certificates[0]
        context = self._contexts.get(certificate)
        if context is None:
            plan = self._plan
            context = self._contexts[certificate] = server_context(
                certificate.chains,
                min_version=plan.min_version,
                alpn=plan.alpn,
                client_ca=plan.client_ca,
                client_certificate=plan.client_certificate,
            )
        return context


def _settings(plan: TlsPlan) -> TlsPlan:
    """What all contexts of a plan have in common."""
    return replace(plan, certificates=(), timeout=None)
