"""A session's beginning where its upstream may still be replaced, step by step on real sockets.

Trials that break a rule are in test_mutants.py.
"""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from select import EPOLLIN, EPOLLOUT, EPOLLRDHUP
from typing import Any

import pytest
from relay_rig import (
    MIXES,
    MODES,
    Reader,
    Rig,
    acknowledged,
    carry,
    pattern,
    reset,
    rig,
    write,
    write_all,
)

from spliceproxy.relay.verdicts import FINISHED

LIMIT = 4096
ANSWER = b"the answer"

mixes = pytest.mark.parametrize(("client", "upstream"), MIXES)
modes = pytest.mark.parametrize("mode", MODES)
endings = pytest.mark.parametrize("ending", ["fin", "reset"])


def end(sock: socket.socket, ending: str) -> None:
    """End an upstream: by FIN after it read everything, or by a reset (UNIX: with bytes unread)."""
    if ending == "fin":
        Reader(sock).read()
        sock.close()
    else:
        reset(sock)


def answered(r: Rig, sent: bytes, finished: bool = False) -> None:
    """See that the present upstream has `sent`, and that its answer and its end arrive."""
    upstream, client = Reader(r.upstream), Reader(r.client)
    r.bench.drive(lambda: (upstream.read(), len(upstream.data) >= len(sent))[1], "all bytes")
    carry(r.bench, r.upstream, client, ANSWER)
    if not finished:
        carry(r.bench, r.client, upstream, b"and more")
        sent += b"and more"
        r.client.shutdown(socket.SHUT_WR)
    assert upstream.read_to_end(r.bench) == "fin"
    r.upstream.shutdown(socket.SHUT_WR)
    assert client.read_to_end(r.bench) == "fin"
    assert bytes(upstream.data) == sent
    assert bytes(client.data) == ANSWER
    assert r.relay.broken is None
    assert r.up.moved == len(sent)
    assert r.down.moved == len(ANSWER)
    assert r.relay.first_byte_at is not None


@modes
@mixes
@endings
@pytest.mark.parametrize("size", [0, 1, LIMIT])
def test_an_upstream_that_ends_without_a_byte_is_replaced_and_its_bytes_come_again(
    client: str, upstream: str, mode: str, ending: str, size: int
) -> None:
    with rig(client, upstream, mode, replay=LIMIT, spares=2) as r:
        write_all(r.bench, r.client, pattern(0, size))
        for number in (1, 2):
            r.bench.drive(lambda: r.up.moved == size, "all bytes at the upstream")
            end(r.upstream, ending)
            r.bench.drive(lambda number=number: len(r.left) == number, "another upstream")
        assert r.changes == 0
        answered(r, pattern(0, size))


@mixes
@endings
def test_bytes_in_many_pieces_come_again_in_order(
    client: str, upstream: str, ending: str, seed: int
) -> None:
    pieces = random.Random(seed)
    with rig(client, upstream, replay=LIMIT, spares=1) as r:
        sent = 0
        while sent < LIMIT:
            piece = min(pieces.randint(1, 200), LIMIT - sent)
            sent += write(r.client, pattern(sent, piece))
            if pieces.random() < 0.5:
                r.bench.step()
        r.bench.drive(lambda: r.up.moved == LIMIT, "all bytes at the upstream")
        end(r.upstream, ending)
        r.bench.drive(lambda: r.left, "another upstream")
        answered(r, pattern(0, LIMIT))


@pytest.mark.parametrize(
    ("client", "upstream", "size"),
    [
        (client, upstream, size)
        for client, upstream in MIXES
        for size in (0, 1, LIMIT)
        if size or upstream != "unix"  # with nothing unread its close is a FIN
    ],
)
def test_the_fin_comes_again_after_a_reset(client: str, upstream: str, size: int) -> None:
    with rig(client, upstream, replay=LIMIT, spares=1) as r:
        r.client.sendall(pattern(0, size))
        r.client.shutdown(socket.SHUT_WR)
        r.bench.drive(lambda: r.up.end == FINISHED, "the FIN at the upstream")
        reset(r.upstream)
        r.bench.drive(lambda: r.left and r.up.end == FINISHED, "the FIN at another upstream")
        answered(r, pattern(0, size), finished=True)


@mixes
@endings
def test_an_upstream_that_ended_before_the_fin_was_passed_on_is_replaced(
    client: str, upstream: str, ending: str
) -> None:
    with rig(client, upstream, replay=LIMIT, spares=1) as r:
        end(r.upstream, ending)
        r.client.sendall(b"all of it")
        r.client.shutdown(socket.SHUT_WR)
        r.bench.drive(lambda: r.left, "another upstream")
        answered(r, b"all of it", finished=True)


@mixes
def test_an_upstream_that_ends_after_the_client_did_has_done_its_work(
    client: str, upstream: str
) -> None:
    with rig(client, upstream, replay=LIMIT, spares=1) as r:
        r.client.sendall(b"all of it")
        r.client.shutdown(socket.SHUT_WR)
        assert Reader(r.upstream).read_to_end(r.bench) == "fin"
        r.upstream.close()
        assert Reader(r.client).read_to_end(r.bench) == "fin"
        assert r.left == []
        assert r.fate is None
        assert r.relay.first_over is r.up


@modes
@mixes
@endings
def test_an_upstream_that_has_more_than_is_kept_is_replaced_no_more(
    client: str, upstream: str, mode: str, ending: str
) -> None:
    with rig(client, upstream, mode, replay=LIMIT, spares=1) as r:
        write_all(r.bench, r.client, pattern(0, LIMIT + 1))
        upper = Reader(r.upstream)
        r.bench.drive(lambda: (upper.read(), len(upper.data) > LIMIT)[1], "all bytes")
        assert bytes(upper.data) == pattern(0, LIMIT + 1)
        end(r.upstream, ending)
        is_reset = ending == "reset" and upstream != "unix" and client != "unix"
        assert Reader(r.client).read_to_end(r.bench) == ("reset" if is_reset else "fin")
        assert r.left == []
        assert r.by_fin == []


@modes
@mixes
@pytest.mark.parametrize("finished", [False, True])
def test_a_body_that_is_larger_than_what_is_kept_arrives_whole(
    client: str, upstream: str, mode: str, finished: bool
) -> None:
    with rig(client, upstream, mode, replay=LIMIT, spares=1) as r:
        end(r.upstream, "fin")
        r.bench.drive(lambda: r.left, "another upstream")
        body = pattern(0, 3_000_000)
        upper = Reader(r.upstream)
        carry(r.bench, r.client, upper, body)
        if finished:
            r.client.shutdown(socket.SHUT_WR)
            assert upper.read_to_end(r.bench) == "fin"
        r.upstream.sendall(ANSWER)
        r.upstream.close()
        lower = Reader(r.client)
        assert lower.read_to_end(r.bench) == "fin"
        assert bytes(lower.data) == ANSWER
        assert bytes(upper.data) == body


@modes
@mixes
@endings
@pytest.mark.parametrize("together", [False, True])
def test_one_byte_of_an_upstream_binds_the_session_to_it(
    client: str, upstream: str, mode: str, ending: str, together: bool
) -> None:
    with rig(client, upstream, mode, replay=LIMIT, spares=1) as r:
        r.client.sendall(b"request")
        r.bench.drive(lambda: r.up.moved == 7, "the request at the upstream")
        Reader(r.upstream).read()
        r.upstream.sendall(b"!")
        acknowledged(r.upstream)
        if not together:
            r.bench.drive(lambda: r.down.moved, "the byte")
        end(r.upstream, ending)
        lower = Reader(r.client)
        is_reset = ending == "reset" and upstream != "unix" and client != "unix"
        assert lower.read_to_end(r.bench) == ("reset" if is_reset else "fin")
        assert bytes(lower.data) == b"!"
        assert r.left == []


def test_what_was_told_before_the_trial_began_is_not_forgotten() -> None:
    with rig("v4", "v4", replay=LIMIT, spares=1) as r:
        for near in (r.near_client, r.near_upstream):
            r.bench.loop.set_handler(near.fileno(), lambda _events: None)
        write_all(r.bench, r.client, pattern(0, LIMIT + 1))
        r.upstream.sendall(ANSWER)
        r.upstream.shutdown(socket.SHUT_WR)
        r.bench.wakes()  # every edge is used up
        r.trial.start(r.relay, EPOLLIN, EPOLLIN | EPOLLRDHUP | EPOLLOUT)
        lower, upper = Reader(r.client), Reader(r.upstream)
        assert lower.read_to_end(r.bench) == "fin"
        assert bytes(lower.data) == ANSWER
        r.client.shutdown(socket.SHUT_WR)
        assert upper.read_to_end(r.bench) == "fin"
        assert bytes(upper.data) == pattern(0, LIMIT + 1)


def test_an_urgent_byte_is_a_byte() -> None:
    with rig("v4", "v4", replay=LIMIT, spares=1) as r:
        r.upstream.send(b"!", socket.MSG_OOB)
        r.upstream.close()
        assert Reader(r.client).read_to_end(r.bench) == "fin"
        assert r.left == []


def outcome(
    replay: int | None, kinds: tuple[str, str], ending: str, size: int, finished: bool, late: bool
) -> Any:
    """What a client sees, and a record says, of an upstream that sends nothing and ends."""
    with rig(*kinds, replay=replay) as r:
        if not late:
            end(r.upstream, ending)
        r.client.sendall(pattern(0, size))
        if finished:
            r.client.shutdown(socket.SHUT_WR)
        if late:
            r.bench.settle()
            end(r.upstream, ending)
        lower = Reader(r.client)
        r.bench.settle()
        if not finished:
            lower.read()
            with suppress(OSError):  # reset meanwhile
                r.client.shutdown(socket.SHUT_WR)
        how = lower.read_to_end(r.bench)
        r.bench.drive(lambda: r.parted, "the end of the session")
        relay = r.relay
        broken = {None: "", r.near_client: "client", r.near_upstream: "upstream"}[relay.broken]
        ends = r.up.end if not broken else 0, r.down.end if not broken else 0
        return how, bytes(lower.data), broken, ends


@endings
@mixes
@pytest.mark.parametrize("size", [0, 1, LIMIT, LIMIT + 1])
@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("late", [False, True])
def test_without_another_upstream_a_session_ends_as_it_does_without_a_trial(
    client: str, upstream: str, ending: str, size: int, finished: bool, late: bool
) -> None:
    same = ((client, upstream), ending, size, finished, late)
    assert outcome(LIMIT, *same) == outcome(None, *same)


@pytest.mark.parametrize(("client", "upstream"), [mix for mix in MIXES if mix[0] != "unix"])
@pytest.mark.parametrize("finished", [False, True])
def test_a_client_that_resets_ends_the_session_at_once(
    client: str, upstream: str, finished: bool
) -> None:
    with rig(client, upstream, replay=LIMIT, spares=1) as r:
        r.client.sendall(b"request")
        if finished:
            r.client.shutdown(socket.SHUT_WR)
        r.bench.drive(lambda: r.up.moved == 7, "the request at the upstream")
        reset(r.client)
        upper = Reader(r.upstream)
        told = "fin" if finished or upstream == "unix" else "reset"
        assert upper.read_to_end(r.bench) == told
        assert bytes(upper.data) == b"request"
        r.bench.drive(lambda: r.parted, "the end of the session")
        assert r.fate is r.near_client
        assert r.left == []
