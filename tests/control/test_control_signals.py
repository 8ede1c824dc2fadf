"""Signals that come before the proxy serves, and those that it does not obey."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.wait import wait_until
from supervised import TIMEOUT, ask, supervised
from unprivileged import needs_root

from spliceproxy.control.early_signals import SIGNALS, EarlySignals, Stopped

NAMED = (
    "workers: 1\nlisteners: {{web: {{bind: ['unix:{path}', 'web.example:80'], pool: app}}}}\n"
    "pools: {{app: {{upstreams: 127.0.0.1:9}}}}\n"
)
SERVING = (
    "workers: 1\nlisteners: {{web: {{bind: 'unix:{path}', pool: app}}}}\n"
    "pools: {{app: {{upstreams: 127.0.0.1:9}}}}\n"
)
SILENT_DNS = {**os.environ, "TEST_SILENT_DNS": "1"}

ends = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


@ends
def test_a_signal_while_names_are_looked_up_ends_the_start_at_once(
    tmp_path: Path, number: signal.Signals
) -> None:
    path = tmp_path / "s"
    with supervised(tmp_path, NAMED.format(path=path), wait=False, env=SILENT_DNS) as running:
        running.wait_text("looking up")
        running.signal(number)
        assert running.wait() == 0
        assert running.lines("stopped before it served")
        assert not running.lines("listening")
    assert not path.exists()


@needs_root
@ends
def test_as_pid_1_too(tmp_path: Path, number: signal.Signals) -> None:
    yaml = NAMED.format(path=tmp_path / "s")
    prefix = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with supervised(tmp_path, yaml, wait=False, prefix=prefix, env=SILENT_DNS) as running:
        running.wait_text("looking up")
        init = int(Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text())
        os.kill(init, number)
        assert running.wait() == 0
        assert running.lines("stopped before it served")


def test_sighup_without_a_file_changes_nothing_and_the_log_says_why(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with supervised(tmp_path, SERVING.format(path=path)) as running:
        running.signal(signal.SIGHUP)
        line = running.wait_log("not reloaded: nothing has changed")
        assert line["problems"] == ["nothing to reload: the configuration is not from a file"]
        assert ask(f"unix:{path}") == 0
        running.signal(signal.SIGTERM)
        assert running.wait() == 0


def test_signals_that_come_again_and_again_change_no_exit_code(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with supervised(tmp_path, SERVING.format(path=path), wait=False) as running:
        running.wait_log("listening")

        def over() -> bool:
            running.signal(signal.SIGTERM)
            return running.process.poll() is not None

        wait_until(over, TIMEOUT, "the end")
        assert running.wait() == 0
    assert not path.exists()


@pytest.fixture
def early() -> Iterator[EarlySignals]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield EarlySignals()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_signals_are_remembered_in_order(early: EarlySignals) -> None:
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1):
        signal.raise_signal(number)
    with pytest.raises(Stopped):
        early.check()
    assert early.take() == [signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1]
    early.check()


def test_only_waiting_is_ended(early: EarlySignals) -> None:
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Stopped), early.end_waiting():
        raise AssertionError("what was asked for before is heard first")
    early.take()
    main = threading.main_thread().ident
    assert main is not None
    here, there = socket.socketpair()
    soon = threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGTERM))
    soon.start()
    with here, there, pytest.raises(Stopped), early.end_waiting():
        here.recv(1)
    soon.join()
