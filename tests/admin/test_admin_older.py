"""Sessions that processes of before an upgrade still have: found and reset as all others, whichever
generation has them."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.door import request, streamed
from harness.fds import children, fd_kinds, same_fds
from harness.generations import Generations, generations
from harness.serving import reset
from harness.upstreams import echo
from harness.wait import wait_until

YAML = """\
listeners: {{web: {{bind: "127.0.0.1:0", pool: app}}, other: {{bind: "127.0.0.1:0", pool: app}}}}
pools: {{app: {{upstreams: ["{}"]}}}}
"""

Sessions = list[dict[str, Any]]


class Row:
    """Processes of which each has one session by `web` and one by `other`."""

    def __init__(self, proxy: Generations) -> None:
        self.proxy = proxy
        self.clients: list[dict[str, socket.socket]] = []
        """Of each generation, the oldest first."""

    def connect(self) -> None:
        """Two sessions with the process that serves."""
        self.clients.append({})
        for name in ("web", "other"):
            client = self.proxy.proxy.connect(name)
            client.sendall(b"x")
            assert client.recv(100) == b"x"
            self.clients[-1][name] = client

    def upgrade(self) -> None:
        """A new process, with sessions of its own."""
        self.proxy.upgrade()
        self.connect()

    def find(self, query: str = "") -> dict[str, Any]:
        code, answer = request(self.proxy.door, "GET", f"/api/v1/sessions?{query}")
        assert code == 200, answer
        return answer

    def all_found(self, query: str = "") -> Sessions:
        """The sessions, once nobody is silent."""

        def found() -> Sessions | None:
            answer = self.find(query)
            assert answer["process"] == self.proxy.pid
            silent = answer["silent_workers"] or answer["silent_processes"]
            return None if silent else answer["sessions"]

        return wait_until(found, 20, "answers of all")

    def reset(self, **order: object) -> dict[str, Any]:
        code, answer = request(self.proxy.door, "POST", "/api/v1/reset", order)
        assert code == 200, answer
        return answer

    def drain(self, target: str, over: float) -> dict[str, Any]:
        order = {"target": target, "over": over}
        code, answer = request(self.proxy.door, "POST", "/api/v1/drain", order)
        assert code == 200, answer
        return answer

    def keep_fds(self, stack: ExitStack) -> None:
        """Have each process, and each of its workers, have the same fds when `stack` ends."""
        self.all_found()
        for pid in self.proxy.pids():
            for each in (pid, *children(pid)):
                stack.enter_context(same_fds(each))

    def close(self) -> None:
        for clients in self.clients:
            for client in clients.values():
                client.close()


@contextmanager
def row(directory: Path, length: int, **options: Any) -> Iterator[Row]:
    """So many processes, the newest of which serves."""
    with ExitStack() as stack:
        up = stack.enter_context(echo())
        proxy = stack.enter_context(generations(YAML.format(up.address), directory, **options))
        found = Row(proxy)
        stack.callback(found.close)
        found.connect()
        for _ in range(length - 1):
            found.upgrade()
        yield found


def ended(client: socket.socket) -> bool:
    """Whether it was reset; else it is as alive as ever."""
    try:
        client.sendall(b"y")
        assert client.recv(100) == b"y"
    except ConnectionError:
        return True
    return False


@pytest.mark.parametrize("workers", [1, 2])
def test_sessions_of_all_generations_are_found_with_who_has_them(
    workers: int, tmp_path: Path
) -> None:
    with row(tmp_path, 4, workers=workers) as whole:
        pids = whole.proxy.pids()
        found = whole.all_found("sort=age")
        assert [one["process"] for one in found] == [pid for pid in pids for _ in range(2)]
        assert len({one["session"] for one in found}) == 8
        clients = [client for each in whole.clients for client in each.values()]
        names = ["{}:{}".format(*client.getsockname()) for client in clients]
        assert {one["client"] for one in found} == set(names)
        for one in found:
            assert "sorted_by" not in one
            [again] = whole.all_found(f"id={one['session']}")
            assert (again["client"], again["process"]) == (one["client"], one["process"])


def test_they_are_filtered_sorted_and_told_in_parts_as_if_one_had_them_all(tmp_path: Path) -> None:
    with row(tmp_path, 3) as whole:
        for size, each in zip((3, 2, 1), whole.clients, strict=True):
            each["web"].sendall(b"x" * size)
            while size:
                size -= len(each["web"].recv(size))
        by_bytes = whole.all_found("listener=web&sort=bytes")
        pids = whole.proxy.pids()
        assert [one["process"] for one in by_bytes] == pids
        answer = whole.find("listener=web&sort=-bytes&offset=1&limit=1")
        assert (answer["matching"], answer["offset"]) == (3, 1)
        assert [one["process"] for one in answer["sessions"]] == [pids[1]]


def test_they_are_reset_by_a_filter_and_by_name_and_no_others(tmp_path: Path) -> None:
    with row(tmp_path, 3) as whole:
        first, second, third = whole.clients
        done = whole.reset(where={"listener": "web"})
        assert done == {"reset": 3, "silent_workers": [], "silent_processes": []}
        assert [ended(each["web"]) for each in whole.clients] == [True] * 3
        assert [ended(each["other"]) for each in whole.clients] == [False] * 3
        left = whole.all_found("sort=age")
        names = [one["session"] for one in left[:2]]
        assert whole.reset(sessions=[*names, "0-00000000-1"])["reset"] == 2
        assert [ended(each["other"]) for each in (first, second, third)] == [True, True, False]
        whole.proxy.wait_alone()
        [only] = whole.all_found()
        assert only["process"] == whole.proxy.pid
        whys = [record["why"] for record in whole.proxy.proxy.wait_records(5)]
        assert whys == ["operator"] * 5


@pytest.mark.alone
def test_who_does_not_answer_is_named_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    with row(tmp_path, 3) as whole:
        oldest, middle, newest = whole.proxy.pids()
        os.kill(oldest, signal.SIGSTOP)
        try:
            wait_until(lambda: whole.find()["silent_processes"] == [oldest], 30, "it is silent")
            for _ in range(30):  # thirty times the patience is more than this test may take
                answer = whole.find()
                assert answer["silent_processes"] == [oldest]
                held = {one["process"] for one in answer["sessions"]}
                assert held == {middle, newest}
            done = whole.reset(where={"listener": "other"})
            assert (done["reset"], done["silent_processes"]) == (2, [oldest])
        finally:
            os.kill(oldest, signal.SIGCONT)
        # It heard of the first question alone, whose answer is not waited for any more.
        wait_until(lambda: not whole.find()["silent_processes"], 20, "it answers again")
        assert {one["process"] for one in whole.all_found()} == {oldest, middle, newest}
        assert [ended(each["other"]) for each in whole.clients] == [False, True, True]


def test_who_is_silent_hides_those_behind_it_and_a_stop_reaches_them_all_the_same(
    tmp_path: Path,
) -> None:
    with row(tmp_path, 3) as whole:
        _, middle, newest = whole.proxy.pids()
        os.kill(middle, signal.SIGSTOP)
        try:
            answer = whole.find()
            assert answer["silent_processes"] == [middle]
            assert {one["process"] for one in answer["sessions"]} == {newest}
            os.kill(newest, signal.SIGINT)
        finally:
            os.kill(middle, signal.SIGCONT)
        whole.proxy.wait_gone(*whole.proxy.pids())


def test_a_process_that_dies_while_it_is_asked_is_left_out(tmp_path: Path) -> None:
    with row(tmp_path, 2, expect_exit=None) as whole:
        oldest, newest = whole.proxy.pids()
        workers = children(oldest)
        os.kill(oldest, signal.SIGSTOP)
        assert whole.find()["silent_processes"] == [oldest]
        os.kill(oldest, signal.SIGKILL)
        whole.proxy.wait_gone(oldest, *workers)
        assert {one["process"] for one in whole.all_found()} == {newest}
        assert ended(whole.clients[0]["web"])
        assert not ended(whole.clients[1]["web"])


def test_an_upgrade_that_fails_changes_nothing_of_it(tmp_path: Path) -> None:
    with row(tmp_path, 2) as whole:
        good = whole.proxy.proxy.config.read_text()
        whole.proxy.proxy.config.write_text(good.replace("pools:", "pool:"))
        assert whole.proxy.order().returncode == 1
        pids = whole.proxy.pids()
        assert {one["process"] for one in whole.all_found()} == {*pids}
        whole.proxy.proxy.config.write_text(good)
        whole.upgrade()
        assert {one["process"] for one in whole.all_found()} == {*pids, whole.proxy.pid}
        assert whole.reset(where={"listener": "web"})["reset"] == 3


def test_questions_cost_no_fds_in_any_generation(tmp_path: Path) -> None:
    with row(tmp_path, 3) as whole, ExitStack() as stack:
        whole.keep_fds(stack)
        for _ in range(20):
            whole.all_found("listener=web")
            whole.reset(where={"listener": "nobody"})


@pytest.mark.alone
def test_sessions_that_end_while_they_are_looked_for_keep_nobody_waiting(tmp_path: Path) -> None:
    with row(tmp_path, 2) as whole:
        oldest, newest = whole.proxy.pids()
        over = threading.Event()
        silent = list[int]()

        def ask() -> None:
            while not over.is_set():
                silent.extend(whole.find()["silent_processes"])

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            for client in whole.clients[0].values():
                client.close()
            whole.proxy.wait_gone(oldest)
        finally:
            over.set()
            asking.join()
        assert not silent
        assert {one["process"] for one in whole.all_found()} == {newest}


def test_a_stream_has_the_records_of_all_generations_that_it_asks_for(tmp_path: Path) -> None:
    with row(tmp_path, 3, workers=2) as whole, ExitStack() as stack:
        sessions = {(one["process"], one["listener"]): one["session"] for one in whole.all_found()}
        pids = whole.proxy.pids()

        def follow(query: str) -> Any:
            target = f"/api/v1/stream?events=off{query}"
            lines = stack.enter_context(streamed(whole.proxy.door, target))
            assert lines.readline() == b": hello\n"
            return lines

        every, errors, web = (
            follow(f"&{one}")
            for one in ("records=all", "records=errors", "records=all&listener=web")
        )
        whole.all_found()  # who has answered this has heard of those who follow
        for each in whole.clients:
            each["web"].close()
        whole.proxy.proxy.wait_records(3)
        for each in whole.clients:
            reset(each["other"])
        names = {name: {sessions[pid, name] for pid in pids} for name in ("web", "other")}
        assert {one["session"] for one in records(every, 6)} == names["web"] | names["other"]
        assert {one["session"] for one in records(errors, 3)} == names["other"]
        assert {one["session"] for one in records(web, 3)} == names["web"]


def records(lines: Any, number: int) -> Sessions:
    """The next ones of a stream."""
    found: Sessions = []
    while len(found) < number:
        line = lines.readline()
        assert line, "the stream has ended"
        if line.startswith(b"data: "):
            found.append(json.loads(line.removeprefix(b"data: ")))
    return found


def test_whoever_follows_and_goes_costs_no_fds_in_any_generation(tmp_path: Path) -> None:
    with row(tmp_path, 3) as whole, ExitStack() as stack:
        whole.keep_fds(stack)
        for _ in range(5):
            with streamed(whole.proxy.door, "/api/v1/stream?records=all") as lines:
                assert lines.readline() == b": hello\n"
                whole.all_found()
                lines.close()


def test_a_drain_with_a_time_ends_sessions_of_all_generations_and_of_its_target_only(
    tmp_path: Path,
) -> None:
    with row(tmp_path, 3, workers=2) as whole:
        done = whole.drain("listener/web", over=0)
        assert (done["sessions"], done["silent_processes"]) == (3, [])
        for each in whole.clients:
            wait_until(lambda each=each: ended(each["web"]), 10, "its end")
        assert [ended(each["other"]) for each in whole.clients] == [False] * 3
        [upstream] = whole.proxy.status()["pools"][0]["upstreams"]
        done = whole.drain(f"pool/app/{upstream['name']}", over=0)
        assert (done["sessions"], done["silent_processes"]) == (3, [])
        whole.proxy.wait_alone()
        assert {record["why"] for record in whole.proxy.proxy.wait_records(6)} == {"drained"}


def test_a_drain_of_all_reaches_all_generations(tmp_path: Path) -> None:
    with row(tmp_path, 3) as whole:
        assert whole.drain("all", over=0)["sessions"] == 6
        whole.proxy.wait_alone()
        assert {record["why"] for record in whole.proxy.proxy.wait_records(6)} == {"drained"}


def test_what_an_older_process_never_had_is_drained_without_it(tmp_path: Path) -> None:
    with row(tmp_path, 1) as whole:
        config = whole.proxy.proxy.config
        config.write_text(config.read_text().replace("app", "renamed"))
        whole.upgrade()
        assert whole.drain("pool/renamed", over=0)["sessions"] == 2
        wait_until(lambda: ended(whole.clients[1]["web"]), 10, "its end")
        assert not ended(whole.clients[0]["web"])
        assert whole.reset(where={"pool": "app"})["reset"] == 2
        whole.proxy.wait_alone()


def test_who_does_not_hear_of_an_order_is_named_and_does_not_carry_it_out_later(
    tmp_path: Path,
) -> None:
    """By then it may have been taken back, or mean other sessions."""
    with row(tmp_path, 2) as whole:
        oldest, _ = whole.proxy.pids()
        os.kill(oldest, signal.SIGSTOP)
        try:
            done = whole.drain("listener/web", over=0)
        finally:
            os.kill(oldest, signal.SIGCONT)
        assert (done["sessions"], done["silent_processes"]) == (1, [oldest])
        line = whole.proxy.proxy.wait_log("a question of the new process cannot be answered")
        assert "too late" in line["error"]
        assert len(whole.all_found()) == 3
        assert not any(ended(sock) for sock in whole.clients[0].values())
        assert whole.drain("listener/web", over=0)["silent_processes"] == []
        wait_until(lambda: ended(whole.clients[0]["web"]), 10, "its end")


def test_whoever_follows_while_an_old_process_stands_still_hears_of_its_sessions_when_it_goes_on(
    tmp_path: Path,
) -> None:
    with row(tmp_path, 2) as whole, ExitStack() as stack:
        oldest, _ = whole.proxy.pids()
        [worker] = children(oldest)
        sockets = fd_kinds(worker)["socket"]
        os.kill(oldest, signal.SIGSTOP)
        try:
            assert whole.find()["silent_processes"] == [oldest]  # it owes an answer now
            target = "/api/v1/stream?events=off&records=all"
            lines = stack.enter_context(streamed(whole.proxy.door, target))
            assert lines.readline() == b": hello\n"
            assert whole.find()["silent_processes"] == [oldest]
        finally:
            os.kill(oldest, signal.SIGCONT)
        wait_until(lambda: fd_kinds(worker)["socket"] > sockets, 10, "its worker to be told")
        client = whole.clients[0]["web"]
        [host, port] = client.getsockname()
        client.close()
        [record] = records(lines, 1)
        assert record["client"] == f"{host}:{port}"
