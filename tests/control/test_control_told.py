"""What an operator wants to know of is one line of the log each, in words that stay the same."""

from __future__ import annotations

import json
import os
import signal

from harness.proxy import Event, Proxy, running_proxy
from harness.upstreams import Upstream, named
from harness.wait import wait_until

FAST = {"interval": "50ms", "timeout": "1s", "rise": 1, "fall": 1}


def yaml(upstreams: list[object], *listeners: str, level: str = "info") -> str:
    pool = {"upstreams": upstreams, "health": FAST, "slow_start": "300ms"}
    keys = {
        "log": {"level": level},
        "listeners": {name: {"bind": "127.0.0.1:0", "pool": "app"} for name in listeners},
        "pools": {"app": pool},
    }
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in keys.items())


def lines_since(proxy: Proxy, count: int, last: str) -> list[Event]:
    """The lines after the first `count`, once one of them is `last`."""

    def told() -> list[Event]:
        lines = proxy.log()[count:]
        return lines if any(line["event"] == last for line in lines) else []

    return wait_until(told, 15, f"{last!r} in the log")


def events(lines: list[Event]) -> list[tuple[str, str]]:
    return [(line["level"], line["event"]) for line in lines]


def test_an_upstream_that_goes_and_comes_back_and_its_pool() -> None:
    with named("x") as first, named("y") as second:
        tiers = [first.address, {"address": second.address, "tier": 1}]
        with running_proxy(yaml(tiers, "web")) as proxy:
            began = len(proxy.log())
            first.stop()
            gone = lines_since(proxy, began, "pool on another tier")
            assert events(gone) == [
                ("warning", "upstream down"),
                ("warning", "pool on another tier"),
            ]
            second.stop()
            down = lines_since(proxy, began + 2, "pool down: none of its upstreams can be used")
            assert events(down)[0] == ("warning", "upstream down")
            assert events(down)[1][0] == "error"
            first.start()
            back = lines_since(proxy, began + 4, "slow start over")
            assert sorted(events(back)) == [
                ("info", "pool up"),
                ("info", "slow start"),
                ("info", "slow start over"),
                ("info", "upstream up"),
            ]
            assert {line["pool"] for line in gone + down + back} == {"app"}
            names = {line["upstream"] for line in gone + back if "upstream" in line}
            assert names == {first.address}


def test_a_worker_that_dies_and_the_next_one() -> None:
    with named("x") as upstream, running_proxy(yaml([upstream.address], "web")) as proxy:
        began = len(proxy.log())
        [pid] = proxy.worker_pids()
        os.kill(pid, signal.SIGKILL)
        lines = lines_since(proxy, began, "worker ready")
        assert events(lines) == [
            ("error", "worker died"),
            ("info", "worker started"),
            ("info", "worker ready"),
        ]
        assert lines[0]["pid"] == pid
        assert lines[1]["pid"] == lines[2]["pid"] != pid


def reload(proxy: Proxy, upstream: Upstream, *listeners: str) -> list[Event]:
    """The lines of a reload to these listeners."""
    began = len(proxy.log())
    head = [
        line for line in proxy.config.read_text().splitlines() if line.startswith(("wor", "adm"))
    ]
    proxy.config.write_text("\n".join([*head, "health: off", yaml([upstream.address], *listeners)]))
    proxy.signal(signal.SIGHUP)
    return lines_since(proxy, began, "reloaded")


def test_listeners_that_open_and_close() -> None:
    with named("x") as upstream, running_proxy(yaml([upstream.address], "a"), workers=2) as proxy:
        [a] = proxy.addresses("a")
        lines = reload(proxy, upstream, "a", "b")
        assert events(lines) == [("info", "listening"), ("info", "reloaded")]
        lines = reload(proxy, upstream, "b")
        assert events(lines) == [("info", "not listening any more"), ("info", "reloaded")]
        assert (lines[0]["listener"], lines[0]["address"]) == ("a", a)
        assert lines[1]["changes"] == ["- listener a"]


def test_files_of_records_that_are_opened_anew() -> None:
    with named("x") as upstream, running_proxy(yaml([upstream.address], "web")) as proxy:
        began = len(proxy.log())
        proxy.signal(signal.SIGUSR1)
        lines = lines_since(proxy, began, "files of session records are opened anew")
        assert events(lines) == [("info", "files of session records are opened anew")]


def test_each_health_check_where_somebody_wants_to_know() -> None:
    text = yaml(["127.0.0.1:9"], "web", level="debug")
    with running_proxy(text) as proxy:
        check = proxy.wait_log("health check")
        assert (check["level"], check["pool"], check["passed"]) == ("debug", "app", False)
        assert check["reason"] == proxy.wait_log("upstream down")["reason"]
