"""Many listening sockets and few fds: all are served, or one line says why not."""

from __future__ import annotations

from pathlib import Path

import pytest
from supervised import ask, supervised

LISTENERS = 200
WORKERS = 2


def yaml() -> str:
    listeners = "".join(
        f"  l{number}: {{bind: '127.0.0.1:0', pool: app}}\n" for number in range(LISTENERS)
    )
    return (
        f"workers: {WORKERS}\nlisteners:\n{listeners}pools: {{app: {{upstreams: 127.0.0.1:9}}}}\n"
    )


def limited(nofile: int, *more: str) -> list[str]:
    """A command that goes in front of another, which then has so many fds."""
    return ["bash", "-c", f'ulimit -n {nofile}; exec "$@"', "bash", *more]


def test_two_workers_serve_all_of_two_hundred_listeners_with_few_fds(tmp_path: Path) -> None:
    # Each Serve waits while the worker starts: the kernel takes not nearly all of them at once.
    with supervised(tmp_path, yaml(), prefix=limited(LISTENERS * WORKERS + 80)) as running:
        addresses = [running.addresses(f"l{number}")[0] for number in range(LISTENERS)]
        # Eight clients of a listener meet both of its sockets, but for one time in 128.
        met = {(address, ask(address)) for address in addresses for _ in range(8)}
        assert {address for address, _ in met} == set(addresses)
        assert len(met) > 1.9 * LISTENERS
        assert not running.lines("worker died")


@pytest.mark.parametrize("nofile", [LISTENERS, LISTENERS * WORKERS + 60])
def test_with_too_few_fds_for_the_sockets_one_line_says_so(tmp_path: Path, nofile: int) -> None:
    with supervised(tmp_path, yaml(), wait=False, prefix=limited(nofile)) as running:
        assert running.wait() == 1
    (line,) = running.text.splitlines()
    assert line.startswith("RLIMIT_NOFILE: ")
    assert "LimitNOFILE=" in line
    assert not running.lines("worker started")
