"""A session's beginning where its upstream may still be replaced, step by step on real sockets.

What is broken on purpose for these tests is in test_trial_mutants.py.
"""

from __future__ import annotations

import os
import random
import socket
from contextlib import suppress
from typing import Any

import pytest
from harness.fds import open_fds
from relay_rig import (
    MIXES,
    MODES,
    Bench,
    Reader,
    Rig,
    acknowledged,
    carry,
    connected,
    parts,
    pattern,
    reset,
    rig,
    write,
    write_all,
)

from spliceproxy.relay.verdicts import FINISHED, RUNNING

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
        r.bench.drive(lambda: r.left, "another upstream")
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


@pytest.mark.parametrize(("client", "upstream"), [("v4", "v4"), ("v4", "unix"), ("unix", "unix")])
def test_a_full_upstream_stops_the_reading_and_what_it_has_not_taken_comes_again_too(
    client: str, upstream: str
) -> None:
    replay = 1 << 20
    with rig(client, upstream, replay=replay, spares=1, buffers=8192, mss=1448) as r:
        sent = 0
        for _ in range(60):
            sent += write(r.client, pattern(sent, 100_000))
            r.bench.step()
        assert sent < 500_000, "a full upstream does not stop the client"
        r.bench.wakes()  # the kernels come to rest
        assert r.bench.wakes() == 0
        assert r.up.moved < sent
        reset(r.upstream)
        r.bench.drive(lambda: r.left, "another upstream")
        upper = Reader(r.upstream)
        r.bench.drive(lambda: (upper.read(), len(upper.data) == sent)[1], "all bytes")
        assert bytes(upper.data) == pattern(0, sent)
        assert r.bench.wakes() == 0


@mixes
def test_a_full_upstream_that_reads_on_gets_the_rest(client: str, upstream: str) -> None:
    with rig(client, upstream, replay=1 << 20, buffers=8192, mss=1448) as r:
        sent = 0
        for _ in range(60):
            sent += write(r.client, pattern(sent, 100_000))
            r.bench.step()
        r.client.shutdown(socket.SHUT_WR)
        upper = Reader(r.upstream)
        assert upper.read_to_end(r.bench) == "fin"
        assert bytes(upper.data) == pattern(0, sent)
        assert not r.up.watching


@mixes
def test_a_full_upstream_that_answers_gets_the_rest_by_the_relay(
    client: str, upstream: str
) -> None:
    with rig(client, upstream, replay=1 << 20, buffers=8192, mss=1448) as r:
        sent = 0
        for _ in range(60):
            sent += write(r.client, pattern(sent, 100_000))
            r.bench.step()
        lower, upper = Reader(r.client), Reader(r.upstream)
        carry(r.bench, r.upstream, lower, ANSWER)
        r.client.shutdown(socket.SHUT_WR)
        assert upper.read_to_end(r.bench) == "fin"
        assert bytes(upper.data) == pattern(0, sent)


@mixes
@pytest.mark.parametrize("size", [0, 7, LIMIT])
@pytest.mark.parametrize("finished", [False, True])
def test_a_trial_that_waits_wakes_nobody(
    client: str, upstream: str, size: int, finished: bool
) -> None:
    with rig(client, upstream, replay=LIMIT, spares=1) as r:
        r.client.sendall(pattern(0, size))
        if finished:
            r.client.shutdown(socket.SHUT_WR)
        r.bench.wakes()  # the kernel acknowledges a FIN when it likes, and that is an OUT
        assert r.bench.wakes() == 0
        assert r.up.end == (FINISHED if finished else RUNNING)


def test_a_client_of_single_bytes_leaves_the_others_their_turn() -> None:
    class SingleBytes(socket.socket):
        reads = 0

        def recv_into(self, *arguments: Any) -> int:  # type: ignore[override]
            self.reads += 1
            return super().recv_into(arguments[0], 1, *arguments[2:])

    near, far = socket.socketpair()
    far.setblocking(False)
    slow = SingleBytes(fileno=near.detach())
    slow.setblocking(False)
    ends = (far, slow, *connected("v4"))
    with rig(replay=LIMIT, ends=ends) as r:
        r.client.sendall(pattern(0, 1000))
        most = 0
        while r.up.moved < 1000:
            before = slow.reads
            r.bench.step()
            most = max(most, slow.reads - before)
        assert most <= 2 * parts.trial.READS
        assert r.bench.wakes() == 0


def test_as_many_fds_after_many_trials_as_before(seed: int) -> None:
    choice = random.Random(seed)
    with rig():  # what is made once is there
        before = open_fds()
        bench = Bench()
        for _ in range(60):
            kinds = choice.choice(MIXES)
            r = Rig(bench, *kinds, replay=LIMIT, spares=choice.randint(0, 3))
            r.client.sendall(pattern(0, choice.choice([1, LIMIT, LIMIT + 1])))
            while not r.parted:
                end(r.upstream, choice.choice(["fin", "reset"]))
                there = len(r.left)
                if choice.random() < 0.3:
                    r.client.close()
                bench.settle()
                if len(r.left) == there:
                    r.client.close()
                    bench.drive(lambda r=r: r.parted, "the end of the session")
        bench.close()
        assert open_fds() == before


def test_whatever_upstreams_do_the_last_one_has_every_byte_once(seed: int) -> None:
    print(f"seed: {seed}")
    rounds = int(os.environ.get("SPLICEPROXY_EXAMPLES", "300"))
    for number in range(rounds):
        one_random_session(random.Random(f"{seed} {number}"), number)


def one_random_session(choice: random.Random, number: int) -> None:
    """A client that sends, upstreams that die, and the one that is left, which answers."""
    replay = choice.choice([1, 100, LIMIT, 100_000])
    total = choice.choice([0, 1, replay // 2, replay, replay + 1, 200_000])
    spares = choice.randint(0, 3)
    buffers = choice.choice([None, 8192])
    kinds, mode = choice.choice(MIXES), choice.choice(MODES)
    with rig(*kinds, mode, replay=replay, spares=spares, buffers=buffers, mss=1448) as r:
        sent, finished = 0, False
        deaths = choice.randint(0, spares)
        answer = pattern(777, choice.choice([1, 5000, 300_000]))
        upper, lower = Reader(r.upstream), Reader(r.client)
        asked = 0

        def turn() -> bool:
            nonlocal sent, finished, upper, deaths, asked
            if sent < total:
                most = choice.choice([1, 700, total])
                sent += write(r.client, pattern(sent, min(most, total - sent)))
            elif not finished:
                finished = True
                r.client.shutdown(socket.SHUT_WR)
            if upper.sock is not r.upstream:
                upper = Reader(r.upstream)
            dies = deaths and choice.random() < 0.3
            if dies and r.up.end == RUNNING and len(r.left) == asked and sent <= replay:
                deaths -= 1
                asked += 1
                end(r.upstream, choice.choice(["fin", "reset"]))
            elif r.upstream.fileno() >= 0:
                upper.read(choice.choice([1, 5000, 1 << 20]))
            lost = r.up.end == FINISHED and asked > len(r.left)  # its FIN came after the client's
            return bool(upper.end) or lost or r.parted

        r.bench.drive(turn, f"the end of the upload, session {number}")
        if upper.end == "fin" and upper.sock is r.upstream:
            assert bytes(upper.data) == pattern(0, total), f"session {number}"
            carry(r.bench, r.upstream, lower, answer)
            r.upstream.close()
            assert lower.read_to_end(r.bench) == "fin"
            assert bytes(lower.data) == answer
        else:
            r.bench.settle()
            lower.read()
            assert not lower.data, f"session {number}"
