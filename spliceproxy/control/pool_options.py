"""The socket options of pools, tried at the start.

Workers set them on each connection, and there a refusal would fail one session after the other.
So they are tried once, on sockets that are thrown away.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from spliceproxy.control.addresses import Place
from spliceproxy.control.bind_errors import explain_tcp
from spliceproxy.control.options import common_options

if TYPE_CHECKING:
    from spliceproxy.config import Pool

_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; Python names it from 3.12 on


def find_pool_problems(pools: Iterable[Pool]) -> Iterator[str]:
    """One line for each option of a pool that this machine does not grant."""
    for pool in pools:
        if all(upstream.address.is_unix for upstream in pool.upstreams):
            continue
        key = f"pools.{pool.name}.tcp"
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            for option in common_options(pool.tcp, unix=False):
                problem = option.apply(sock, key)
                if problem:
                    yield problem
        for source in pool.tcp.source:
            problem = _source_problem(str(source))
            if problem:
                yield f"{key}.source: {source}: {problem}"


def _source_problem(ip: str) -> str:
    """Why no connection could come from `ip`; empty: it could."""
    place = Place(socket.AF_INET6 if ":" in ip else socket.AF_INET, (ip, 0))
    try:
        with socket.socket(place.family, socket.SOCK_STREAM) as sock:
            # As on every connection: else a free port is needed here, and it may be missing.
            sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind(place.address)
    except OSError as error:
        return explain_tcp(place, error)
    return ""
