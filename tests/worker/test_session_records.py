"""Session records of the whole proxy: which are written, where to, and what they never stop."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from harness import upstreams
from harness.fds import cpu_seconds
from harness.load import read_to_end
from harness.ports import free_port
from harness.proxy import Proxy, connect, connect_name
from harness.wait import wait_until
from session_support import (
    check_record,
    exchange,
    expect_refusal,
    one_record,
    proxy_yaml,
    running_proxy,
)

from spliceproxy.telemetry.record import FIELDS

DROPPED = "session records dropped"


def yaml_of(**keys: object) -> str:
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in keys.items())


def visit(proxy: Proxy, listener: str, times: int = 1) -> None:
    for _ in range(times):
        with proxy.connect(listener) as client:
            assert read_to_end(client) == b"x"


def test_each_listener_writes_the_records_that_it_is_told_to() -> None:
    bind = "127.0.0.1:0"
    listeners = {
        "inherits": {"bind": bind, "pool": "app"},
        "off": {"bind": bind, "pool": "app", "log": {"keep": "off"}},
        "all": {"bind": bind, "pool": "app", "log": {"keep": "all"}},
        "failing": {"bind": bind, "pool": "down"},
        "failing-off": {"bind": bind, "pool": "down", "log": {"keep": "off"}},
        "sampled": {"bind": bind, "pool": "app", "log": {"keep": "all", "sample": "10%"}},
    }
    with upstreams.named("x") as upstream, upstreams.refuse() as refusing:
        pools = {"app": {"upstreams": upstream.address}, "down": {"upstreams": refusing.address}}
        log = {"sessions": {"keep": "errors"}}
        text = yaml_of(listeners=listeners, pools=pools, log=log)
        with running_proxy(text) as proxy:
            visit(proxy, "sampled", 400)
            for name in ("inherits", "off", "all"):
                visit(proxy, name, 2)
            for name in ("failing-off", "failing"):
                expect_refusal(proxy, name)
            wait_until(lambda: any(r["listener"] == "failing" for r in proxy.records()), 5, "it")
            wait_until(lambda: any(r["listener"] == "all" for r in proxy.records()), 5, "them")
            records = proxy.records()
    number = Counter(record["listener"] for record in records)
    assert 4 <= number.pop("sampled") <= 76, "a tenth of 400, give or take six deviations"
    assert number == {"all": 2, "failing": 1}


def test_of_errors_a_sample_can_be_kept_for_one_listener_or_for_all() -> None:
    own = {"bind": "127.0.0.1:0", "pool": "down", "log": {"sample": "100%"}}
    with upstreams.named("x") as upstream, upstreams.refuse() as refusing:
        pools = {"app": {"upstreams": upstream.address}, "down": {"upstreams": refusing.address}}
        listeners = {
            "web": {"bind": "127.0.0.1:0", "pool": "app"},
            "failing": {"bind": "127.0.0.1:0", "pool": "down"},
            "own": own,
        }
        log = {"sessions": {"keep": "errors", "sample": "10%"}}
        text = yaml_of(listeners=listeners, pools=pools, log=log)
        with running_proxy(text) as proxy:
            visit(proxy, "web", 20)
            for _ in range(400):
                expect_refusal(proxy, "failing")
            for _ in range(5):
                expect_refusal(proxy, "own")

            def written() -> Counter[tuple[str, str]]:
                return Counter((record["listener"], record["why"]) for record in proxy.records())

            wait_until(lambda: written()["own", "connect_refused"] == 5, 10, "the last records")
            number = written()
    assert 4 <= number.pop(("failing", "connect_refused")) <= 76, "a tenth of 400"
    assert number == {("own", "connect_refused"): 5}


def test_a_reload_brings_other_records_without_a_word_to_the_sessions() -> None:
    def text(**log: object) -> str:
        web = {"bind": f"127.0.0.1:{port}", "pool": "app", "log": log}
        mark = {"bind": "127.0.0.1:0", "pool": "app"}
        return yaml_of(
            listeners={"web": web, "mark": mark}, pools={"app": {"upstreams": upstream.address}}
        )

    def records_of(visits: int) -> int:
        """How many records are written of so many visits: one of `mark` comes after them."""
        before = len(proxy.records())
        visit(proxy, "web", visits)
        visit(proxy, "mark")

        def marked() -> list[dict[str, object]]:
            new = proxy.records()[before:]
            return new if any(record["listener"] == "mark" for record in new) else []

        return len(wait_until(marked, 5, "the mark")) - 1

    def reload(**log: object) -> None:
        before = len(proxy.log("reloaded"))
        head = proxy.config.read_text().split("listeners:")[0]
        proxy.config.write_text(head + text(**log))
        proxy.signal(signal.SIGHUP)
        wait_until(lambda: len(proxy.log("reloaded")) > before, 10, "the reload")

    port = free_port()
    with upstreams.named("x") as upstream, running_proxy(text(keep="off")) as proxy:
        assert records_of(5) == 0
        reload(keep="all")
        assert records_of(5) == 5
        reload(keep="errors")
        assert records_of(5) == 0
        reload(keep="all", sample="0%")
        assert records_of(5) == 0


def test_a_reader_that_reads_no_records_stops_no_session(tmp_path: Path) -> None:
    fifo = tmp_path / "records"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    bind = "unix:@no-reader-test"
    with ExitStack() as stack:
        stack.callback(os.close, reader)
        refusing = stack.enter_context(upstreams.refuse("unix"))
        echo = stack.enter_context(upstreams.echo())
        text = proxy_yaml(refusing.address, bind=bind).splitlines()
        web = {"bind": bind, "pool": "app"}
        well = {"bind": "127.0.0.1:0", "pool": "echo"}
        text[0] = f"listeners: {json.dumps({'web': web, 'well': well})}"
        pools = {"app": {"upstreams": refusing.address}, "echo": {"upstreams": echo.address}}
        text[1] = f"pools: {json.dumps(pools)}"
        wrapper = ("sh", "-c", 'exec "$@" > "$0"', str(fifo))
        with running_proxy("\n".join(text), wrapper=wrapper) as proxy:
            [pid] = proxy.worker_pids()
            sessions = 0
            name = connect_name(bind)
            while not proxy.log(DROPPED):  # 8 MiB of records wait, then they are dropped
                for _ in range(500):
                    with connect(name) as client:
                        assert client.recv(1) == b""
                sessions += 500
                assert sessions < 50_000
            for _ in range(200):
                with proxy.connect("well") as client:
                    assert exchange(client, b"still here") == b"still here"
            busy = cpu_seconds(pid)
            with proxy.connect("well") as client:
                client.settimeout(0.5)
                assert exchange(client, b"and quiet") == b"and quiet"
            assert cpu_seconds(pid) - busy < 0.1
            sessions += 201
            proxy.signal(signal.SIGINT)
            proxy.wait()
            dropped = [line["records"] for line in proxy.log(DROPPED)]
            reasons = {line["reason"] for line in proxy.log(DROPPED)}
        written = b""
        while more := os.read(reader, 65536):
            written += more
    records = [json.loads(line) for line in written.splitlines()]
    assert len(records) > 10
    assert all(set(record) == set(FIELDS) for record in records), "whole lines only"
    assert len(records) + sum(dropped) == sessions, "every record is written or counted"
    assert reasons == {"whoever reads them is too slow"}


def test_a_rotated_file_is_opened_anew_by_every_worker(tmp_path: Path) -> None:
    path = tmp_path / "sessions.log"
    rotated = tmp_path / "sessions.log.1"

    def workers_in(file: Path) -> set[int]:
        lines = file.read_text().splitlines() if file.exists() else []
        return {json.loads(line)["worker"] for line in lines}

    def visit_both_workers(file: Path) -> None:
        def seen() -> bool:
            visit(proxy, "web")
            return workers_in(file) == {0, 1}

        wait_until(seen, 10, f"records of both workers in {file}")

    with upstreams.named("x") as upstream:
        text = proxy_yaml(upstream.address, log={"sessions": {"to": f"file:{path}"}})
        with running_proxy(text, workers=2) as proxy:
            visit_both_workers(path)
            path.rename(rotated)
            proxy.signal(signal.SIGUSR1)
            visit_both_workers(path)
        everything = rotated.read_text() + path.read_text()
        assert (proxy.process.returncode, path.stat().st_mode & 0o777) == (0, 0o640)
    lines = [json.loads(line) for line in everything.splitlines()]
    assert len(lines) == upstream.accepted, "none is lost on the way from one file to the other"
    assert len({line["session"] for line in lines}) == len(lines)


def test_a_killed_worker_leaves_one_record_with_the_number_of_sessions_lost() -> None:
    with (
        upstreams.echo() as echo,
        running_proxy(proxy_yaml(echo.address), workers=2) as proxy,
        ExitStack() as stack,
    ):
        clients: list[socket.socket] = []
        for _ in range(12):
            clients.append(stack.enter_context(proxy.connect("web")))
            assert exchange(clients[-1], b"ping") == b"ping"
        started = {line["worker"]: line["pid"] for line in proxy.log("worker started")}
        victim = started[0]
        os.kill(victim, signal.SIGKILL)
        record = one_record(proxy)
        alive = []
        for client in clients:
            try:
                if exchange(client, b"pong") == b"pong":
                    alive.append(client)
            except OSError:
                continue
        death = proxy.wait_log("worker died")
        proxy.wait_log("worker started", where=lambda e: e["pid"] not in started.values())
        for _ in range(5):
            with proxy.connect("web") as client:
                assert exchange(client, b"ping") == b"ping"
        for client in alive:
            client.close()
        records = proxy.wait_records(1 + len(alive) + 5)
    lost = len(clients) - len(alive)
    expected = {"worker": 0, "pid": victim, "lost": lost, "lost_records": 0, "why": "worker_died"}
    assert set(record) == {*FIELDS, *expected}
    assert {key: record[key] for key in expected} == expected
    assert record["closed_by"] == "proxy"
    assert (death["sessions_lost"], death["records_lost"]) == (lost, 0)
    assert record["session"] is None
    assert Counter(r["why"] for r in records) == {"worker_died": 1, "done": len(alive) + 5}


def test_sessions_that_outlive_the_drain_are_recorded_as_stopped() -> None:
    with (
        upstreams.echo() as echo,
        running_proxy(proxy_yaml(echo.address, timeouts={"drain": "200ms"})) as proxy,
        proxy.connect("web") as client,
    ):
        assert exchange(client, b"ping") == b"ping"
        proxy.terminate()
        record = one_record(proxy)
        proxy.wait()
    check_record(
        record,
        upstream=echo.address,
        bytes_up=4,
        bytes_down=4,
        closed_by="proxy",
        how="reset",
        why="stopped",
    )
