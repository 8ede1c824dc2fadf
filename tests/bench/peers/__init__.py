"""The proxies that are compared. A peer is a class in a module of its own; `PEERS` has them all."""

from __future__ import annotations

from bench.peers.base import Peer, Target
from bench.peers.direct import Direct
from bench.peers.envoy import Envoy
from bench.peers.haproxy import HAProxy
from bench.peers.nginx import Nginx
from bench.peers.ours import Ours

PEERS: tuple[type[Peer], ...] = (Ours, HAProxy, Nginx, Envoy, Direct)

__all__ = ["PEERS", "Direct", "Ours", "Peer", "Target"]
