"""The load, the session records, /metrics and /api/v1 count the same: under reloads exactly, and
when workers are killed to what `worker_died` names."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import threading
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import upstreams
from harness.door import ask
from harness.expositions import Exposed
from harness.proxy import Name, Proxy, running_proxy
from harness.serving import Upstream
from harness.wait import wait_until

WORKERS = 2
VISITORS = 8
Sums = dict[str, int]


@dataclass(slots=True)
class Tally:
    """What one visitor counted."""

    connected: int = 0
    answered: int = 0
    """Sessions of which a byte came back."""
    finished: int = 0
    """Those that came to their end."""
    sent: int = 0
    received: int = 0
    of_broken: int = 0
    """Bytes that came back to sessions that broke."""


class Visitors:
    """Clients that come and go without a pause, each time with another number of bytes."""

    def __init__(self, name: Name, seed: int) -> None:
        self._name = name
        self._leave = threading.Event()
        self.tallies = [Tally() for _ in range(VISITORS)]
        self._threads = [
            threading.Thread(target=self._visit_on, args=(tally, random.Random(seed + number)))
            for number, tally in enumerate(self.tallies)
        ]
        for thread in self._threads:
            thread.start()

    def _visit_on(self, tally: Tally, chance: random.Random) -> None:
        while not self._leave.is_set():
            size = chance.choice((1, 50, 3000, 80_000, 300_000))
            came = 0
            try:
                with socket.create_connection(self._name, 10) as client:  # type: ignore[arg-type]
                    tally.connected += 1
                    client.sendall(bytes(size))
                    tally.sent += size
                    client.shutdown(socket.SHUT_WR)
                    while data := client.recv(65536):
                        came += len(data)
            except OSError:
                pass
            tally.answered += came > 0
            tally.received += came
            if came == size:
                tally.finished += 1
            else:
                tally.of_broken += came

    def leave(self) -> None:
        """Come no more, once what is under way is over."""
        self._leave.set()
        for thread in self._threads:
            thread.join(30)

    def sum(self, name: str) -> int:
        return sum(getattr(tally, name) for tally in self.tallies)


def configuration(directory: Path, one: Upstream, other: Upstream, number: int = 0) -> str:
    """The listener and its pool stay; upstreams, names of routes and listeners come and go."""
    odd, routed, more = number % 2, number % 4 > 1, number % 3
    served = [one.address, other.address] if odd else [one.address]
    routes = [{"source": "127.0.0.0/8", "pool": "app"}]
    listener: dict[str, Any] = {
        "bind": "127.0.0.1:0",
        "pool": "app",
        **({"routes": routes} if routed else {}),
    }
    listeners: dict[str, Any] = {"web": listener}
    pools: dict[str, Any] = {"app": {"upstreams": served, "retries": 1}}
    if more:
        listeners["more"] = {"bind": "127.0.0.1:0", "pool": f"p{number}"}
        pools[f"p{number}"] = {"upstreams": one.address}
    keys = {
        "workers": WORKERS,
        "admin": {"bind": f"unix:{directory}/admin.sock"},
        "health": "off",
        "listeners": listeners,
        "pools": pools,
    }
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in keys.items())


def of_records(proxy: Proxy) -> tuple[Sums, Counter[str], list[dict[str, Any]]]:
    """Sums over the records, how often each `why`, and the obituaries of workers."""
    records = proxy.records()
    lives = [r for r in records if r["why"] != "worker_died"]
    sums = {
        name: sum(record[name] for record in lives)
        for name in ("bytes_up", "bytes_down", "spliced_up", "spliced_down", "retries")
    }
    died = [r for r in records if r["why"] == "worker_died"]
    return {"ended": len(lives), **sums}, Counter(r["why"] for r in lives), died


def of_metrics(exposed: Exposed) -> Sums:
    moved = "spliceproxy_session_bytes_total"
    sums = {f"bytes_{way}": int(exposed.sum(moved, direction=way)) for way in ("up", "down")}
    spliced = {
        f"spliced_{way}": int(exposed.sum(moved, direction=way, path="spliced"))
        for way in ("up", "down")
    }
    return {
        "ended": int(exposed.sum("spliceproxy_sessions_ended_total")),
        **sums,
        **spliced,
        "retries": int(exposed.sum("spliceproxy_retries_total")),
    }


def of_traffic(traffic: dict[str, Any]) -> Sums:
    names = ("ended", "bytes_up", "bytes_down", "spliced_up", "spliced_down", "retries")
    return {name: traffic[name] for name in names}


def traffic_of(directory: Path) -> dict[str, Any]:
    return ask(directory / "admin.sock", "GET", "/api/v1/traffic").json


def metrics(directory: Path) -> Exposed:
    return Exposed(ask(directory / "admin.sock", "GET", "/metrics").body)


def wait_quiet(proxy: Proxy, directory: Path) -> None:
    """Until no session lives, and all that is known of them was written."""

    def told() -> bool:
        sums, _, died = of_records(proxy)
        lost = sum(r["lost_records"] for r in died)
        total = traffic_of(directory)["total"]
        deaths = sum(r["lost"] for r in died)
        return total["sessions"] == 0 and sums["ended"] + lost + deaths == total["ended"]

    wait_until(told, 20, "all sessions to be over, and told")


def test_after_a_run_with_reloads_all_count_the_same(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    with ExitStack() as stack:
        one, other = (stack.enter_context(upstreams.echo()) for _ in range(2))
        proxy = stack.enter_context(
            running_proxy(configuration(tmp_path, one, other), workers=WORKERS)
        )
        visitors = Visitors(proxy.address("web"), seed)
        stack.callback(visitors.leave)
        for number in range(1, 28):
            before = len(proxy.log("reloaded"))
            proxy.config.write_text(configuration(tmp_path, one, other, number))
            proxy.signal(signal.SIGHUP)
            wait_until(lambda before=before: len(proxy.log("reloaded")) > before, 20, "a reload")
        visitors.leave()
        wait_quiet(proxy, tmp_path)
        records, whys, died = of_records(proxy)
        traffic, exposed = traffic_of(tmp_path), metrics(tmp_path)
        assert not died
        load = {
            "ended": visitors.sum("connected"),
            "bytes_up": visitors.sum("sent"),
            "bytes_down": visitors.sum("received"),
        }
        print(f"{load}; {records}; {dict(whys)}")
        assert visitors.sum("finished") == visitors.sum("connected") > 100
        assert {name: records[name] for name in load} == load
        assert of_metrics(exposed) == of_traffic(traffic["total"]) == records
        assert of_traffic(traffic["listeners"]["web"]) == records
        assert of_traffic(traffic["pools"]["app"]) == records
        edges = traffic["edges"]
        assert sum(edge["ended"] for edge in edges) == records["ended"]
        assert sum(edge["bytes_up"] for edge in edges) == records["bytes_up"]
        assert len({edge["route"] for edge in edges}) == 2, "with a route and without"
        assert {edge["upstream"] for edge in edges} == {one.address, other.address}
        assert {end["why"]: end["count"] for end in traffic["ends"]} == whys
        assert sum(worker["records"] for worker in traffic["workers"]) == records["ended"]


def test_when_workers_are_killed_counts_differ_by_what_their_obituaries_name(
    tmp_path: Path,
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with ExitStack() as stack:
        one, other = (stack.enter_context(upstreams.echo()) for _ in range(2))
        proxy = stack.enter_context(
            running_proxy(configuration(tmp_path, one, other, 1), workers=WORKERS)
        )
        visitors = Visitors(proxy.address("web"), seed)
        stack.callback(visitors.leave)
        for kill in range(6):
            began = visitors.sum("finished")
            few = chance.randrange(20, 60)
            wait_until(
                lambda began=began, few=few: visitors.sum("finished") > began + few, 20, "visits"
            )
            os.kill(chance.choice(proxy.worker_pids()), signal.SIGKILL)
            wait_until(lambda kill=kill: len(proxy.log("worker died")) > kill, 10, "a death")
            wait_until(lambda: len(proxy.worker_pids()) == WORKERS, 10, "another worker")
        visitors.leave()
        wait_quiet(proxy, tmp_path)
        records, whys, died = of_records(proxy)
        traffic, exposed = traffic_of(tmp_path), metrics(tmp_path)
        total = of_traffic(traffic["total"])
        lost = sum(one["lost"] for one in died)
        unwritten = sum(one["lost_records"] for one in died)
        print(f"{visitors.tallies}; {records}; {dict(whys)}; {lost=} {unwritten=}")
        assert len(died) == 6
        assert of_metrics(exposed) == total
        ends = {end["why"]: end["count"] for end in traffic["ends"]}
        assert ends.get("worker_died", 0) == lost
        assert total["ended"] == records["ended"] + unwritten + lost
        # Of those that were accepted when the worker was killed, nobody but the client knows.
        assert visitors.sum("answered") <= total["ended"] <= visitors.sum("connected")
        whole = visitors.sum("received") - visitors.sum("of_broken")
        assert whole - lost * 300_000 <= total["bytes_down"]
        assert records["bytes_down"] <= total["bytes_down"] <= visitors.sum("sent")
        assert sum(worker["deaths"] for worker in traffic["workers"]) == 6
