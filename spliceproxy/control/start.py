"""From a configuration to a running proxy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from spliceproxy.control.access import AccessTables
from spliceproxy.control.discovery import Discovery
from spliceproxy.control.doors import Doors, open_doors
from spliceproxy.control.early_signals import EarlySignals, Stopped
from spliceproxy.control.events import Events
from spliceproxy.control.file_watch import Sources
from spliceproxy.control.fleet import DEFAULT_PATIENCE, Patience
from spliceproxy.control.house import AdminMaker
from spliceproxy.control.inherited import Claim, Predecessor
from spliceproxy.control.limits import find_bites
from spliceproxy.control.log_level import LogLevel
from spliceproxy.control.machine import Machine, raise_nofile, read_machine, usable_cpus
from spliceproxy.control.names import resolve_binds
from spliceproxy.control.opening import bind_sockets, close_sockets, let_in
from spliceproxy.control.parts import InForce
from spliceproxy.control.plan import make_snapshot
from spliceproxy.control.plan_weights import SetWeights
from spliceproxy.control.pool_options import find_pool_problems
from spliceproxy.control.records import find_record_problems
from spliceproxy.control.reload import Setup
from spliceproxy.control.slots import UpstreamSlots
from spliceproxy.control.sockets import ListeningSocket, tell_addresses
from spliceproxy.control.supervisor import WORKER_COMMAND, Supervisor
from spliceproxy.control.systemd import Notifier, take_handed_sockets
from spliceproxy.control.tls import Certificates
from spliceproxy.errors import EXIT_OK, SpliceproxyError
from spliceproxy.ipc import Snapshot
from spliceproxy.telemetry.log import hold_standard_fds, set_up, tap

if TYPE_CHECKING:
    from spliceproxy.config import Config

_log = structlog.get_logger()


def run(
    config: Config,
    command: Sequence[str] = WORKER_COMMAND,
    patience: Patience = DEFAULT_PATIENCE,
    load: Callable[[], Config] | None = None,
    sources: Sources | None = None,
    *,
    watch: bool = False,
    admin: AdminMaker | None = None,
) -> int:
    """Run the proxy in this process and its workers until a signal ends it.

    `command` starts a worker; see WorkerProcess. `load` reads the configuration again, for a
    reload; without it SIGHUP changes nothing. `sources` says which files it reads, and `watch`
    has it read again whenever they change. `admin` makes what serves the doors, which there are not
    without it. Returns the exit code. Raises SpliceproxyError
    where an address could not be had, a listener's name is not known, or the like; then nothing was
    started. To be called in the main thread; signals are blocked afterwards, as the process is
    about to exit.
    """
    signals = EarlySignals()
    events, predecessor = Events(), None
    try:
        hold_standard_fds()
        set_up(config.log.level, config.log.format)
        tap(events.take)
        predecessor = Predecessor.from_environment()
        setup = _setup(config, load, sources, watch=watch)
        return _run(config, command, patience, setup, admin, signals, events, predecessor)
    except SpliceproxyError as error:
        if predecessor is not None:
            predecessor.link.refuse(str(error))
        raise
    except Stopped:
        _log.info("stopped before it served")
        return EXIT_OK
    finally:
        signals.mute()


def _run(
    config: Config,
    command: Sequence[str],
    patience: Patience,
    setup: Setup,
    admin: AdminMaker | None,
    signals: EarlySignals,
    events: Events,
    predecessor: Predecessor | None,
) -> int:
    inherited = None if predecessor is None else predecessor.door
    open_all = nullcontext(Doors([])) if admin is None else open_doors(config, inherited)
    with open_all as doors:
        if predecessor is not None:
            predecessor.close_doors()
        part = None if admin is None else admin(config, doors)
        sockets, snapshot = _prepare(config, setup, signals, predecessor)
        supervisor = Supervisor(
            InForce(config, snapshot),
            sockets,
            setup=setup,
            notifier=Notifier.from_environment(),
            signals=signals,
            events=events,
            doors=doors,
            admin=part,
            predecessor=predecessor,
            command=command,
            patience=patience,
        )
        return asyncio.run(supervisor.run())


def _setup(
    config: Config, load: Callable[[], Config] | None, sources: Sources | None, *, watch: bool
) -> Setup:
    """Have this process be what it is to be, and look at what there is."""
    _name_process()
    raise_nofile()
    return Setup(
        load,
        read_machine(),
        config.workers or usable_cpus(),
        UpstreamSlots(),
        Discovery(),
        AccessTables(),
        Certificates(),
        LogLevel(config.log.level),
        SetWeights(),
        sources,
        watch,
    )


def _prepare(
    config: Config, setup: Setup, signals: EarlySignals, predecessor: Predecessor | None
) -> tuple[list[ListeningSocket], Snapshot]:
    """All that may fail, and then the listening sockets, with clients let in; where there is a
    predecessor, nobody is let in before it lets go."""
    machine, workers = setup.machine, setup.workers
    with signals.end_waiting():
        places = resolve_binds(config)
        setup.access.load(config)
        setup.certificates.load(config)
    problems = [*find_pool_problems(config.pools.values()), *find_record_problems(config)]
    listeners, handed = tuple(config.listeners.values()), take_handed_sockets()
    claim = Claim(missing=[*listeners])
    if predecessor is not None:
        closed = predecessor.closed_listeners()
        listeners = tuple(one for one in listeners if one.name not in closed)
        claim = predecessor.claim(listeners, workers)
    sockets = bind_sockets(claim.missing, places, workers, handed, problems)
    if predecessor is not None:
        predecessor.waiting += sockets
        sockets = [*claim.sockets, *sockets]
    try:
        found = setup.discovery.found(config)
        tables, tls = setup.access.tables(config), setup.certificates.plans(config)
        snapshot = make_snapshot(
            config, found, machine, workers, len(sockets), setup.slots, tables, tls
        )
        _tell_bites(config, snapshot, machine, workers, len(sockets))
        signals.check()
        if predecessor is None:
            let_in(sockets)
    except BaseException:
        close_sockets(sockets)
        raise
    if predecessor is None:
        tell_addresses("listening", sockets)
    return sockets, snapshot


def _tell_bites(
    config: Config, snapshot: Snapshot, machine: Machine, workers: int, sockets: int
) -> None:
    for bite in find_bites(config, snapshot, machine, workers, sockets):
        tell = _log.warning if bite.warning else _log.info
        tell(
            "a limit of this machine will bite" if bite.warning else "a limit of this machine",
            limit=bite.limit,
            value=bite.value,
            wanted=bite.wanted,
            effect=bite.effect,
            remedy=bite.remedy,
        )


def _name_process() -> None:
    """Be `spliceproxy`, not `python3`, in ps and top (proc_pid_comm(5))."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text("spliceproxy")
