"""Discovery in the whole proxy: real sessions follow DNS, SRV records and lists."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from harness.dns import dns_server
from harness.fds import open_fds
from harness.proxy import Proxy, running_proxy
from harness.upstreams import echo, named
from harness.wait import wait_until

EMPTY = "a pool has no upstream yet: its clients are refused until one is found"


def yaml(server: str, upstreams: str, pool: str = "", more: str = "") -> str:
    return (
        f"{more}\ndns: {{servers: '{server}', min_ttl: 100ms}}\n"
        "listeners: {web: {bind: '127.0.0.1:0', pool: app}}\n"
        f"pools: {{app: {{upstreams: {upstreams}, {pool}}}}}\n"
    )


def answer(proxy: Proxy) -> str:
    """What an upstream says of itself, or nothing where nobody serves."""
    try:
        with proxy.connect("web") as client:
            return client.makefile("rb").read().decode()
    except ConnectionResetError:
        return ""


def echoes(proxy: Proxy) -> bool:
    """Whether somebody answers, who says nothing of himself."""
    try:
        with proxy.connect("web") as client:
            client.sendall(b"x")
            return client.recv(1) == b"x"
    except ConnectionError:
        return False


def whys(proxy: Proxy) -> list[str]:
    return [record["why"] for record in proxy.records()]


def answers(proxy: Proxy, wanted: set[str]) -> bool:
    """Whether the sessions of one round go to all of these and to nobody else."""
    return {answer(proxy) for _ in range(2 * len(wanted))} == wanted


def port(address: str) -> str:
    return address.rpartition(":")[2]


@pytest.mark.parametrize("workers", [1, 2])
def test_sessions_follow_a_changed_answer_and_those_that_run_stay(workers: int) -> None:
    with ExitStack() as stack:
        dns = stack.enter_context(dns_server())
        up = stack.enter_context(echo())
        dns.answer("app.test", A="127.0.0.1", ttl=0)
        text = yaml(dns.address, f"'app.test:{port(up.address)}'")
        proxy = stack.enter_context(running_proxy(text, workers=workers))
        with proxy.connect("web") as old:
            old.sendall(b"one")
            assert old.recv(10) == b"one"
            dns.answer("app.test", A="127.0.0.2", ttl=0)
            said = proxy.wait_log("upstreams changed")
            assert said["changes"] == [
                f"+ 127.0.0.2:{port(up.address)}",
                f"- 127.0.0.1:{port(up.address)}",
            ]
            assert (said["pool"], said["ttl"]) == ("app", 0.1)
            # Nobody serves at the new address; workers hear of it a moment after the log.
            wait_until(lambda: not echoes(proxy), 10, "a session that is refused")
            old.sendall(b"two")
            assert old.recv(10) == b"two"
        wait_until(lambda: len(set(whys(proxy))) == 2, 10, "the records of both")
        ended = whys(proxy)
    assert set(ended) == {"connect_refused", "done"}
    assert ended.count("connect_refused") == 1


def test_a_proxy_starts_without_an_answer_and_serves_when_it_comes() -> None:
    with ExitStack() as stack:
        dns, up = stack.enter_context(dns_server()), stack.enter_context(named("one"))
        dns.misbehave("app.test", "silence")
        began = time.monotonic()
        text = yaml(dns.address, f"'app.test:{port(up.address)}'", more="health: {interval: 100ms}")
        proxy = stack.enter_context(running_proxy(text))
        print(f"ready after {time.monotonic() - began:.1f} s")
        assert proxy.log(EMPTY)[0]["wanted"] == [f"app.test:{port(up.address)}"]
        assert answer(proxy) == ""
        [record] = proxy.wait_records(1)
        assert record["why"] == "no_upstream"
        dns.answer("app.test", A="127.0.0.1")
        wait_until(lambda: answer(proxy) == "one", 30, "the answer")
        # Found later: it was checked before it got a session.
        assert proxy.log("upstream up")[0]["upstream"] == up.address


def test_an_unknown_name_at_the_start_is_a_warning_and_the_other_upstreams_serve() -> None:
    with ExitStack() as stack:
        dns, up = stack.enter_context(dns_server()), stack.enter_context(named("one"))
        text = yaml(dns.address, f"['nosuch.test:80', '{up.address}', 'file:/nosuch/list.yaml']")
        began = time.monotonic()
        proxy = stack.enter_context(running_proxy(text))
        assert time.monotonic() - began < 2 + 3
        assert {answer(proxy) for _ in range(4)} == {"one"}
        assert proxy.log("a name cannot be looked up")[0]["reason"] == "there is no such name"
        assert proxy.log("a list of upstreams cannot be used: the last good one stays")


def test_srv_records_bring_ports_and_the_second_priority_is_a_backup() -> None:
    with ExitStack() as stack:
        dns = stack.enter_context(dns_server())
        one, two, three = (stack.enter_context(named(name)) for name in ("one", "two", "three"))
        dns.answer("host.test", A="127.0.0.1")
        records = [
            f"10 3 {port(one.address)} host.test.",
            f"10 1 {port(two.address)} host.test.",
            f"20 1 {port(three.address)} host.test.",
        ]
        dns.answer("_app._tcp.test", SRV=records, ttl=0)
        proxy = stack.enter_context(running_proxy(yaml(dns.address, "'srv:_app._tcp.test'")))
        got = [answer(proxy) for _ in range(40)]
        assert (got.count("one"), got.count("two")) == (30, 10)
        dns.answer("_app._tcp.test", SRV=records[2:], ttl=0)
        wait_until(lambda: answers(proxy, {"three"}), 10, "the backup")


def test_a_list_is_followed_and_workers_hear_only_of_changes(tmp_path: Path) -> None:
    path = tmp_path / "app.yaml"
    with ExitStack() as stack:
        dns = stack.enter_context(dns_server())
        one, two = stack.enter_context(named("one")), stack.enter_context(named("two"))
        dns.answer("host.test", A="127.0.0.1", ttl=0)
        path.write_text(f"- host.test:{port(one.address)}\n")
        proxy = stack.enter_context(running_proxy(yaml(dns.address, f"'file:{path}'"), workers=2))
        assert answers(proxy, {"one"})
        asked = dns.asked("host.test")
        path.write_text(f"# another word\n- host.test:{port(one.address)}\n")
        wait_until(lambda: dns.asked("host.test") > asked + 5, 10, "more questions")
        assert not proxy.log("upstreams changed")
        path.write_text(f"- host.test:{port(one.address)}\n- {two.address}\n")
        proxy.wait_log("upstreams changed")
        wait_until(lambda: answers(proxy, {"one", "two"}), 10, "both")
        path.unlink()
        proxy.wait_log("a list of upstreams cannot be used: the last good one stays")
        assert answers(proxy, {"one", "two"})
        assert len(proxy.log("upstreams changed")) == 1
        victims = proxy.worker_pids()
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        wait_until(
            lambda: len(proxy.log("worker started")) == 4 and len(proxy.worker_pids()) == 2,
            10,
            "new workers",
        )
        wait_until(lambda: answers(proxy, {"one", "two"}), 10, "what the dead ones knew")


def test_changes_leave_as_many_fds_as_before(tmp_path: Path) -> None:
    path = tmp_path / "app.yaml"
    with named("one") as one, named("two") as two, dns_server() as dns:
        lists = [f"- {one.address}\n", f"- {one.address}\n- {two.address}\n"]
        path.write_text(lists[0])
        with running_proxy(yaml(dns.address, f"'file:{path}'")) as proxy:

            def fds() -> list[int]:
                return [len(open_fds(pid)) for pid in (proxy.pid, *proxy.worker_pids())]

            def changed(times: int) -> bool:
                return len(proxy.log("upstreams changed")) == times

            before = fds()
            for n in range(1, 11):
                path.write_text(lists[n % 2])
                wait_until(partial(changed, n), 10, "the change")
            wait_until(lambda: fds() == before, 10, "as many fds as before")


def test_a_reload_with_a_new_unknown_name_is_put_in_force() -> None:
    with ExitStack() as stack:
        dns, up = stack.enter_context(dns_server()), stack.enter_context(named("one"))
        text = yaml(dns.address, f"'{up.address}'")
        proxy = stack.enter_context(running_proxy(text))
        more = proxy.config.read_text().replace(
            f"'{up.address}'", f"['{up.address}', 'new.test:1']"
        )
        proxy.config.write_text(more)
        proxy.signal(signal.SIGHUP)
        said = proxy.wait_log("reloaded")
        assert said["changes"] == ["~ pool app: + upstream new.test:1"]
        assert proxy.log("a name cannot be looked up")[0]["name"] == "new.test"
        assert {answer(proxy) for _ in range(4)} == {"one"}
        dns.answer("new.test", A="127.0.0.9")
        assert proxy.wait_log("upstreams changed")["changes"] == ["+ 127.0.0.9:1"]


def test_a_reload_that_fails_leaves_the_names_as_they_were() -> None:
    with ExitStack() as stack:
        dns = stack.enter_context(dns_server())
        dns.answer("one.test", A="127.0.0.1", ttl=0)
        dns.answer("two.test", A="127.0.0.1", ttl=0)
        proxy = stack.enter_context(running_proxy(yaml(dns.address, "'one.test:1'")))
        text = proxy.config.read_text()
        text = text.replace("one.test", "two.test").replace("127.0.0.1:0", "192.0.2.1:80")
        proxy.config.write_text(text)
        proxy.signal(signal.SIGHUP)
        proxy.wait_log("not reloaded: nothing has changed")
        asked = dns.asked("two.test"), dns.asked("one.test")
        wait_until(lambda: dns.asked("one.test") > asked[1] + 3, 10, "more questions")
        assert dns.asked("two.test") <= asked[0] + 1


def test_it_stops_at_once_while_dns_is_silent() -> None:
    with dns_server() as dns:
        dns.misbehave("app.test", "silence")
        with running_proxy(yaml(dns.address, "'app.test:1'")) as proxy:
            began = time.monotonic()
            proxy.terminate()
            assert proxy.wait() == 0
            assert time.monotonic() - began < 2
