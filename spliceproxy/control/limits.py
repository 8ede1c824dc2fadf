"""Which limits of this machine will bite: the numbers, the effect, and the remedy."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spliceproxy.control.budget import FEW_SESSIONS, fds_wanted, nofile_remedy
from spliceproxy.control.machine import Machine
from spliceproxy.ipc import PoolPlan, Snapshot

if TYPE_CHECKING:
    from spliceproxy.config import Config


_FEW_PIPES = 2
"""Of a worker: one session in full bulk transfer."""
_MOST_PIPE_MEMORY = 256 * 1024 * 1024
"""Bytes in the pipes of one user that may be recommended: the kernel holds them in memory."""


@dataclass(frozen=True, slots=True)
class Bite:
    """One limit that will be felt."""

    limit: str
    value: int
    wanted: int
    effect: str
    remedy: str
    warning: bool = True
    """Whether it goes against what was asked for; else it is good to know."""


def find_bites(
    config: Config, snapshot: Snapshot, machine: Machine, workers: int, sockets: int
) -> Iterator[Bite]:
    """The limits that bite, in the order of what hurts most; `sockets` as in make_snapshot."""
    yield from _nofile(snapshot, machine, workers, sockets)
    yield from _backlog(config, machine)
    yield from _pipe_size(config, snapshot)
    yield from _pipe_pages(config, snapshot, machine, workers)
    yield from _ports(snapshot, machine)


def _nofile(snapshot: Snapshot, machine: Machine, workers: int, sockets: int) -> Iterator[Bite]:
    fits = snapshot.worker_sessions * workers
    wanted = snapshot.max_sessions or FEW_SESSIONS * workers
    if fits >= wanted:
        return
    fds = fds_wanted(snapshot.relay, sockets, -(-wanted // workers))
    yield Bite(
        "RLIMIT_NOFILE",
        machine.nofile,
        fds,
        f"at most {fits} sessions at once; further clients wait in the accept queue",
        nofile_remedy(fds),
    )


def _backlog(config: Config, machine: Machine) -> Iterator[Bite]:
    backlog = max(listener.tcp.backlog for listener in config.listeners.values())
    if backlog > machine.somaxconn:
        yield Bite(
            "net.core.somaxconn",
            machine.somaxconn,
            backlog,
            f"at most {machine.somaxconn} clients wait in one accept queue; then SYNs are lost",
            f"sysctl net.core.somaxconn={backlog}",
        )


def _pipe_size(config: Config, snapshot: Snapshot) -> Iterator[Bite]:
    wanted, size = config.relay.pipe_size, snapshot.relay.pipe_size
    if size < wanted:
        yield Bite(
            "fs.pipe-max-size",
            size,
            wanted,
            f"relay.pipe_size is {size} bytes: more system calls for each byte",
            f"sysctl fs.pipe-max-size={wanted}",
        )


def _pipe_pages(
    config: Config, snapshot: Snapshot, machine: Machine, workers: int
) -> Iterator[Bite]:
    """`max_pipes: auto` is as many as there may be, so it warns only where hardly one may."""
    if machine.pipe_user_pages is None or snapshot.relay.mode == "copy":
        return
    page = resource.getpagesize()
    pages_each = -(-snapshot.relay.pipe_size // page)
    full = machine.pipe_user_pages // pages_each
    pipes = snapshot.relay.max_pipes * workers
    if pipes <= full:
        return
    asked = config.relay.max_pipes or _FEW_PIPES * workers
    pages = _round_up(pipes * pages_each)
    remedies = [f"relay.max_pipes: {full}"] if config.relay.max_pipes and full else []
    if pages * page <= _MOST_PIPE_MEMORY:
        remedies.append(f"sysctl fs.pipe-user-pages-soft={pages}")
    else:
        remedies.append("a smaller relay.pipe_size")
    yield Bite(
        "fs.pipe-user-pages-soft",
        machine.pipe_user_pages,
        pipes * pages_each,
        f"{full} pipes of full size for this user; with more bulk sessions than that, "
        "smaller pipes or copying, which is slower",
        ", or ".join(remedies),
        warning=asked > full,
    )


def _ports(snapshot: Snapshot, machine: Machine) -> Iterator[Bite]:
    """Connections of one source to one upstream differ in the local port only (tcp(7))."""
    for pool in snapshot.pools:
        if not pool.upstreams:
            continue  # they are not found yet
        ports = _connections(pool, machine)
        asked = [
            listener.max_sessions or snapshot.max_sessions or 0
            for listener in snapshot.listeners
            if pool.name in listener.pools
        ]
        wanted = min(sum(asked), snapshot.max_sessions or sum(asked))
        if ports is not None and wanted > ports:
            yield Bite(
                "net.ipv4.ip_local_port_range",
                machine.ports,
                wanted,
                f"pool {pool.name}: at most {ports} sessions to its upstreams at once",
                f'sysctl net.ipv4.ip_local_port_range="1024 65535", or more addresses in '
                f"pools.{pool.name}.tcp.source",
            )


def _connections(pool: PoolPlan, machine: Machine) -> int | None:
    """Connections that all upstreams of a pool together can have; None: no limit but fds."""
    total = 0
    for upstream in pool.upstreams:
        if upstream.family == socket.AF_UNIX:
            return None
        total += machine.ports * max(1, len(pool.tcp.sources))
    return total


def _round_up(pages: int) -> int:
    """The next power of two: a number that a person would write."""
    return 1 << (pages - 1).bit_length()
