"""The monitor with real upstreams: what workers are told, and what is logged."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

import pytest
from harness import upstreams
from harness.health import FAST, rig, run
from harness.proxy import running_proxy
from harness.serving import FAMILIES, Handler, Upstream, hold, serving


def say(text: bytes) -> Handler:
    """A handler that speaks first, then reads to the end."""

    def handler(sock: socket.socket, _upstream: Upstream) -> bytes:
        sock.sendall(text)
        return read_all(sock)

    return handler


def read_all(sock: socket.socket) -> bytes:
    """All that comes up to the FIN. A reset raises, and stands in `upstream.errors`."""
    received = b""
    while data := sock.recv(65536):
        received += data
    return received


@pytest.mark.parametrize("family", FAMILIES)
def test_an_upstream_that_goes_away_is_down_and_up_again_when_it_is_back(
    family: str, seed: int
) -> None:
    async def test() -> None:
        async with rig(seed) as it:
            with upstreams.echo(family) as echo:
                it.apply(FAST, echo.address)
                await it.wait(lambda: echo.accepted >= 3, "three checks")
                assert not it.down(echo.address)
                echo.stop()
                line = await it.wait_log("upstream down", pool="app", upstream=echo.address)
                expected = "no such socket" if family == "unix" else "connection refused"
                assert (line["reason"], line["check"]) == (expected, "tcp")
                assert line["up_seconds"] > 0
                assert it.down(echo.address)
                echo.start()
                line = await it.wait_log("upstream up", pool="app", upstream=echo.address)
                assert (line["reason"], line["down_seconds"] > 0) == ("connected", True)
                assert not it.down(echo.address)
                assert not echo.errors
            assert [one["event"] for one in it.lines] == ["upstream down", "upstream up"]

    run(test)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("greeting", [b"", b"220 hello\r\n", bytes(100_000)])
def test_a_tcp_check_ends_without_a_reset(family: str, greeting: bytes, seed: int) -> None:
    async def test() -> None:
        async with rig(seed) as it:
            with serving(family, say(greeting)) as upstream:
                it.apply(FAST, upstream.address)
                await it.wait(lambda: len(upstream.results) >= 5, "five checks")
                assert upstream.errors == []
                assert set(upstream.results) == {b""}

    run(test)


def test_at_the_start_an_upstream_is_up_and_its_first_check_decides(seed: int) -> None:
    async def test() -> None:
        async with rig(seed) as it:
            with upstreams.refuse() as dead, serving("v4", hold) as silent:
                slow = {"check": "redis", "interval": "60s", "timeout": "200ms", "fall": 5}
                it.apply(slow, dead.address, silent.address)
                assert not it.down(dead.address)
                began = time.monotonic()
                await it.wait_log("upstream down", upstream=dead.address)
                line = await it.wait_log("upstream down", upstream=silent.address)
                assert line["reason"] == "timeout after 0.2 s"
                assert time.monotonic() - began < 2.0

    run(test)


def test_an_upstream_that_comes_later_is_down_until_its_first_pass(seed: int) -> None:
    async def test() -> None:
        async with rig(seed) as it:
            with upstreams.echo() as old, upstreams.echo() as new, upstreams.refuse() as dead:
                slow = {**FAST, "rise": 100}
                it.apply(slow, old.address)
                it.apply(slow, old.address, new.address, dead.address)
                assert (it.down(old.address), it.down(new.address)) == (False, True)
                await it.wait_log("upstream up", upstream=new.address)
                await it.wait_log("upstream down", upstream=dead.address)
                assert (it.down(new.address), it.down(dead.address)) == (False, True)

    run(test)


def test_a_reload_keeps_the_state_of_what_stays_and_forgets_what_leaves(seed: int) -> None:
    async def test() -> None:
        async with rig(seed) as it:
            with upstreams.refuse() as dead, upstreams.echo() as gone:
                it.apply(FAST, dead.address, gone.address)
                await it.wait_log("upstream down", upstream=dead.address)
                it.apply({**FAST, "check": "smtp"}, dead.address)
                assert it.down(dead.address)
                checks = gone.accepted
                await it.wait(lambda: gone.open_connections == 0, "its last check's end")
                it.apply({**FAST, "rise": 5}, dead.address)
                assert it.down(dead.address)
                it.apply("off", dead.address)
                assert not it.down(dead.address)
                it.apply(FAST, dead.address)
                assert not it.down(dead.address), "it served before it was checked"
                await it.wait_log("upstream down", count=2, upstream=dead.address)
                assert gone.accepted <= checks + 1

    run(test)


def test_many_upstreams_with_few_checks_at_once_come_later_and_that_is_said_once(
    seed: int,
) -> None:
    async def test() -> None:
        async with rig(seed, most=4) as it:
            with ExitStack() as stack:
                silent = [stack.enter_context(serving("v4", hold)) for _ in range(24)]
                names = [upstream.address for upstream in silent]
                it.apply({"check": "redis", "interval": "50ms", "timeout": "100ms"}, *names)
                late = await it.wait_log("health checks cannot keep their intervals and come later")
                assert late["upstreams"] == 24
                await it.wait(lambda: all(map(it.down, names)), "all of them down")
                await it.wait(lambda: all(one.accepted > 3 for one in silent), "more checks")
            assert sum("cannot keep" in one["event"] for one in it.lines) == 1

    run(test)


def test_what_this_machine_lacks_takes_no_upstream_down(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with rig(seed) as it:
            with upstreams.echo() as echo:

                def full(*_arguments: object) -> socket.socket:
                    raise OSError(24, "Too many open files")

                with monkeypatch.context() as patch:
                    patch.setattr("spliceproxy.control.health.connection.Dial.open", full)
                    it.apply({**FAST, "fall": 1}, echo.address)
                    line = await it.wait_log(
                        "a health check could not be made; it counts for nothing"
                    )
                    assert line["reason"] == "too many open files"
                await it.wait(lambda: echo.accepted >= 2, "checks, now that there are fds")
                assert not it.down(echo.address)
            assert len(it.lines) == 1

    run(test)


@pytest.mark.alone
def test_ten_thousand_upstreams_are_checked_and_nothing_else_waits(seed: int) -> None:
    async def test() -> None:
        async with rig(seed) as it:
            with upstreams.echo() as echo:
                port = echo.address.rpartition(":")[2]
                echo.stop()
                names = [f"127.0.{1 + n // 250}.{n % 250}:{port}" for n in range(10_000)]
                began = time.monotonic()
                it.apply({}, *names)
                pauses = [0.0]
                last = time.monotonic()

                def all_down() -> bool:
                    nonlocal last
                    now = time.monotonic()
                    pauses.append(now - last)
                    last = now
                    return it.upstreams.version >= 10_000

                applied = last - began
                await it.wait(all_down, "ten thousand first checks", 50)
                print(
                    f"10,000 upstreams: applied in {applied:.2f} s, all down after "
                    f"{last - began:.2f} s, longest pause of the loop {max(pauses):.3f} s"
                )
                assert max(pauses) < 0.5

    run(test)


def test_the_running_proxy_says_when_an_upstream_goes_down_and_up() -> None:
    with upstreams.echo() as echo:
        yaml = (
            "health: {interval: 50ms}\n"
            "listeners: {web: {bind: '127.0.0.1:0', pool: app}}\n"
            f"pools: {{app: {{upstreams: '{echo.address}'}}}}\n"
        )
        with running_proxy(yaml) as proxy:
            echo.stop()
            down = proxy.wait_log("upstream down")
            assert (down["pool"], down["upstream"]) == ("app", echo.address)
            assert down["reason"] == "connection refused"
            echo.start()
            assert proxy.wait_log("upstream up")["down_seconds"] > 0
            began = time.monotonic()
            proxy.terminate()
            assert proxy.wait() == 0
            assert time.monotonic() - began < 3.0


def test_the_monitor_forgets_nothing_open(seed: int) -> None:
    async def test() -> None:
        async with rig(seed) as it:
            with serving("v4", hold) as silent:
                it.apply({"check": "smtp", "interval": "50ms", "timeout": "30s"}, silent.address)
                await it.wait(lambda: silent.accepted, "a check under way")

    run(test)
