"""`limits:` that come, go and move by reloads, and the room that they take on the board."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from harness import upstreams
from harness.generations import generations
from harness.proxy import Proxy
from harness.wait import wait_until
from limits_support import all_back, come, counted, limited, limits, reload
from session_support import board_of, proxy_yaml, running_proxy

from spliceproxy.control.slots import UpstreamSlots
from spliceproxy.telemetry.board import Board
from spliceproxy.telemetry.counters import region_bytes

OFF = {"limits": "off"}


def board_size(proxy: Proxy, workers: int) -> int:
    with board_of(proxy, workers) as board:
        return os.fstat(board.planes._fd).st_size


def test_limits_that_a_reload_brings_hold_over_all_workers_and_one_that_came_since() -> None:
    with limited(listener=OFF) as (proxy, board), ExitStack() as stack:
        assert all(come(proxy, "127.0.0.2", stack) for _ in range(10))
        assert board.planes.number == 0
        reload(proxy, max_sessions=6)
        assert board.planes.number == 1
        with ExitStack() as some:  # sessions of before do not count
            assert [come(proxy, "127.0.0.2", some) for _ in range(12)].count(True) == 6
            assert sum(counted(board)) == 6
        all_back(board)
        [victim] = [e["pid"] for e in proxy.log("worker started") if e["worker"] == 1]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(proxy.log("worker started")) == 3, 10, "a new worker")
        assert [come(proxy, "127.0.0.2", stack) for _ in range(20)].count(True) == 6
        stack.close()
        all_back(board)


def test_a_board_without_limited_clients_has_no_planes() -> None:
    listeners: dict[str, Any] = {
        "web": {"bind": "127.0.0.1:0", "pool": "app", "max_sessions": 50},
        "other": {"bind": "127.0.0.1:0", "pool": "app", **limits({"per_second": 1, "burst": 1})},
    }
    with (
        upstreams.echo() as upstream,
        running_proxy(proxy_yaml(upstream.address, listeners=listeners, workers=2)) as proxy,
    ):
        assert board_size(proxy, 2) == Board.counters_start(2) + 3 * region_bytes()


def test_a_listener_that_is_renamed_takes_the_planes_and_its_sessions_leave_them() -> None:
    with limited(max_sessions=2) as (proxy, board), ExitStack() as stack:
        assert all(come(proxy, "127.0.0.2", stack) for _ in range(2))
        text = proxy.config.read_text().replace('"web": {"bind"', '"new": {"bind"')
        assert '"new"' in text
        proxy.config.write_text(text)
        proxy.signal(signal.SIGHUP)
        proxy.wait_log("reloaded")
        assert board.planes.number == 1
        assert sum(counted(board)) == 2
        stack.close()
        all_back(board)


def test_where_files_may_not_be_long_enough_the_reload_is_refused_in_one_line() -> None:
    fsize = ("prlimit", f"--fsize={80 << 20}", "--")
    text = proxy_yaml
    with (
        upstreams.echo() as upstream,
        running_proxy(text(upstream.address, listener=OFF, workers=2), wrapper=fsize) as proxy,
    ):
        proxy.config.write_text(
            proxy.config.read_text().replace('"off"', '{"per_client": {"max_sessions": 1}}')
        )
        proxy.signal(signal.SIGHUP)
        [problem] = proxy.wait_log("not reloaded: nothing has changed")["problems"]
        assert problem == (
            "limits.per_client: no room for the counts of clients on the board: File too large; "
            "LimitFSIZE=infinity in the systemd unit, or ulimit -f unlimited"
        )
        with ExitStack() as stack:
            assert all(come(proxy, "127.0.0.2", stack) for _ in range(3))


def test_where_files_may_not_be_long_enough_for_the_board_the_start_says_so(tmp_path: Path) -> None:
    config = tmp_path / "app.yaml"
    config.write_text(f"workers: 2\nadmin: off\n{proxy_yaml('127.0.0.1:9')}")
    command = ["prlimit", f"--fsize={8 << 20}", sys.executable, "-m", "spliceproxy", "run"]
    done = subprocess.run([*command, str(config)], capture_output=True, text=True, timeout=20)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("spliceproxy: no room for what 2 workers count")
    assert last.endswith("LimitFSIZE=infinity in the systemd unit, or ulimit -f unlimited")


def test_planes_go_by_the_name_of_their_listener_and_a_new_one_takes_the_first_that_is_free() -> (
    None
):
    slots = UpstreamSlots()
    assert [slots.planes(name, "abc") for name in "abc"] == [0, 1, 2]
    assert [slots.planes(name, "abcd") for name in "bad"] == [1, 0, 3]
    assert [slots.planes(name, "cde") for name in "cde"] == [2, 3, 0]
    assert [slots.planes(name, "bcdef") for name in "bcdef"] == [1, 2, 3, 0, 4]


def test_the_process_of_an_upgrade_counts_its_own_sessions_and_both_give_theirs_back(
    tmp_path: Path,
) -> None:
    with upstreams.echo() as upstream, ExitStack() as stack:
        text = proxy_yaml(upstream.address, listener=limits(max_sessions=3))
        crew = stack.enter_context(generations(text, tmp_path, workers=2))
        before, after = stack.enter_context(ExitStack()), stack.enter_context(ExitStack())
        assert [come(crew.proxy, "127.0.0.2", before) for _ in range(6)].count(True) == 3
        crew.upgrade()
        assert [come(crew.proxy, "127.0.0.2", after) for _ in range(6)].count(True) == 3
        before.close()
        crew.wait_alone()
        assert not come(crew.proxy, "127.0.0.2")
        after.close()
        wait_until(lambda: come(crew.proxy, "127.0.0.2"), 10, "a place is free")
        crew.stop()
