"""control/reload.py with real workers: a new configuration in a running proxy, all or nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
from harness.fds import open_fds
from harness.ports import free_port
from harness.proxy import Event, Proxy, connect, refused, running_proxy
from harness.upstreams import Upstream, echo, named
from harness.wait import wait_until

from spliceproxy.control.slots import UpstreamSlots
from spliceproxy.telemetry.board import MAX_LISTENERS

both_crews = pytest.mark.parametrize("workers", [1, 2])


def yaml(pool: str, listeners: str = "web", more: str = "") -> str:
    """Listeners on free ports, all of them with the pool `app`."""
    lines = [f"  {name}: {{bind: '127.0.0.1:0', pool: app}}" for name in listeners.split()]
    return "\n".join([more, "listeners:", *lines, "pools:", f"  app: {{upstreams: [{pool}]}}", ""])


def reload(proxy: Proxy, text: str, event: str = "reloaded") -> Event:
    """Write a configuration, have it read, and return what the log says of it."""
    before = len(proxy.log(event))
    proxy.config.write_text(f"{head(proxy)}\n{text}")
    proxy.signal(signal.SIGHUP)
    return wait_until(lambda: proxy.log(event)[before:], 10, f"{event!r}")[0]


def head(proxy: Proxy) -> str:
    """The lines that running_proxy put on top."""
    lines = proxy.config.read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith(("workers:", "health:", "admin:")))


def answer(proxy: Proxy, listener: str) -> str:
    with proxy.connect(listener) as client:
        return client.makefile("rb").read().decode()


@contextmanager
def two_named() -> Iterator[tuple[Upstream, Upstream]]:
    with named("one") as one, named("two") as two:
        yield one, two


@both_crews
def test_upstreams_come_and_go_and_new_sessions_see_it(workers: int) -> None:
    with two_named() as (one, two), running_proxy(yaml(one.address), workers=workers) as proxy:
        assert {answer(proxy, "web") for _ in range(8)} == {"one"}
        said = reload(proxy, yaml(f"{one.address}, {two.address}"))
        assert said["changes"] == [f"~ pool app: + upstream {two.address}"]
        assert {answer(proxy, "web") for _ in range(8 * workers)} == {"one", "two"}
        reload(proxy, yaml(two.address))
        assert {answer(proxy, "web") for _ in range(8)} == {"two"}


@both_crews
def test_listeners_come_and_go_and_their_sessions_stay(workers: int) -> None:
    with echo() as up, running_proxy(yaml(up.address), workers=workers) as proxy:
        web = proxy.address("web")
        with proxy.connect("web") as old:
            said = reload(proxy, yaml(up.address, "db"))
            assert said["changes"] == ["- listener web", "+ listener db"]
            wait_until(partial(refused, web), 10, "the end of web")
            with proxy.connect("db") as new:
                for client in (old, new):
                    client.sendall(b"still here")
                    assert client.recv(100) == b"still here"
        records = proxy.wait_records(2)
    assert sorted(record["listener"] for record in records) == ["db", "web"]
    assert {record["why"] for record in records} == {"done"}


def test_a_kept_address_keeps_its_queue_when_its_listener_has_another_name() -> None:
    port = free_port()
    with ExitStack() as stack:
        one = stack.enter_context(named("one"))
        text = yaml(one.address).replace("127.0.0.1:0", f"127.0.0.1:{port}")
        proxy = stack.enter_context(running_proxy(text))
        [worker] = proxy.worker_pids()
        os.kill(worker, signal.SIGSTOP)
        waiting = [connect(("127.0.0.1", port)) for _ in range(20)]
        before = len(proxy.log("reloaded"))
        proxy.config.write_text(f"{head(proxy)}\n{text.replace('web:', 'site:')}")
        proxy.signal(signal.SIGHUP)
        os.kill(worker, signal.SIGCONT)
        wait_until(lambda: proxy.log("reloaded")[before:], 10, "reloaded")
        for client in waiting:
            with client:
                assert client.makefile("rb").read() == b"one"
        with connect(("127.0.0.1", port)) as client:
            assert client.makefile("rb").read() == b"one"
        assert proxy.wait_records(21)[-1]["listener"] == "site"


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("listeners: {", "app.yaml:4:"),
        (yaml("127.0.0.1:1", more="timeout: {idle: 1s}"), "timeout: unknown key"),
        (yaml("127.0.0.1:1").replace("127.0.0.1:0", "no.such.invalid:80"), "no.such.invalid"),
        (yaml("127.0.0.1:1", "web").replace("127.0.0.1:0", "192.0.2.1:80"), "192.0.2.1:80"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_changes(bad: str, told: str) -> None:
    with named("one") as one, running_proxy(yaml(one.address)) as proxy:
        said = reload(proxy, bad, "not reloaded: nothing has changed")
        assert told in "\n".join(said["problems"])
        assert answer(proxy, "web") == "one"
        fds = len(open_fds(proxy.pid))
        reload(proxy, bad, "not reloaded: nothing has changed")
        assert len(open_fds(proxy.pid)) == fds


def test_an_address_that_was_given_up_can_be_had_again_at_once() -> None:
    port = free_port()
    with named("one") as one, running_proxy(yaml(one.address)) as proxy:
        both = yaml(one.address, "web db").replace(
            "db: {bind: '127.0.0.1:0'", f"db: {{bind: '127.0.0.1:{port}'"
        )
        for _ in range(3):
            reload(proxy, both)
            reload(proxy, yaml(one.address))
        reload(proxy, both)
        with connect(("127.0.0.1", port)) as client:
            assert client.makefile("rb").read() == b"one"
        assert not proxy.log("not reloaded: nothing has changed")


def test_what_needs_a_restart_is_named_and_the_rest_is_done() -> None:
    with two_named() as (one, two), running_proxy(yaml(one.address)) as proxy:
        said = reload(proxy, yaml(two.address, more="relay: {mode: splice}"))
        assert "~ relay.mode adaptive → splice (needs spliceproxy upgrade)" in said["changes"]
        warning = proxy.wait_log("these keys need spliceproxy upgrade, and stay as they are")
        assert warning["keys"] == ["relay.mode"]
        assert answer(proxy, "web") == "two"


def test_an_unchanged_file_says_so() -> None:
    with named("one") as one, running_proxy(yaml(one.address)) as proxy:
        assert reload(proxy, yaml(one.address))["changes"] == ["nothing changed"]


@both_crews
def test_a_worker_that_is_killed_after_a_reload_comes_back_with_the_new_one(workers: int) -> None:
    with two_named() as (one, two), running_proxy(yaml(one.address), workers=workers) as proxy:
        reload(proxy, yaml(two.address, "web db"))
        victims = proxy.worker_pids()
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        wait_until(
            lambda: (
                len(proxy.worker_pids()) == workers and not set(victims) & set(proxy.worker_pids())
            ),
            10,
            "new workers",
        )
        assert {answer(proxy, name) for name in ("web", "db") for _ in range(6)} == {"two"}


def test_systemd_hears_of_a_reload() -> None:
    with named("one") as one, running_proxy(yaml(one.address), notify=True) as proxy:
        proxy.notifications()
        reload(proxy, yaml(one.address, "web db"))
        told = "\n".join(proxy.notifications())
    assert told.index("RELOADING=1\nMONOTONIC_USEC=") < told.index("READY=1")


def test_many_reloads_leave_as_many_fds_as_before() -> None:
    with named("one") as one, running_proxy(yaml(one.address)) as proxy:

        def fds() -> list[int]:
            return [len(open_fds(pid)) for pid in (proxy.pid, *proxy.worker_pids())]

        reload(proxy, yaml(one.address, "web db"))
        reload(proxy, yaml(one.address))
        wait_until(lambda: not _retiring(proxy), 10, "the retired socket's end")
        before = fds()
        for _ in range(10):
            reload(proxy, yaml(one.address, "web db"))
            reload(proxy, yaml(one.address))
        wait_until(lambda: fds() == before, 10, "as many fds as before")


def _retiring(proxy: Proxy) -> bool:
    """Whether a listening socket is open that lets nobody in."""
    last = proxy.addresses("db")[-1]
    port = int(last.rpartition(":")[2])
    text = Path("/proc/net/tcp").read_text()
    return f":{port:04X} 00000000:0000 0A" in text


def test_slots_of_listeners_stay_over_reloads_and_are_taken_again_last() -> None:
    slots = UpstreamSlots()
    names = [f"l{n}" for n in range(MAX_LISTENERS)]
    first = {name: slots.listener_slot(name, names) for name in names[:-1]}
    assert len(set(first.values())) == MAX_LISTENERS - 1
    assert slots.listener_slot("new", names[1:]) not in first.values()
    assert slots.listener_slot("another", names[1:]) == first["l0"]
    assert all(slots.listener_slot(name, names[1:]) == first[name] for name in names[1:-1])


def test_ten_thousand_upstreams_are_reloaded_within_a_second() -> None:
    many = [f"127.0.{n >> 8}.{n & 255}:9" for n in range(1, 10_001)]
    with named("one") as one, running_proxy(yaml(", ".join([one.address, *many]))) as proxy:
        said = reload(proxy, yaml(", ".join([one.address, *many[1:]])))
        print(f"{said['milliseconds']} ms")
        assert said["changes"] == [f"~ pool app: - upstream {many[0]}"]
