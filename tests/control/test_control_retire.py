"""Retiring a listening socket: who is inside is served, nobody new gets in."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from spliceproxy.control.retire import refuse_new_clients

CLIENTS = 40


def listen(kind: str, directory: Path, stack: ExitStack) -> socket.socket:
    family = {"v4": socket.AF_INET, "v6": socket.AF_INET6}.get(kind, socket.AF_UNIX)
    address: object = {
        "v4": ("127.0.0.1", 0),
        "v6": ("::1", 0),
        "path": str(directory / "sock"),
        "abstract": f"\0retire-{directory.name}",
    }[kind]
    sock = stack.enter_context(socket.socket(family))
    sock.bind(address)
    sock.listen(CLIENTS + 1)
    sock.setblocking(False)
    return sock


def accept_all(sock: socket.socket) -> int:
    served = 0
    while True:
        try:
            client, _ = sock.accept()
        except BlockingIOError:
            return served
        with client:
            client.sendall(b"served")
        served += 1


@pytest.mark.parametrize("kind", ["v4", "v6", "path", "abstract"])
def test_every_queued_client_is_served_and_no_new_one_is_let_in(kind: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        sock = listen(kind, tmp_path, stack)

        def client() -> socket.socket:
            one = stack.enter_context(socket.socket(sock.family))
            one.settimeout(0.3)
            return one

        queued = [client() for _ in range(CLIENTS)]
        for one in queued:
            one.connect(sock.getsockname())
        refuse_new_clients(sock)
        # A dropped SYN is answered by nothing, a UNIX socket refuses.
        with pytest.raises(TimeoutError if kind in ("v4", "v6") else ConnectionRefusedError):
            client().connect(sock.getsockname())
        assert accept_all(sock) == CLIENTS
        sock.close()
        assert [one.recv(16) for one in queued] == [b"served"] * CLIENTS
