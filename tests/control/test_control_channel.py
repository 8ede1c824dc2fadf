"""The channel to a worker: all messages arrive, in order, whatever the process is short of."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from harness.fds import open_fds
from unprivileged import as_nobody, needs_root

from spliceproxy import ipc

MESSAGES = 2000
"""More than the kernel takes at once."""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def pair(stack: ExitStack) -> tuple[ipc.Channel, ipc.Channel]:
    channel, there = ipc.Channel.pair()
    other = ipc.Channel(there)
    stack.callback(channel.close)
    stack.callback(other.close)
    return channel, other


def serve(number: int) -> ipc.Serve:
    return ipc.Serve(number, "web", shared=False)


def numbers(channel: ipc.Channel) -> list[int]:
    """The numbers of the Serve messages that are there; their fds are closed."""
    found = []
    while True:
        try:
            received = channel.receive()
        except BlockingIOError:
            return found
        assert received is not None
        message, fds = received
        assert isinstance(message, ipc.Serve)
        for fd in fds:
            os.close(fd)
        found.append(message.socket)


def all_numbers(channel: ipc.Channel, other: ipc.Channel) -> list[int]:
    """The same, until nothing waits any more."""
    found = numbers(other)
    while channel.waiting:
        channel.flush()
        found += numbers(other)
    return found


def test_what_waits_needs_no_fds_and_arrives_in_order(stack: ExitStack) -> None:
    channel, other = pair(stack)
    sock = stack.enter_context(socket.socket())
    before = open_fds()
    for number in range(MESSAGES):
        channel.send(serve(number), sock)
    assert channel.waiting
    assert open_fds() == before
    assert all_numbers(channel, other) == list(range(MESSAGES))
    assert open_fds() == before


def test_a_socket_closed_while_its_message_waits_is_never_sent(stack: ExitStack) -> None:
    channel, other = pair(stack)
    kept, gone = stack.enter_context(socket.socket()), socket.socket()
    with gone:
        for number in range(MESSAGES):
            channel.send(serve(number), kept)
        channel.send(serve(MESSAGES), gone)
    # The number of the closed one belongs to somebody else at once.
    stack.enter_context(socket.socket())
    channel.send(serve(MESSAGES + 1), kept)
    assert all_numbers(channel, other) == [*range(MESSAGES), MESSAGES + 1]


def test_where_the_peer_is_gone_sending_says_so_and_nothing_waits(stack: ExitStack) -> None:
    channel, other = pair(stack)
    other.close()
    with pytest.raises(BrokenPipeError):
        channel.send(ipc.Reopen())
    assert not channel.waiting


@needs_root
def test_too_many_fds_under_way_are_waited_for() -> None:
    """The kernel bounds the fds that a user has under way by RLIMIT_NOFILE (unix(7))."""

    def check() -> None:
        with ExitStack() as stack:
            channel, other = pair(stack)
            sock = stack.enter_context(socket.socket())
            _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(open_fds()) + 8, hard))
            for number in range(100):
                channel.send(serve(number), sock)
            assert channel.waiting
            assert channel.short
            assert all_numbers(channel, other) == list(range(100))
            assert not channel.short

    as_nobody(check)
