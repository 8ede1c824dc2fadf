"""The doors over an upgrade: nobody who asks is left without an answer, and who may stays so."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from harness.door import (
    Connection,
    Where,
    ask,
    ask_by,
    bearer,
    connected,
    request,
    streamed,
    tcp_doors,
    write_token,
)
from harness.generations import generations
from harness.ports import free_port
from harness.wait import wait_until

YAML = """\
listeners: {web: {bind: "127.0.0.1:0", pool: app}}
pools: {app: {upstreams: [127.0.0.1:9001, 127.0.0.1:9002]}}
"""


def admin(directory: Path, *addresses: str, more: str = "") -> str:
    bind = ", ".join(f'"{one}"' for one in (f"unix:{directory}/admin.sock", *addresses))
    return f"admin: {{bind: [{bind}]{more}}}\n"


@contextmanager
def asked_again_and_again(pids: list[int], ask_once: Callable[[], int]) -> Iterator[None]:
    """Ask for the pid without a pause while the block lasts; each change is added to `pids`."""
    over = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            while not over.is_set():
                pid = ask_once()
                if pids[-1:] != [pid]:
                    pids.append(pid)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if failures:
            raise failures[0]


def pid_at(where: Where) -> int:
    code, status = request(where, "GET", "/api/v1/status")
    assert code == 200, status
    return int(status["pid"])


class Kept:
    """A client that keeps its connection, and comes again where that was closed before it was
    answered, as browsers do."""

    def __init__(self, where: Where) -> None:
        self._where = where
        self._connection = Connection(where)

    def pid(self) -> int:
        for _ in range(3):
            try:
                answer = ask_by(self._connection, "GET", "/api/v1/status")
            except (ConnectionError, http.client.RemoteDisconnected):
                self.close()
                continue
            if answer.status != 503:
                assert answer.status == 200, answer.body
                return int(answer.json["pid"])
        raise AssertionError("three times without an answer")

    def close(self) -> None:
        self._connection.close()


def test_whoever_asks_is_answered_all_the_while(tmp_path: Path) -> None:
    text = admin(tmp_path, "127.0.0.1:0") + YAML
    with generations(text, tmp_path, workers=2) as proxy:
        [where] = tcp_doors(proxy.proxy)
        unix, tcp, kept = list[int](), list[int](), list[int]()
        with ExitStack() as stack:
            client = stack.enter_context(closing(Kept(where)))
            stack.enter_context(asked_again_and_again(unix, lambda: pid_at(proxy.door)))
            stack.enter_context(asked_again_and_again(tcp, lambda: pid_at(where)))
            stack.enter_context(asked_again_and_again(kept, client.pid))
            for _ in range(3):
                proxy.upgrade()
            for found in (unix, tcp, kept):
                wait_until(lambda found=found: found[-1] == proxy.pid, 10, "the newest answers")
        assert unix == tcp == kept == proxy.pids()


def test_the_token_stays_and_so_does_what_was_ordered_with_it(tmp_path: Path) -> None:
    text = admin(tmp_path, "127.0.0.1:0") + YAML
    with generations(text, tmp_path) as proxy:
        [where] = tcp_doors(proxy.proxy)
        token = bearer(write_token(proxy.door))
        target = {"target": "pool/app/127.0.0.1:9001"}
        assert request(where, "POST", "/api/v1/drain", target, token)[1]["changed"] == 1
        weight = {"target": "pool/app/127.0.0.1:9002", "weight": 7}
        assert request(where, "POST", "/api/v1/weight", weight, token)[1]["changed"]
        proxy.upgrade()
        upstreams = proxy.status()["pools"][0]["upstreams"]
        assert [one["states"] for one in upstreams] == [["draining"], ["up"]]
        assert [one["weight"] for one in upstreams] == [1, 7]
        assert tcp_doors(proxy.proxy) == [where]
        code, drained = request(where, "POST", "/api/v1/drain", target, token)
        assert (code, drained["changed"]) == (200, 0)
        assert request(where, "POST", "/api/v1/undrain", target, token)[1]["changed"] == 1


def test_a_stream_ends_and_can_be_opened_again(tmp_path: Path) -> None:
    text = admin(tmp_path, "127.0.0.1:0") + YAML
    with generations(text, tmp_path) as proxy:
        [where] = tcp_doors(proxy.proxy)
        with streamed(where, "/api/v1/stream?records=all&events=off") as lines:
            assert lines.readline() == b": hello\n"
            proxy.upgrade()
            assert lines.read() == b"\n"
        proxy.wait_alone()
        with streamed(where, "/api/v1/stream?records=all&events=off") as lines:
            assert lines.readline() == b": hello\n"


def refused(port: int) -> bool:
    try:
        connected(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    return False


def test_doors_come_and_go_and_change_what_they_are_for(tmp_path: Path) -> None:
    token = tmp_path / "read.token"
    token.touch(0o600)
    token.write_text("reading-reading-reading")
    tokens = f", tokens: {{read: 'file:{token}'}}"
    one, two, three = free_port(), free_port(), free_port()
    text = admin(tmp_path, f"127.0.0.1:{one}", f"127.0.0.1:{two}") + YAML
    with generations(text, tmp_path) as proxy:

        def upgrade(head: str) -> None:
            workers = "workers: 1\nhealth: off\n"
            proxy.proxy.config.write_text(workers + head + YAML)
            proxy.upgrade()

        # The first opens up to everybody, the second becomes one for metrics, a third comes.
        upgrade(
            admin(tmp_path, f":{one}", f"127.0.0.1:{three}", more=tokens)
            + f"metrics: {{bind: '127.0.0.1:{two}'}}\n"
        )
        assert ask(("127.0.0.1", one), "GET", "/api/v1/status").status == 401
        assert ask(("127.0.0.1", two), "GET", "/api/v1/status").status == 404
        assert ask(("127.0.0.1", two), "GET", "/healthz").status == 200
        assert pid_at(("127.0.0.1", three)) == proxy.pid
        upgrade(admin(tmp_path, f"127.0.0.1:{one}"))
        assert pid_at(("127.0.0.1", one)) == proxy.pid
        wait_until(lambda: refused(two) and refused(three), 5, "two doors are gone")


def test_an_upgrade_that_fails_leaves_the_doors_as_they_are(tmp_path: Path) -> None:
    with generations(admin(tmp_path, "127.0.0.1:0") + YAML, tmp_path) as proxy:
        [where] = tcp_doors(proxy.proxy)
        token = write_token(proxy.door)
        missing = f", tokens: {{write: 'file:{tmp_path}/nowhere'}}"
        head = admin(tmp_path, "127.0.0.1:0", more=missing)
        proxy.proxy.config.write_text(f"workers: 1\nhealth: off\n{head}{YAML}")
        done = proxy.order()
        assert done.returncode == 1
        assert "No such file or directory" in done.stderr
        assert pid_at(where) == proxy.pid == proxy.pids()[0]
        assert write_token(proxy.door) == token


@pytest.mark.parametrize("door", ["unix", "tcp"])
def test_the_order_itself_is_answered_by_the_process_that_it_replaces(
    door: str, tmp_path: Path
) -> None:
    with generations(admin(tmp_path, "127.0.0.1:0") + YAML, tmp_path) as proxy:
        [tcp] = tcp_doors(proxy.proxy)
        where: Where = proxy.door if door == "unix" else tcp
        token = bearer(write_token(proxy.door))
        answer = ask(where, "POST", "/api/v1/upgrade", headers=token)
        assert answer.status == 200
        wait_until(lambda: len(proxy.pids()) == 2, 5, "ready")
        assert answer.json == {"pid": proxy.pid, "sessions": 0}
