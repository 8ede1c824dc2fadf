"""CPUs by affinity and cgroup quota, the settings of the machine, and the limits that will bite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness.found import find_upstreams

from spliceproxy import config
from spliceproxy.config import Config
from spliceproxy.control.budget import FdBudgetError
from spliceproxy.control.limits import find_bites
from spliceproxy.control.machine import Machine, read_machine, usable_cpus
from spliceproxy.control.names import ResolveError, resolve_binds
from spliceproxy.control.plan import make_snapshot, plan_relay
from spliceproxy.control.slots import UpstreamSlots
from spliceproxy.ipc import Snapshot

ROOMY = Machine(
    nofile=1_000_000, somaxconn=65535, ports=60000, pipe_max_size=None, pipe_user_pages=None
)


@pytest.fixture(autouse=True)
def _many_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))


def tree(directory: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return directory


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"proc/self/cgroup": "0::/\n"}, 8),
        ({"proc/self/cgroup": "0::/a/b\n", "cg/a/b/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/a/b\n", "cg/a/cpu.max": "150000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/a\n", "cg/a/cpu.max": "20000 100000\n"}, 1),
        # A container that sees its own cgroup as the root, and the host's path.
        ({"proc/self/cgroup": "0::/docker/1f\n", "cg/cpu.max": "300000 100000\n"}, 3),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/x\n0::/\n",
                "cg/cpu,cpuacct/x/cpu.cfs_quota_us": "400000\n",
                "cg/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/\n",
                "cg/cpu/cpu.cfs_quota_us": "-1\n",
                "cg/cpu/cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
        ({}, 8),
    ],
)
def test_cpus_are_cut_to_the_tightest_quota(
    tmp_path: Path, files: dict[str, str], cpus: int
) -> None:
    root = tree(tmp_path, files)
    assert usable_cpus(root / "proc", root / "cg") == cpus


def test_pipe_limits_bind_only_who_has_no_capability(tmp_path: Path) -> None:
    files = {
        "self/status": "CapEff:\t0000000000000000\n",
        "sys/fs/pipe-user-pages-soft": "16384\n",
        "sys/fs/pipe-max-size": "1048576\n",
        "sys/net/core/somaxconn": "128\n",
        "sys/net/ipv4/ip_local_port_range": "32768\t60999\n",
    }
    machine = read_machine(tree(tmp_path, files))
    assert machine.pipe_user_pages == 16384 - 2048
    assert machine.pipe_max_size == 1048576
    assert machine.somaxconn == 128
    assert machine.ports == 28232
    machine = read_machine(tree(tmp_path, {"self/status": f"CapEff:\t{1 << 21:016x}\n"}))
    assert machine.pipe_user_pages is None
    assert machine.pipe_max_size == 1048576
    machine = read_machine(tree(tmp_path, {"self/status": f"CapEff:\t{1 << 24:016x}\n"}))
    assert machine.pipe_user_pages is None
    assert machine.pipe_max_size is None


def load(more: str = "", upstreams: str = "127.0.0.1:9") -> Config:
    return config.loads(
        "listeners: {web: {bind: '127.0.0.1:0', pool: app}}\n"
        f"pools: {{app: {{upstreams: {upstreams}}}}}\n{more}",
        "test.yaml",
    )


def plan(loaded: Config, machine: Machine = ROOMY, workers: int = 1, sockets: int = 0) -> Snapshot:
    return make_snapshot(loaded, find_upstreams(loaded), machine, workers, sockets, UpstreamSlots())


def bites(
    loaded: Config, machine: Machine, workers: int = 2, sockets: int = 0
) -> dict[str, tuple[str, str]]:
    snapshot = plan(loaded, machine, workers, sockets)
    found = find_bites(loaded, snapshot, machine, workers, sockets)
    return {bite.limit: (bite.effect, bite.remedy) for bite in found}


def test_a_roomy_machine_bites_nobody() -> None:
    assert bites(load(), ROOMY) == {}


def test_each_limit_is_told_with_its_effect_and_remedy() -> None:
    narrow = Machine(
        nofile=1024,
        somaxconn=128,
        ports=28232,
        pipe_max_size=65536,
        pipe_user_pages=1024,
    )
    found = bites(load("max_sessions: 50000\n"), narrow)
    assert list(found) == [
        "RLIMIT_NOFILE",
        "net.core.somaxconn",
        "fs.pipe-max-size",
        "fs.pipe-user-pages-soft",
        "net.ipv4.ip_local_port_range",
    ]
    effect, remedy = found["RLIMIT_NOFILE"]
    assert effect == "at most 720 sessions at once; further clients wait in the accept queue"
    assert remedy.startswith("LimitNOFILE=50304 in the systemd unit, or ulimit -Hn 50304 (")
    assert found["net.core.somaxconn"][1] == "sysctl net.core.somaxconn=4096"
    assert found["fs.pipe-max-size"][1] == "sysctl fs.pipe-max-size=1048576"
    effect, remedy = found["fs.pipe-user-pages-soft"]
    assert effect.startswith("64 pipes of full size for this user")
    assert remedy == "sysctl fs.pipe-user-pages-soft=4096"
    assert not warns(load(), narrow)
    effect, remedy = found["net.ipv4.ip_local_port_range"]
    assert effect == "pool app: at most 28232 sessions to its upstreams at once"
    assert remedy.endswith("or more addresses in pools.app.tcp.source")


def warns(loaded: Config, machine: Machine) -> bool:
    """Whether the pages of pipes are too few for what was asked for."""
    snapshot = plan(loaded, machine, 2)
    [warning] = [
        bite.warning
        for bite in find_bites(loaded, snapshot, machine, 2, 0)
        if bite.limit == "fs.pipe-user-pages-soft"
    ]
    return warning


def test_too_few_pages_for_pipes_are_a_warning_only_against_what_was_asked_for() -> None:
    usual = Machine(1_000_000, 65535, 28232, 1024 * 1024, 14336)
    assert not warns(load(), usual)
    assert bites(load(), usual)["fs.pipe-user-pages-soft"][1] == "a smaller relay.pipe_size"
    asked = load("relay: {max_pipes: 100}\n")
    assert warns(asked, usual)
    remedy = bites(asked, usual)["fs.pipe-user-pages-soft"][1]
    assert remedy == "relay.max_pipes: 56, or sysctl fs.pipe-user-pages-soft=32768"
    assert "fs.pipe-user-pages-soft" not in bites(load("relay: {max_pipes: 50}\n"), usual)
    absurd = bites(load("relay: {max_pipes: 100000}\n"), usual)["fs.pipe-user-pages-soft"][1]
    assert absurd == "relay.max_pipes: 56, or a smaller relay.pipe_size"
    roomy_pipes = Machine(1_000_000, 65535, 28232, None, 14336)
    assert warns(load("relay: {pipe_size: 64MiB}\n"), roomy_pipes)


def test_more_upstreams_or_sources_give_more_ports() -> None:
    narrow = Machine(1_000_000, 65535, 28232, None, None)
    assert bites(load("max_sessions: 50000\n", "[127.0.0.1:9, 127.0.0.1:8]"), narrow) == {}
    assert bites(load("max_sessions: 50000\n", "unix:/run/app.sock"), narrow) == {}


def test_workers_share_the_pipes_and_their_pages() -> None:
    relay = load("relay: {max_pipes: 10}\n").relay
    shared = plan_relay(relay, Machine(1_000_000, 1, 1, None, 14336), 4, 0)
    assert (shared.max_pipes, shared.pipe_pages, shared.pipe_size) == (3, 3584, 1024 * 1024)
    automatic = plan_relay(load().relay, ROOMY, 4, 0)
    assert (automatic.max_pipes, automatic.pipe_pages) == (256, None)
    few_fds = plan_relay(load().relay, Machine(1024, 1, 1, 65536, None), 1, 0)
    assert (few_fds.max_pipes, few_fds.pipe_size) == (120, 65536)


def test_a_host_name_becomes_an_upstream_for_each_of_its_addresses() -> None:
    snapshot = plan(load(upstreams="[{address: localhost:80, weight: 2}]"))
    names = {upstream.name: upstream.weight for upstream in snapshot.pools[0].upstreams}
    assert names.pop("127.0.0.1:80") == 2
    assert names in ({}, {"[::1]:80": 2})


def test_two_names_of_one_address_are_one_upstream_with_both_weights() -> None:
    text = "[{address: 127.0.0.1:80, weight: 2}, {address: localhost:80, weight: 3}]"
    upstreams = plan(load(upstreams=text)).pools[0].upstreams
    assert [one.weight for one in upstreams if one.name == "127.0.0.1:80"] == [5]


def test_all_unknown_names_of_listeners_are_told_at_once() -> None:
    text = "listeners: {web: {bind: ['a.invalid:80', 'b.invalid:80'], pool: app}}\n"
    loaded = config.loads(f"{text}pools: {{app: {{upstreams: 127.0.0.1:9}}}}\n", "test.yaml")
    with pytest.raises(ResolveError) as caught:
        resolve_binds(loaded)
    first, second = str(caught.value).splitlines()
    assert first.startswith("listeners.web.bind: a.invalid:80: ")
    assert second.startswith("listeners.web.bind: b.invalid:80: ")


def test_values_of_the_configuration_reach_the_plan() -> None:
    more = (
        "timeouts: {idle: off, connect: 1s}\n"
        "tcp: {keepalive: {idle: 7s}, user_timeout: 1500ms, buffers: {send: 64KiB}}\n"
        "log: {format: json, sessions: {to: 'file:/tmp/x', keep: errors, sample: 50%}}\n"
    )
    snapshot = plan(load(more))
    pool, listener = snapshot.pools[0], snapshot.listeners[0]
    assert (pool.idle_timeout, pool.connect_timeout) == (None, 1.0)
    assert pool.tcp.keepalive == (7, 10, 3)
    assert (pool.tcp.user_timeout_ms, pool.tcp.send_buffer, pool.tcp.receive_buffer) == (
        1500,
        65536,
        0,
    )
    assert (listener.keep, listener.sample, listener.slot) == ("errors", 0.5, 0)
    assert (snapshot.sessions_to, snapshot.log_format) == ("file:/tmp/x", "json")


def test_listening_sockets_of_all_workers_and_pipes_take_room_from_sessions() -> None:
    machine = Machine(nofile=1024, somaxconn=65535, ports=1, pipe_max_size=None, pipe_user_pages=10)
    snapshot = plan(load("relay: {max_pipes: 20}\n"), machine, workers=2, sockets=400)
    # Each worker: 400 sockets, 64 fds to spare, 10 pipes of 2 fds; a session has 2.
    assert snapshot.worker_sessions == (1024 - 400 - 64 - 20) // 2
    found = bites(load("max_sessions: 1000\nrelay: {max_pipes: 20}\n"), machine, 2, 400)
    effect, remedy = found["RLIMIT_NOFILE"]
    assert effect.startswith("at most 540 sessions at once")
    assert remedy.startswith("LimitNOFILE=1484 in the systemd unit")


@pytest.mark.parametrize(("nofile", "sockets", "workers"), [(469, 400, 2), (600, 400, 80)])
def test_a_start_without_room_for_sessions_is_refused_in_one_line(
    nofile: int, sockets: int, workers: int
) -> None:
    with pytest.raises(FdBudgetError) as caught:
        plan(load(), Machine(nofile, 65535, 1, None, None), workers, sockets)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(
        f"RLIMIT_NOFILE: {nofile} open files leave no room for sessions beside 400 listening "
        "sockets (one for each address and worker); LimitNOFILE="
    )
