"""What is tried at the start, so that it does not fail session by session."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from supervised import supervised
from unprivileged import as_nobody, needs_root

from spliceproxy import config
from spliceproxy.config import Config
from spliceproxy.control.pool_options import find_pool_problems
from spliceproxy.control.records import find_record_problems


def load(tcp: str = "{}", upstreams: str = "127.0.0.1:9", more: str = "") -> Config:
    return config.loads(
        "listeners: {web: {bind: '127.0.0.1:0', pool: app}}\n"
        f"pools: {{app: {{upstreams: {upstreams}, tcp: {tcp}}}}}\n{more}",
        "test.yaml",
    )


def problems(tcp: str, upstreams: str = "127.0.0.1:9") -> list[str]:
    return list(find_pool_problems(load(tcp, upstreams).pools.values()))


NOT_HERE = (
    "no interface of this machine has this address; `ip address` lists them, and sysctl "
    "net.ipv{}.ip_nonlocal_bind=1 allows one that comes later"
)


def test_a_pool_that_asks_for_what_there_is_has_no_problem() -> None:
    assert problems("{interface: lo, source: [127.0.0.1, '::1'], keepalive: {idle: 7s}}") == []


def test_all_problems_of_a_pool_are_told_with_key_and_remedy() -> None:
    assert problems("{interface: nosuch0, source: [192.0.2.1, '2001:db8::1', 127.0.0.1]}") == [
        "pools.app.tcp.interface: nosuch0: no such interface; `ip link` lists them",
        f"pools.app.tcp.source: 192.0.2.1: {NOT_HERE.format(4)}",
        f"pools.app.tcp.source: 2001:db8::1: {NOT_HERE.format(6)}",
    ]


@needs_root
def test_a_mark_names_the_capability_that_it_needs() -> None:
    def check() -> None:
        assert problems("{mark: 7}") == [
            (
                "pools.app.tcp.mark: 7: not permitted; it needs CAP_NET_ADMIN: "
                "AmbientCapabilities=CAP_NET_ADMIN in the systemd unit, or --cap-add NET_ADMIN "
                "for a container"
            )
        ]

    as_nobody(check)


def test_a_pool_of_unix_upstreams_needs_none_of_it() -> None:
    assert problems("{interface: nosuch0, source: 192.0.2.1}", "unix:/run/app.sock") == []


def test_pools_and_listeners_are_told_at_once_and_nothing_is_started(tmp_path: Path) -> None:
    records = tmp_path / "none" / "records.log"
    yaml = (
        "listeners: {web: {bind: 192.0.2.1:80, pool: app}}\n"
        "pools: {app: {upstreams: 127.0.0.1:9, tcp: {source: 192.0.2.7}}}\n"
        f"log: {{format: json, sessions: {{to: 'file:{records}'}}}}\n"
    )
    with supervised(tmp_path, yaml, wait=False, log="") as running:
        assert running.wait() == 1
    assert running.text.splitlines() == [
        f"pools.app.tcp.source: 192.0.2.7: {NOT_HERE.format(4)}",
        (
            f"log.sessions.to: {records}: No such file or directory; make its directory: "
            f"mkdir -p {records.parent}"
        ),
        f"listeners.web.bind: 192.0.2.1:80: {NOT_HERE.format(4)}",
    ]
    assert not running.lines("worker started")


def record_problems(path: Path) -> list[str]:
    return list(find_record_problems(load(more=f"log: {{sessions: {{to: 'file:{path}'}}}}\n")))


def test_a_record_file_that_can_be_written_keeps_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "records.log"
    assert record_problems(path) == []
    path.write_text("kept")
    assert record_problems(path) == []
    assert path.read_text() == "kept"
    assert list(find_record_problems(load())) == []


def test_a_record_file_that_cannot_be_written_is_told_with_its_remedy(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert record_problems(fifo) == [
        (
            f"log.sessions.to: {fifo}: No such device or address; nobody reads this FIFO; "
            "start its reader first"
        )
    ]
    assert record_problems(tmp_path) == [
        f"log.sessions.to: {tmp_path}: Is a directory; name a file in it"
    ]


@needs_root
def test_a_directory_of_somebody_else_is_no_place_for_records(tmp_path: Path) -> None:
    path = tmp_path / "records.log"

    def check() -> None:
        assert record_problems(path) == [
            (
                f"log.sessions.to: {path}: Permission denied; let the user with the id 65534 write "
                "there"
            )
        ]

    as_nobody(check)


@pytest.mark.parametrize("name", ["nosuch.invalid", "a" * 63 + ".invalid"])
def test_an_unknown_name_of_a_listener_is_told_with_key_reason_and_remedy(
    tmp_path: Path, name: str
) -> None:
    yaml = (
        f"listeners: {{web: {{bind: ['{name}:80', '{name}:81'], pool: app}}}}\n"
        f"pools: {{app: {{upstreams: '{name}:82'}}}}\n"
    )
    with supervised(tmp_path, yaml, wait=False) as running:
        assert running.wait() == 1
    lines = running.text.splitlines()
    assert len(lines) == 2
    for line, port in zip(lines, (80, 81), strict=True):
        assert line.startswith(f"listeners.web.bind: {name}:{port}: ")
        # Which of the two it is depends on whether this machine has DNS.
        assert f"`getent ahosts {name}` must find it" in line or "/etc/resolv.conf" in line
