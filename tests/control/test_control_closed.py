"""Listeners that are drained: nobody new gets in, nobody is reset, and undrain opens them again."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from harness.door import request
from harness.fds import same_fds
from harness.proxy import Proxy, connect, refused, running_proxy
from harness.upstreams import echo
from harness.wait import wait_until
from supervised import supervised
from test_control_systemd import activated, listening

both_crews = pytest.mark.parametrize("workers", [1, 2])


def yaml(upstream: str, door: Path, **listeners: str) -> str:
    lines = [f"  {name}: {{bind: {bind}, pool: app}}" for name, bind in listeners.items()]
    return "\n".join(
        [
            f"admin: {{bind: 'unix:{door}'}}",
            "listeners:",
            *lines,
            f"pools:\n  app: {{upstreams: {upstream}}}\n",
        ]
    )


@contextmanager
def echoing(tmp_path: Path, workers: int, **listeners: str) -> Iterator[tuple[Proxy, Path]]:
    door = tmp_path / "door"
    with echo() as up, running_proxy(yaml(up.address, door, **listeners), workers=workers) as proxy:
        yield proxy, door


def order(door: Path, verb: str, target: str, **more: Any) -> dict[str, Any]:
    code, answer = request(door, "POST", f"/api/v1/{verb}", {"target": target, **more})
    assert code == 200, answer
    return answer


def status(door: Path) -> dict[str, Any]:
    return request(door, "GET", "/api/v1/status")[1]


def listener(door: Path, name: str = "web") -> dict[str, Any]:
    return next(one for one in status(door)["listeners"] if one["name"] == name)


def says(client: socket.socket, text: bytes) -> bool:
    client.sendall(text)
    return client.recv(100) == text


@both_crews
@pytest.mark.parametrize("bind", ["127.0.0.1:0", "'[::1]:0'", "unix"])
def test_a_drained_listener_refuses_new_clients_keeps_its_sessions_and_opens_again(
    bind: str, workers: int, tmp_path: Path
) -> None:
    bind = f"'unix:{tmp_path}/web.sock'" if bind == "unix" else bind
    with echoing(tmp_path, workers, web=bind, other="127.0.0.1:0") as (proxy, door):
        name = proxy.address("web")
        with proxy.connect("web") as client, same_fds(proxy.pid):
            assert says(client, b"before")
            drained = order(door, "drain", "listener/web")
            assert (drained["listeners"], drained["changed"]) == (["web"], 1)
            assert (drained["sessions"], drained["left"]) == (1, 1)
            assert listener(door)["draining"]
            wait_until(lambda: not listener(door)["addresses"], 10, "no address any more")
            assert refused(name)
            assert says(client, b"while it is drained")
            assert order(door, "drain", "listener/web")["changed"] == 0
            with proxy.connect("other") as another:
                assert says(another, b"another listener")
            assert order(door, "undrain", "listener/web")["changed"] == 1
            assert not listener(door)["draining"]
            assert proxy.address("web", -1) == name, "the same port"
            for _ in range(4 * workers):
                with connect(name) as late:
                    assert says(late, b"after")
            assert order(door, "undrain", "listener/web")["changed"] == 0
            assert says(client, b"and still")


def test_undrain_at_once_after_drain_waits_for_the_address(tmp_path: Path) -> None:
    with echoing(tmp_path, 2, web="127.0.0.1:0") as (proxy, door):
        name = proxy.address("web")
        for _ in range(5):
            order(door, "drain", "listener/web")
            order(door, "undrain", "listener/web")
        with connect(name) as client:
            assert says(client, b"here again")


def test_all_is_every_listener(tmp_path: Path) -> None:
    with (
        echoing(tmp_path, 1, web="127.0.0.1:0", other="127.0.0.1:0") as (proxy, door),
        proxy.connect("web") as client,
        proxy.connect("other") as second,
    ):
        assert says(client, b"one")
        assert says(second, b"two")
        order(door, "drain", "listener/web")
        drained = order(door, "drain", "all")
        assert drained["listeners"] == ["web", "other"]
        assert (drained["changed"], drained["sessions"], drained["left"]) == (1, 2, 0)
        wait_until(lambda: refused(proxy.address("other")), 10, "a refusal")
        assert refused(proxy.address("web"))
        assert says(client, b"one")
        assert order(door, "undrain", "listener/web")["left"] == 1
        assert order(door, "undrain", "all")["changed"] == 1
        for name in ("web", "other"):
            with proxy.connect(name, -1) as late:
                assert says(late, b"again")


def test_a_drain_with_a_time_leaves_no_session_and_undrain_calls_it_off(tmp_path: Path) -> None:
    with echoing(tmp_path, 2, web="127.0.0.1:0") as (proxy, door), ExitStack() as stack:
        clients = [stack.enter_context(proxy.connect("web")) for _ in range(20)]
        assert all(says(client, b"hello") for client in clients)
        order(door, "drain", "listener/web", over=1.5)
        wait_until(lambda: 0 < listener(door)["sessions"] < 18, 5, "the first ends")
        order(door, "undrain", "listener/web")
        left = listener(door)["sessions"]
        alive = [client for client in clients if _alive(client)]
        assert len(alive) == left > 0
        order(door, "drain", "all", over=0.5)
        wait_until(lambda: listener(door)["sessions"] == 0, 3, "no session")
        records = proxy.wait_records(20)
        assert {(one["why"], one["closed_by"], one["how"]) for one in records} == {
            ("drained", "proxy", "reset")
        }


def _alive(client: socket.socket) -> bool:
    try:
        return says(client, b"alive")
    except ConnectionResetError:
        return False


def test_an_address_that_somebody_took_meanwhile_is_one_clear_error(tmp_path: Path) -> None:
    with echoing(tmp_path, 1, web="127.0.0.1:0", other="127.0.0.1:0") as (proxy, door):
        name = proxy.address("web")
        order(door, "drain", "all")
        wait_until(lambda: not listener(door)["addresses"], 10, "no address")
        with socket.create_server(name):
            code, answer = request(door, "POST", "/api/v1/undrain", {"target": "all"})
            assert code == 409
            [line] = answer["error"].splitlines()
            assert line.startswith(f"listeners.web.bind: 127.0.0.1:{name[1]}: in use by python")
            assert listener(door)["draining"]
            assert listener(door, "other")["draining"], "all or nothing"
        order(door, "undrain", "all")
        with connect(name) as client:
            assert says(client, b"free again")


def test_a_reload_leaves_a_drained_listener_closed(tmp_path: Path) -> None:
    with echoing(tmp_path, 2, web="127.0.0.1:0", other="127.0.0.1:0") as (proxy, door):
        name = proxy.address("web")
        order(door, "drain", "listener/web")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        text = proxy.config.read_text()
        both = text.replace(
            "web: {bind: 127.0.0.1:0", f"web: {{bind: ['127.0.0.1:0', '127.0.0.1:{port}']"
        )
        assert both != text
        reload(proxy, both)
        assert refused(name)
        assert refused(("127.0.0.1", port))
        assert listener(door)["draining"]
        with proxy.connect("other") as client:
            assert says(client, b"not drained")
        # It leaves, and comes back: still drained.
        only_other = "\n".join(line for line in text.splitlines() if not line.startswith("  web:"))
        reload(proxy, only_other)
        reload(proxy, both)
        assert listener(door)["draining"]
        order(door, "undrain", "listener/web")
        for where in (name, ("127.0.0.1", port)):
            with connect(where) as client:
                assert says(client, b"open again")


def reload(proxy: Proxy, text: str) -> None:
    before = len(proxy.log("reloaded"))
    proxy.config.write_text(text)
    proxy.signal(signal.SIGHUP)
    wait_until(lambda: len(proxy.log("reloaded")) > before, 10, "reloaded")


def test_a_worker_that_dies_while_a_listener_is_drained_changes_nothing(tmp_path: Path) -> None:
    with echoing(tmp_path, 2, web="127.0.0.1:0", other="127.0.0.1:0") as (proxy, door):
        name = proxy.address("web")
        order(door, "drain", "listener/web")
        for pid in proxy.worker_pids():
            os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: all(
                one["ready"] for one in request(door, "GET", "/api/v1/status")[1]["workers"]
            ),
            10,
            "new workers",
        )
        wait_until(lambda: refused(name), 10, "a refusal")
        order(door, "undrain", "listener/web")
        with connect(name) as client:
            assert says(client, b"after")


def test_clients_who_come_during_drain_and_undrain_are_served_or_refused_never_reset(
    tmp_path: Path,
) -> None:
    with echoing(tmp_path, 2, web="127.0.0.1:0") as (proxy, door):
        name = proxy.address("web")
        over = threading.Event()
        counts = {"served": 0, "refused": 0}
        trouble: list[str] = []

        def come() -> None:
            while not over.is_set():
                try:
                    client = connect(name)
                except ConnectionRefusedError:
                    counts["refused"] += 1
                    continue
                try:
                    with client:
                        counts["served"] += says(client, b"hello")
                except OSError as error:
                    trouble.append(repr(error))

        threads = [threading.Thread(target=come) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(10):
                order(door, "drain", "listener/web")
                refused_before, served_before = counts["refused"], counts["served"]
                wait_until(lambda n=refused_before: counts["refused"] > n, 10, "refusals")
                order(door, "undrain", "listener/web")
                wait_until(lambda n=served_before: counts["served"] > n + 20, 10, "clients")
        finally:
            over.set()
            for thread in threads:
                thread.join(20)
        print(counts)
        assert trouble == []


def test_a_socket_that_systemd_holds_is_not_given_up_and_one_sentence_says_so(
    tmp_path: Path,
) -> None:
    door = tmp_path / "door"
    text = (
        f"workers: 2\nadmin: {{bind: 'unix:{door}'}}\n"
        "listeners: {web: {bind: 127.0.0.1:0, pool: app}, other: {bind: 127.0.0.1:0, pool: app}}\n"
        "pools: {app: {upstreams: 127.0.0.1:9}}\n"
    )
    with ExitStack() as stack:
        sock = listening(stack)
        port = sock.getsockname()[1]
        running = stack.enter_context(supervised(tmp_path, text, **activated("web", sock)))
        running.wait_log("ready")
        wait_until(door.exists, 10, "the door")
        for target in ("listener/web", "all"):
            code, answer = request(door, "POST", "/api/v1/drain", {"target": target})
            assert code == 409
            assert answer["error"] == (
                f"listener/web: systemd holds 127.0.0.1:{port} and would go on queueing clients; "
                "drain its pool, or stop its socket unit"
            )
        assert not listener(door, "other")["draining"]
        connect(("127.0.0.1", port)).close()
        assert order(door, "drain", "listener/other")["changed"] == 1


def test_a_proxy_whose_listeners_are_all_drained_stops_as_others_do(tmp_path: Path) -> None:
    with echoing(tmp_path, 1, web="127.0.0.1:0") as (proxy, door):
        order(door, "drain", "all")
        proxy.terminate()
        assert proxy.wait(5) == 0
        with suppress(FileNotFoundError):
            assert not door.exists()
