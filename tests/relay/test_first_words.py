"""What an upstream is told before the client's bytes, on real sockets that take little of it.

Real headers are short and new sockets have room for them, so these are long and the buffers small.
"""

from __future__ import annotations

import random
import socket
from typing import Any

import pytest
from relay_rig import MIXES, MODES, Reader, connected, pattern, reset, rig, write

FIRST = pattern(123_456, 100_000)
LIMIT = 4096

mixes = pytest.mark.parametrize(("client", "upstream"), MIXES)
replays = pytest.mark.parametrize("replay", [None, LIMIT])


@mixes
@replays
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [0, 1, LIMIT, 300_000])
def test_it_comes_first_and_whole_however_it_is_cut_and_is_not_counted(
    client: str, upstream: str, replay: int | None, mode: str, size: int, seed: int
) -> None:
    print(f"seed: {seed}")
    choice = random.Random(seed)
    with rig(client, upstream, mode, first=FIRST, replay=replay, buffers=8192, mss=1448) as r:
        assert -len(FIRST) < r.up.moved < 0, "the socket took all or nothing: this proves nothing"
        sent, finished, upper = 0, False, Reader(r.upstream)

        def turn() -> bool:
            nonlocal sent, finished
            if sent < size:
                most = choice.choice([1, 5000, size])
                sent += write(r.client, pattern(sent, min(most, size - sent)))
            elif not finished:
                finished = True
                r.client.shutdown(socket.SHUT_WR)
            if choice.random() < 0.5:
                upper.read(choice.choice([1, 700, 20_000]))
            return bool(upper.end)

        r.bench.drive(turn, "the end of the upload")
        assert bytes(upper.data) == FIRST + pattern(0, size)
        assert (r.up.moved, r.up.held) == (size, 0)
        assert not r.up.watching


@mixes
@replays
def test_an_upstream_that_is_full_is_waited_for_without_a_wake_up(
    client: str, upstream: str, replay: int | None
) -> None:
    with rig(client, upstream, first=FIRST, replay=replay, buffers=8192, mss=1448) as r:
        r.bench.wakes()  # the kernels come to rest
        assert r.bench.wakes() == 0
        write(r.client, b"request")
        r.bench.wakes()
        assert r.bench.wakes() == 0
        upper, lower = Reader(r.upstream), Reader(r.client)
        whole = FIRST + b"request"
        r.bench.drive(lambda: (upper.read(), len(upper.data) >= len(whole))[1], "all bytes")
        assert bytes(upper.data) == whole
        write(r.upstream, b"answer")
        r.bench.drive(lambda: (lower.read(), len(lower.data) == 6)[1], "the answer")
        assert r.bench.wakes() == 0


@mixes
@replays
def test_an_upstream_may_speak_and_end_before_it_has_read_it(
    client: str, upstream: str, replay: int | None
) -> None:
    with rig(client, upstream, first=FIRST, replay=replay, buffers=8192, mss=1448) as r:
        write(r.upstream, b"busy, go away")
        r.upstream.shutdown(socket.SHUT_WR)
        lower, upper = Reader(r.client), Reader(r.upstream)
        assert lower.read_to_end(r.bench) == "fin"
        assert lower.data == b"busy, go away"
        write(r.client, b"why?")
        r.client.shutdown(socket.SHUT_WR)
        assert upper.read_to_end(r.bench) == "fin"
        assert bytes(upper.data) == FIRST + b"why?"


def ends(client: str, upstream: str) -> Any:
    """Connected ones, of which the upstream was reset before anything was sent."""
    far = connected(client)
    gone, near = connected(upstream)
    if upstream == "unix":
        near.send(b"x")  # a close with unread bytes is UNIX's reset
    reset(gone)
    return (*far, gone, near)


@mixes
@replays
def test_the_reset_of_an_upstream_that_never_took_it_reaches_the_client(
    client: str, upstream: str, replay: int | None
) -> None:
    with rig(ends=ends(client, upstream), first=FIRST, replay=replay) as r:
        end = Reader(r.client).read_to_end(r.bench)
        assert end == ("fin" if client == "unix" else "reset")
        r.bench.drive(lambda: r.parted, "the end of the session")
        assert r.fate is r.near_upstream


@mixes
def test_each_upstream_that_replaces_another_one_gets_it_again(client: str, upstream: str) -> None:
    made = ends(client, upstream)
    with rig(client, upstream, ends=made, first=FIRST, replay=LIMIT, spares=3) as r:
        for number in range(3):
            r.bench.drive(lambda number=number: len(r.left) == number + 1, "another upstream")  # type: ignore[misc]
            r.bench.settle()
            write(r.client, pattern(number, 1))
            r.bench.settle()
            if number < 2:
                reset(r.upstream)
        upper = Reader(r.upstream)
        whole = FIRST + pattern(0, 3)
        r.bench.drive(lambda: (upper.read(), len(upper.data) >= len(whole))[1], "all bytes")
        r.client.shutdown(socket.SHUT_WR)
        assert upper.read_to_end(r.bench) == "fin"
        assert bytes(upper.data) == whole
        assert r.up.moved == 3


@mixes
def test_a_replacement_may_speak_before_it_has_read_it(client: str, upstream: str) -> None:
    limits = {"buffers": 8192, "mss": 1448}
    with rig(client, upstream, first=FIRST, replay=LIMIT, spares=1, **limits) as r:
        write(r.client, b"request")
        whole = FIRST + b"request"
        upper, lower = Reader(r.upstream), Reader(r.client)
        r.bench.drive(lambda: (upper.read(), len(upper.data) >= len(whole))[1], "all bytes")
        r.upstream.close()
        r.bench.drive(lambda: r.left, "another upstream")
        r.bench.settle()
        assert r.up.moved < 0, "the socket took all of it: this proves nothing"
        write(r.upstream, b"hello")
        r.bench.drive(lambda: (lower.read(), len(lower.data) == 5)[1], "what it says")
        r.client.shutdown(socket.SHUT_WR)
        upper = Reader(r.upstream)
        assert upper.read_to_end(r.bench) == "fin"
        assert bytes(upper.data) == whole
        assert r.up.moved == 7
