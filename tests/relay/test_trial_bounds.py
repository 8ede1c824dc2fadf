"""What a trial is bounded by: a full upstream, turns, wake-ups, fds; and a long random look.

Trials that break a rule are in test_mutants.py.
"""

from __future__ import annotations

import os
import random
import socket
from typing import Any

import pytest
from harness.fds import open_fds
from relay_rig import (
    MIXES,
    MODES,
    Bench,
    Reader,
    Rig,
    carry,
    connected,
    parts,
    pattern,
    reset,
    rig,
    write,
)
from test_trial import ANSWER, LIMIT, end, mixes

from spliceproxy.relay.verdicts import FINISHED, RUNNING


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
        carry(r.bench, r.client, upper, b"and more")
        assert bytes(upper.data) == pattern(0, sent) + b"and more"
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
