"""What the upstreams' addresses of a configuration stand for, for tests of what comes after."""

from __future__ import annotations

from spliceproxy.config import Config
from spliceproxy.control.addresses import places_to_connect
from spliceproxy.control.discovery.found import Found, FoundAt


def find_upstreams(config: Config) -> FoundAt:
    """Every address looked up by getaddrinfo(3); blocks meanwhile."""
    return {
        upstream.address: [
            Found(place, server_name=upstream.address.host)
            for place in places_to_connect(upstream.address)
        ]
        for pool in config.pools.values()
        for upstream in pool.upstreams
    }
