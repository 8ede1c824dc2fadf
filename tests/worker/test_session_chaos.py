"""Queue, replay, drains over a time and reloads at once: no byte is wrong, and no count is left."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from harness import upstreams
from harness.door import request
from harness.fds import fd_kinds
from harness.load import read_exactly
from harness.serving import Upstream, reset, serving
from harness.wait import wait_until
from session_support import board_of, proxy_yaml, running_proxy

SECONDS = 8.0
SIZES = (1, 1000, 16 * 1024 - 9, 16 * 1024 - 8, 100_000)
"""Of bodies, behind 8 bytes of header; one that `replay` just keeps and one that it does not."""


def body(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def moody(sock: socket.socket, _upstream: Upstream) -> str:
    """Answers with what it was sent, or ends early. Returns what was wrong."""
    mood = random.random()
    if mood < 0.1:
        return ""
    if mood < 0.2:
        sock.recv(100)
        reset(sock)
        return ""
    if mood < 0.4:
        time.sleep(mood)  # busy: the others wait for its place
    with suppress(OSError):
        head = read_exactly(sock, 8)
        seed, size = int.from_bytes(head[:4], "big"), int.from_bytes(head[4:], "big")
        data = read_exactly(sock, size)
        if len(head) == 8 and data != body(seed, size)[: len(data)]:
            return f"other bytes, seed {seed}"
        if len(data) == size:
            sock.sendall(data)
    return ""


def one_client(name: Any, seed: int) -> str:
    """Returns how it went; `wrong` tells that it should not have."""
    rng = random.Random(seed)
    size = rng.choice(SIZES)
    want, got = body(seed, size), b""
    try:
        with socket.create_connection(name, 10) as client:
            client.settimeout(20)
            client.sendall(seed.to_bytes(4, "big") + size.to_bytes(4, "big") + want)
            if rng.random() < 0.1:
                reset(client)
                return "gone"
            while more := client.recv(65536):
                got += more
    except TimeoutError:
        return f"wrong: seed {seed} waits for ever after {len(got)} bytes"
    except OSError:
        return "reset" if want.startswith(got) else f"wrong: seed {seed}, before a reset"
    return "done" if got == want else "nothing" if not got else f"wrong: seed {seed}, cut by FIN"


def some_pool(rng: random.Random, addresses: Sequence[str]) -> dict[str, Any]:
    chosen = rng.sample(addresses, rng.randint(2, len(addresses)))
    return {
        "upstreams": [
            {"address": one, "max_sessions": rng.choice([2, 5]), "tier": rng.choice([0, 0, 1])}
            for one in chosen
        ],
        "balance": rng.choice(["round_robin", "least_sessions", "random", "source_hash"]),
        "on_remove": rng.choice(["reset", "keep"]),
        "queue": rng.choice(
            [{"size": 50, "timeout": "1s"}, {"when": "full_or_down", "timeout": "500ms"}, "off"]
        ),
        "replay": rng.choice(["off", "1KiB", "16KiB"]),
        "slow_start": rng.choice(["off", "1s"]),
        "eject": "off",
        "timeouts": {"connect": "300ms", "session": "8s"},
    }


def test_no_byte_is_wrong_and_no_count_is_left_after_all_at_once(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    door, seeds, over = tmp_path / "door", iter(range(1, 10**9)), threading.Event()
    with ExitStack() as stack:
        moodies = [stack.enter_context(serving("v4", moody)) for _ in range(4)]
        dead = stack.enter_context(upstreams.refuse()).address
        addresses = [*(one.address for one in moodies), dead]
        text = proxy_yaml(pool=some_pool(rng, addresses), admin={"bind": f"unix:{door}"}, workers=2)
        proxy = stack.enter_context(running_proxy(text))
        board = stack.enter_context(board_of(proxy, 2))
        workers = proxy.worker_pids()
        name = proxy.address("web")

        def clients() -> Counter[str]:
            ends: Counter[str] = Counter()
            while not over.is_set():
                ends[one_client(name, next(seeds))] += 1
            return ends

        def sockets() -> list[int]:
            return [fd_kinds(pid)["socket"] for pid in workers]

        before = sockets()
        with ThreadPoolExecutor(24) as threads:
            running = [threads.submit(clients) for _ in range(24)]
            until = time.monotonic() + SECONDS
            try:
                while time.monotonic() < until:
                    target = rng.choice(["pool/app", f"pool/app/{rng.choice(addresses)}"])
                    if rng.random() < 0.5:
                        lines = [
                            one for one in text.splitlines(True) if not one.startswith("pools")
                        ]
                        pools = {"app": some_pool(rng, addresses)}
                        kept = [one for one in lines if "admin" in one or "listeners" in one]
                        proxy.config.write_text(
                            "".join(["workers: 2\nhealth: off\n", *kept])
                            + f"pools: {json.dumps(pools)}\n"
                        )
                        assert request(door, "POST", "/api/v1/reload")[0] == 200
                    else:
                        over_ = {"target": target, "over": rng.choice([0, 0.2, 1])}
                        request(door, "POST", "/api/v1/drain", over_)
                    over.wait(rng.random() * 0.3)
                    request(door, "POST", "/api/v1/undrain", {"target": target})
            finally:
                over.set()
            ends = sum((one.result() for one in running), Counter[str]())
        print(ends, Counter(one["why"] for one in proxy.records()))
        assert not [end for end in ends if end.startswith("wrong")]
        assert ends["done"] > 50
        assert not [one for each in moodies for one in each.results if one]
        words = [*board.upstreams.sessions, *board.upstreams.waiting]
        wait_until(lambda: not any(any(counts[:100]) for counts in words), 15, "no count is left")
        wait_until(lambda: sockets() == before, 10, "the same sockets as before")
        assert proxy.worker_pids() == workers
        assert not [one for one in proxy.log() if "mistake" in one["event"]]
