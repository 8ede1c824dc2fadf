"""TLS that begins here: how the upstreams of a pool are spoken to.

A context for each application protocol that clients have agreed on, as it is the context that
offers it. They are made when they are asked for first, and kept by a reload that leaves the pool's
TLS as it is.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from spliceproxy.relay.tls_context import client_context

if TYPE_CHECKING:
    from spliceproxy.ipc import PoolTlsPlan
    from spliceproxy.worker.pool import Upstream


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
