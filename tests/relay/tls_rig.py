"""A rig whose client speaks TLS, or whose upstream does, or both."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from relay_rig import EPOLLIN, Bench, Rig, bench, parts
from tls_peers import TlsFar, secured

from spliceproxy.relay.tls_end import TlsEnd

SIDES = (("1.3", ""), ("", "1.3"), ("1.2", "1.2"), ("1.3", "1.2"))
"""Pairs of the client's and the upstream's version, as far as they speak TLS."""
sides = pytest.mark.parametrize("tls", SIDES, ids=["-".join(v or "none" for v in s) for s in SIDES])

MIXES = (("v4", "v4"), ("v6", "unix"), ("unix", "v4"))
mixes = pytest.mark.parametrize(("client", "upstream"), MIXES)
tcp_mixes = pytest.mark.parametrize(("client", "upstream"), [("v4", "v4"), ("v4", "unix")])
first_to_close = pytest.mark.parametrize("closes_first", ["client", "upstream"])


class Ends:
    """Puts TLS into a rig; keeps the near ends."""

    def __init__(self, tls: tuple[str, str], rate: int | None = None) -> None:
        self.versions = tls
        self.rate = rate
        self.client: TlsEnd | None = None
        self.upstream: TlsEnd | None = None

    def __call__(self, rig: Rig) -> int:
        client, upstream = self.versions
        if client and self.client is None:
            self.client, rig.client = self._made(
                rig.bench, rig.near_client, rig.client, client, server=True
            )
        if upstream:
            self.upstream, rig.upstream = self._made(
                rig.bench, rig.near_upstream, rig.upstream, upstream, server=False
            )
        if self.rate is not None:
            for flow in (rig.relay.up, rig.relay.down):
                parts.paced.slow_down(rig.relay, flow, rig.bench.loop, self.rate)
        parts.tls_flow.secure(rig.relay, self.client, self.upstream)
        return int(EPOLLIN) if client else 0

    @staticmethod
    def _made(bench: Bench, near: Any, far: Any, version: str, *, server: bool) -> Any:
        end, peer = secured(near, far, version, server=server)
        bench.pumps.append(peer.pump)
        return end, peer


@contextmanager
def tls_rig(
    tls: tuple[str, str],
    client: str = "v4",
    upstream: str = "v4",
    mode: str = "adaptive",
    *,
    rate: int | None = None,
    **options: Any,
) -> Iterator[Any]:
    """One relay on a bench of its own. `rate`: bytes per second that each of its flows may move.

    What it yields is a Rig whose `near` are the ends of TLS on our side.
    """
    with bench(mode) as made:
        ends = Ends(tls, rate)
        rig: Any = Rig(made, client, upstream, prepare=ends, **options)
        rig.near = ends
        yield rig


def raw(far: Any) -> Any:
    """The socket of a far end."""
    return far.sock if isinstance(far, TlsFar) else far


def is_tls(far: Any) -> bool:
    return raw(far) is not far


def tells_resets(far: Any) -> bool:
    """Whether a far end can tell a broken session from a finished one."""
    return is_tls(far) or far.family != socket.AF_UNIX


def far_ends(r: Rig, closes_first: str) -> tuple[Any, Any]:
    return (r.client, r.upstream) if closes_first == "client" else (r.upstream, r.client)
