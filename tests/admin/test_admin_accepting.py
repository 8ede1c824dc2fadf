"""admin/accepting.py: connections are let in until somebody says stop, and none is lost."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from spliceproxy.admin.accepting import Acceptor


class Greeter(asyncio.Protocol):
    """Says hello, and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


class Scarce(socket.socket):
    """Cannot accept for a while."""

    failures = 1

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


@pytest.fixture
def scarce() -> Iterator[Scarce]:
    with Scarce() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(100)
        yield sock


def greeted(sock: socket.socket) -> bytes:
    with socket.create_connection(sock.getsockname(), 10) as client:
        return client.makefile("rb").read()


def test_where_fds_are_scarce_it_waits_a_second_and_goes_on(scarce: Scarce) -> None:
    async def live() -> bytes:
        acceptor = Acceptor(scarce, Greeter)
        try:
            return await asyncio.to_thread(greeted, scarce)
        finally:
            acceptor.stop()

    with capture_logs() as lines:
        assert asyncio.run(live()) == b"hello"
    assert [(line["event"], line["error"]) for line in lines] == [
        ("nobody is let in at a door for a second", "Too many open files")
    ]


def test_whom_it_let_in_before_it_was_told_to_stop_is_served(scarce: Scarce) -> None:
    scarce.failures = 0

    async def live() -> list[bytes]:
        clients = [socket.create_connection(scarce.getsockname(), 10) for _ in range(20)]
        acceptor = Acceptor(scarce, Greeter)
        while not acceptor.busy:
            await asyncio.sleep(0)
        acceptor.stop()
        while acceptor.busy:
            await asyncio.sleep(0)
        heard = []
        for client in clients:
            with client:
                heard.append(await asyncio.to_thread(client.makefile("rb").read))
        return heard

    assert asyncio.run(live()) == [b"hello"] * 20


def test_while_it_pauses_it_can_be_told_to_stop(scarce: Scarce) -> None:
    async def live() -> None:
        acceptor = Acceptor(scarce, Greeter)
        with socket.create_connection(scarce.getsockname(), 10):
            while scarce.failures:
                await asyncio.sleep(0)
            acceptor.stop()
            acceptor.stop()

    with capture_logs() as lines:
        asyncio.run(live())
    assert len(lines) == 1
