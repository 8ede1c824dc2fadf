"""Retiring a listening socket: who is inside is served, nobody new gets in."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from unprivileged import as_nobody, as_we_are, needs_root

from spliceproxy.control import retire
from spliceproxy.control.retire import refuse_new_clients

CLIENTS = 40
PATIENCE = 0.3
"""Seconds that a client waits which is not expected to get in."""

Rights = Callable[[Callable[[], None]], None]

everybody = pytest.mark.parametrize(
    "rights", [as_we_are, pytest.param(as_nobody, marks=needs_root)]
)
every_tcp = pytest.mark.parametrize("kind", ["v4", "v6"])
every_kind = pytest.mark.parametrize("kind", ["v4", "v6", "path", "abstract"])


def listen(kind: str, stack: ExitStack, directory: Path = Path()) -> socket.socket:
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


def connect(sock: socket.socket, stack: ExitStack) -> socket.socket:
    """A client of `sock`."""
    client = stack.enter_context(socket.socket(sock.family))
    client.settimeout(PATIENCE)
    client.connect(sock.getsockname())
    return client


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


@everybody
@every_kind
def test_every_queued_client_is_served_and_no_new_one_is_let_in(
    kind: str, rights: Rights, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        sock = listen(kind, stack, tmp_path)
        queued = [connect(sock, stack) for _ in range(CLIENTS)]

        def check() -> None:
            assert refuse_new_clients(sock)

        rights(check)
        with pytest.raises(ConnectionRefusedError):
            connect(sock, stack)
        assert accept_all(sock) == CLIENTS
        sock.close()
        assert [one.recv(16) for one in queued] == [b"served"] * CLIENTS


@everybody
@every_tcp
def test_a_handshake_under_way_is_completed(kind: str, rights: Rights) -> None:
    def check() -> None:
        with ExitStack() as stack:
            sock = listen(kind, stack)
            # The kernel ignores the bare last ACK of a handshake, until data comes.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
            halfway = [connect(sock, stack) for _ in range(CLIENTS)]
            assert accept_all(sock) == 0
            assert refuse_new_clients(sock)
            for one in halfway:
                one.sendall(b"the data")
            assert accept_all(sock) == CLIENTS
            assert [one.recv(16) for one in halfway] == [b"served"] * CLIENTS

    rights(check)


@everybody
@every_tcp
def test_a_retired_socket_of_a_group_lets_nobody_in_while_a_sibling_listens(
    kind: str, rights: Rights
) -> None:
    """As with a socket of the service manager, which listens on when ours are retired."""

    def check() -> None:
        with ExitStack() as stack:
            sibling = listen(kind, stack)
            sibling.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock = stack.enter_context(socket.socket(sibling.family))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(sibling.getsockname())
            sock.listen(CLIENTS)
            sock.setblocking(False)
            queued = [connect(sibling, stack) for _ in range(CLIENTS)]
            assert refuse_new_clients(sock)
            late = [begin(sibling, stack) for _ in range(CLIENTS)]
            served = accept_all(sock) + accept_all(sibling)
            assert served >= CLIENTS
            # Some of the late met the sibling; nobody met the retired one.
            assert {one.recv(16) for one in queued} == {b"served"}
            sock.close()
            assert served < CLIENTS + len(late)

    rights(check)


def begin(sock: socket.socket, stack: ExitStack) -> socket.socket:
    """A client whose handshake may hang."""
    client = stack.enter_context(socket.socket(sock.family))
    client.setblocking(False)
    assert client.connect_ex(sock.getsockname()) in (0, errno.EINPROGRESS)
    return client


@every_tcp
def test_where_no_interface_may_be_set_a_filter_drops_new_clients(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retire, "_SO_BINDTOIFINDEX", 9999)  # as on an old kernel: ENOPROTOOPT
    with ExitStack() as stack:
        sock = listen(kind, stack)
        queued = [connect(sock, stack) for _ in range(CLIENTS)]
        try:
            retire.drop_syns(sock)
        except PermissionError:
            return  # the next test's case
        assert refuse_new_clients(sock)
        with pytest.raises(TimeoutError):
            connect(sock, stack)
        assert accept_all(sock) == CLIENTS
        sock.close()
        assert [one.recv(16) for one in queued] == [b"served"] * CLIENTS


@needs_root
@every_tcp
def test_the_last_resort_says_so_and_serves_who_is_queued(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retire, "_SO_BINDTOIFINDEX", 9999)

    def check() -> None:
        with ExitStack() as stack:
            sock = listen(kind, stack)
            queued = [connect(sock, stack) for _ in range(CLIENTS)]
            if refuse_new_clients(sock):
                return  # a kernel whose filters are for everybody
            with pytest.raises(TimeoutError):
                connect(sock, stack)
            assert accept_all(sock) == CLIENTS
            assert [one.recv(16) for one in queued] == [b"served"] * CLIENTS

    as_nobody(check)
