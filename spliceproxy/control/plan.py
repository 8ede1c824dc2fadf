"""From the configuration to what a worker obeys: names resolved, budgets shared out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spliceproxy.control.access import NO_TABLES, Tables
from spliceproxy.control.addresses import Place
from spliceproxy.control.budget import FDS_PER_PIPE, SPARE_FDS, worker_sessions
from spliceproxy.control.discovery.found import FoundAt, lower, within
from spliceproxy.control.hash_tables import HASHES, plan_tables
from spliceproxy.control.machine import Machine
from spliceproxy.control.plan_intake import plan_intake
from spliceproxy.control.plan_limits import plan_limits, with_planes
from spliceproxy.control.plan_weights import NO_WEIGHTS, SetWeights
from spliceproxy.control.slots import UpstreamSlots
from spliceproxy.control.tls import NO_TLS, TlsPlans
from spliceproxy.errors import SpliceproxyError
from spliceproxy.ipc import (
    EjectPlan,
    ListenerPlan,
    PoolPlan,
    QueuePlan,
    RelayPlan,
    Snapshot,
    TcpPlan,
    UpstreamPlan,
)
from spliceproxy.telemetry.board import MAX_LISTENERS

if TYPE_CHECKING:
    from spliceproxy.config import Config, Eject, Pool, PoolTcp, Queue, Relay

_PIPES = 1024
"""Pipes of all workers together where `relay.max_pipes` is auto: 512 sessions in full bulk
transfer at the same instant, as an idle session owns none."""
_PIPE_SHARE = 4
"""At most one fd of so many is a pipe's; the rest are for sessions."""
_FEWEST_PIPES = 2
"""One for each direction of one session."""


class TooManyListenersError(SpliceproxyError):
    """More listeners than the board has counters for."""


def make_snapshot(
    config: Config,
    found: FoundAt,
    machine: Machine,
    workers: int,
    sockets: int,
    slots: UpstreamSlots,
    access: Tables = NO_TABLES,
    tls: TlsPlans = NO_TLS,
    weights: SetWeights = NO_WEIGHTS,
    log_level: str | None = None,
) -> Snapshot:
    """The snapshot of `config` for each of `workers` on this machine.

    `found` says what the addresses of the upstreams stand for; `sockets` is the number of listening
    sockets of all workers together; `slots` gives each upstream its place on the board; `access`
    are the tables of access rules, `tls` what is told of TLS; `weights` and `log_level` are what
    somebody set in place of those of the configuration. Raises TooManyListenersError,
    TooManyUpstreamsError, FdBudgetError.
    """
    if len(config.listeners) > MAX_LISTENERS:
        raise TooManyListenersError(
            f"listeners: {len(config.listeners)} of them; one process has at most {MAX_LISTENERS}"
        )
    relay = plan_relay(config.relay, machine, workers, sockets)
    # A worker maps the planes of each listener that has some, which keeps an fd.
    maps = len(with_planes(config))
    return Snapshot(
        listeners=plan_listeners(config, slots, access, tls),
        pools=plan_pools(config, found, slots, tls, weights),
        relay=relay,
        max_sessions=config.max_sessions,
        worker_sessions=worker_sessions(machine, relay, sockets + maps, workers),
        sessions_to=config.log.sessions.to,
        log_level=log_level or config.log.level,
        log_format=config.log.format,
    )


def plan_listeners(
    config: Config, slots: UpstreamSlots, access: Tables, tls: TlsPlans = NO_TLS
) -> tuple[ListenerPlan, ...]:
    """The listeners of a snapshot."""
    counted = with_planes(config)
    return tuple(
        ListenerPlan(
            name=listener.name,
            slot=slots.listener_slot(listener.name, config.listeners),
            pool=listener.pool,
            max_sessions=listener.max_sessions,
            keep=listener.log.keep,
            sample=listener.log.sample,
            intake=plan_intake(listener, config.pools),
            access=access.get(listener.name),
            on_refuse=listener.on_refuse,
            rate_up=listener.bandwidth.up if listener.bandwidth else None,
            rate_down=listener.bandwidth.down if listener.bandwidth else None,
            limits=plan_limits(listener, slots, counted),
            tls=tls.listeners.get(listener.name),
        )
        for listener in config.listeners.values()
    )


def plan_pools(
    config: Config,
    found: FoundAt,
    slots: UpstreamSlots,
    tls: TlsPlans = NO_TLS,
    weights: SetWeights = NO_WEIGHTS,
) -> tuple[PoolPlan, ...]:
    """The pools of a snapshot. Raises TooManyUpstreamsError."""
    return tuple(_plan_pool(pool, found, slots, tls, weights) for pool in config.pools.values())


def _plan_pool(
    pool: Pool, found: FoundAt, slots: UpstreamSlots, tls: TlsPlans, weights: SetWeights
) -> PoolPlan:
    upstreams = weights.obeyed(pool.name, _plan_upstreams(pool, found, slots))
    return PoolPlan(
        name=pool.name,
        balance=pool.balance,
        upstreams=upstreams,
        slot=slots.pool_slot(pool.name),
        max_sessions=pool.max_sessions,
        panic=pool.panic,
        tables=plan_tables(upstreams) if pool.balance in HASHES else {},
        retries=pool.retries,
        connect_timeout=pool.timeouts.connect,
        idle_timeout=pool.timeouts.idle,
        half_close_timeout=pool.timeouts.half_close,
        session_timeout=pool.timeouts.session,
        tcp=_plan_tcp(pool.tcp),
        eject=_plan_eject(pool.eject),
        slow_start=bool(pool.slow_start) and pool.balance not in HASHES,
        queue=_plan_queue(pool.queue),
        replay=pool.replay,
        send_proxy=pool.send_proxy,
        tls=tls.pools.get(pool.name),
    )


def _plan_eject(eject: Eject | None) -> EjectPlan | None:
    if eject is None:
        return None
    return EjectPlan(eject.after, "connect" in eject.on, "early_close" in eject.on)


def _plan_queue(queue: Queue | None) -> QueuePlan | None:
    if queue is None:
        return None
    return QueuePlan(queue.size, queue.timeout, queue.when == "full_or_down")


def _plan_upstreams(pool: Pool, found: FoundAt, slots: UpstreamSlots) -> tuple[UpstreamPlan, ...]:
    """Each address once. Where two names meet at one address, their weights add up, and the lower
    tier and the lower limit hold."""
    merged: dict[Place, UpstreamPlan] = {}
    for upstream in pool.upstreams:
        for one in within(upstream, found.get(upstream.address, ())):
            place, other = one.place, merged.get(one.place)
            weight, tier, limit = one.weight, one.tier, one.max_sessions
            if other is not None:
                weight += other.weight
                tier = min(tier, other.tier)
                limit = lower(limit, other.max_sessions)
            merged[place] = UpstreamPlan(
                name=str(place),
                family=int(place.family),
                address=place.address,
                weight=weight,
                slot=slots.slot(pool.name, str(place)),
                tier=tier,
                max_sessions=limit,
                server_name=one.server_name if other is None else other.server_name,
            )
    return tuple(merged.values())


def _plan_tcp(tcp: PoolTcp) -> TcpPlan:
    keepalive = tcp.keepalive
    return TcpPlan(
        nodelay=tcp.nodelay,
        keepalive=(
            (max(1, round(keepalive.idle)), max(1, round(keepalive.interval)), keepalive.count)
            if keepalive
            else None
        ),
        user_timeout_ms=max(1, round(tcp.user_timeout * 1000)) if tcp.user_timeout else 0,
        receive_buffer=tcp.buffers.receive or 0,
        send_buffer=tcp.buffers.send or 0,
        interface=tcp.interface or "",
        mark=tcp.mark or 0,
        sources=tuple(str(ip) for ip in tcp.source),
    )


def plan_relay(relay: Relay, machine: Machine, workers: int, sockets: int) -> RelayPlan:
    """One worker's share of the pipes and of the pages that the user's pipes may have.

    `sockets` are all workers' listening sockets, for whose fds each worker keeps room.
    """
    wanted = _PIPES if relay.max_pipes is None else relay.max_pipes
    by_fds = max(0, machine.nofile - sockets - SPARE_FDS) // (FDS_PER_PIPE * _PIPE_SHARE)
    pages = machine.pipe_user_pages
    return RelayPlan(
        mode=relay.mode,
        pipe_size=min(relay.pipe_size, machine.pipe_max_size or relay.pipe_size),
        max_pipes=max(_FEWEST_PIPES, min(-(-wanted // workers), by_fds)),
        pipe_pages=None if pages is None else pages // workers,
    )
