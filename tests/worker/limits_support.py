"""What tests of `limits:` share: a limited proxy, its clients, and what its board counts."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from harness import upstreams
from harness.proxy import Proxy
from harness.wait import wait_until
from session_support import board_of, exchange, proxy_yaml, running_proxy

from spliceproxy.limits.clients import BYTES_PER_COLUMN, ROWS
from spliceproxy.telemetry.board import Board


def limits(rate: object = "off", **per_client: Any) -> dict[str, Any]:
    return {"limits": {"rate": rate, "per_client": per_client or "off"}}


def come(proxy: Proxy, ip: str, stack: ExitStack | None = None) -> bool:
    """Whether a client with this address is served by an echo. With a `stack` it stays."""
    address: Any = proxy.address("web")
    with ExitStack() as own, suppress(ConnectionResetError):
        client = socket.create_connection(address, 10, source_address=(ip, 0))
        (own if stack is None else stack).enter_context(client)
        return exchange(client, b"hello") == b"hello"
    return False


@contextmanager
def limited(
    workers: int = 2, listener: dict[str, Any] | None = None, **keys: Any
) -> Iterator[tuple[Proxy, Board]]:
    """A proxy in front of an echo, and its board."""
    with (
        upstreams.echo() as upstream,
        running_proxy(
            proxy_yaml(upstream.address, listener=listener or limits(**keys), workers=workers)
        ) as proxy,
        board_of(proxy, workers) as board,
    ):
        yield proxy, board


def reload(proxy: Proxy, **keys: Any) -> list[str]:
    """Change the limits; what the log says of it."""
    text = proxy.config.read_text().splitlines()
    [number] = [n for n, line in enumerate(text) if line.startswith("listeners:")]
    listener = {"bind": "127.0.0.1:0", "pool": "app", **limits(**keys)}
    text[number] = "listeners: {web: " + str(listener).replace("'", '"') + "}"
    proxy.config.write_text("\n".join(text))
    before = len(proxy.log("reloaded"))
    proxy.signal(signal.SIGHUP)
    said = wait_until(lambda: proxy.log("reloaded")[before:], 10, "the reload")
    changes: list[str] = said[0]["changes"]
    return changes


def counted(board: Board) -> list[int]:
    """The sessions that the first planes count as live, of each worker."""
    found = []
    for plane in board.planes.of(0):
        columns = len(plane) // BYTES_PER_COLUMN
        lives = plane[columns * ROWS * 8 : columns * ROWS * 12].cast("I")
        found.append(-(-sum(lives) // ROWS))  # rounded up: a worker may be writing just now
    return found


def all_back(board: Board) -> None:
    wait_until(lambda: not any(counted(board)), 10, "all counts back to 0")
