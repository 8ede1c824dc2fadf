"""After thousands of sessions, many of them reset, a worker has the fds that it had before."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from harness.fds import fd_kinds
from harness.load import read_to_end
from harness.proxy import Name, connect, running_proxy
from harness.serving import reset
from harness.wait import wait_until
from peer_process import ANSWER
from real_programs import bind_text, need_fds, peer, web

SESSIONS = 20_000
RESETS = 2_000
CLIENTS = 8
MAX_PIPES = 4


def short_session(name: Name, size: int) -> bool:
    """Ask for `size` bytes; whether they came, and nothing that was meant for another."""
    with connect(name) as sock:
        sock.sendall(b"%d\n" % size)
        return read_to_end(sock) == ANSWER[:size]


def reset_session(name: Name, size: int, moment: float) -> None:
    """The same, but reset when the share `moment` of it is done; 0 is right after connect."""
    with connect(name) as sock, suppress(ConnectionError):
        if moment > 0.1:
            sock.sendall(b"%d\n" % size)
        left = size * moment if moment > 0.2 else 0.0
        while left > 0:
            left -= len(sock.recv(min(65536, int(left) + 1))) or size
        reset(sock)


def client(name: Name, seed: int) -> int:
    """One client's share of all sessions, one after another; how many went wrong."""
    chance = random.Random(seed)
    number = SESSIONS // CLIENTS
    to_reset = set(chance.sample(range(number), RESETS // CLIENTS))
    wrong = 0
    for index in range(number):
        # Most are small and copied; some are so large that a pipe holds a part of them.
        size = chance.randrange(200_000, len(ANSWER)) if chance.random() < 0.02 else 1000
        if index in to_reset:
            reset_session(name, len(ANSWER) if index % 4 == 0 else size, chance.random())
        elif not short_session(name, size):
            wrong += 1
    return wrong


@pytest.mark.parametrize(("near", "far"), [("v4", "v4"), ("unix", "unix")])
def test_fds_are_the_same_after_twenty_thousand_sessions_and_two_thousand_resets(
    near: str, far: str, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    need_fds(1024)
    bind = bind_text(near, tmp_path_factory.mktemp("fds"))
    # Small buffers, so that a client that stops reading leaves bytes in a pipe.
    more = f"relay: {{max_pipes: {MAX_PIPES}}}\ntcp: {{buffers: {{send: 64KiB}}}}"
    with (
        peer("answer", far) as upstream,
        running_proxy(web(upstream, bind, more)) as proxy,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        [worker] = proxy.worker_pids()
        name = proxy.address("web")
        assert short_session(name, 1000)
        proxy.wait_records(1)
        before = {pid: fd_kinds(pid) for pid in (worker, proxy.pid)}
        before[worker].pop("pipe", None)
        began = time.monotonic()
        wrong = sum(pool.map(client, [name] * CLIENTS, range(seed, seed + CLIENTS)))
        seconds = time.monotonic() - began
        records = proxy.wait_records(SESSIONS + 1, 60)
        ends = {why: [r["why"] for r in records].count(why) for why in {r["why"] for r in records}}
        print(f"seed {seed}: {SESSIONS} sessions in {seconds:.1f} s, {ends}")
        assert wrong == 0
        assert len(records) == SESSIONS + 1
        assert proxy.worker_pids() == [worker]

        def same() -> bool:
            after = {pid: fd_kinds(pid) for pid in before}
            pipes = after[worker].pop("pipe", 0)
            return after == before and pipes % 2 == 0 and pipes <= 2 * MAX_PIPES

        wait_until(same, 10, f"the fds of before: {before}, now {fd_kinds(worker)}")
        assert ends["done"] >= SESSIONS - RESETS
        if near != "unix":
            assert ends["client_reset"] >= RESETS // 2
