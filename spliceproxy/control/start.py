"""From a configuration to a running proxy."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog

from spliceproxy.control.fleet import DEFAULT_PATIENCE, Patience
from spliceproxy.control.limits import find_bites
from spliceproxy.control.machine import raise_nofile, read_machine, usable_cpus
from spliceproxy.control.opening import open_sockets
from spliceproxy.control.plan import make_snapshot
from spliceproxy.control.supervisor import WORKER_COMMAND, Supervisor, name_process
from spliceproxy.control.systemd import Notifier, take_handed_sockets
from spliceproxy.telemetry.log import hold_standard_fds, set_up

if TYPE_CHECKING:
    from spliceproxy.config import Config

_log = structlog.get_logger()


def run(
    config: Config,
    command: Sequence[str] = WORKER_COMMAND,
    patience: Patience = DEFAULT_PATIENCE,
) -> int:
    """Run the proxy in this process and its workers until a signal ends it.

    `command` starts a worker; see WorkerProcess. Returns the exit code. Raises BindError where an
    address could not be had, and ResolveError for host names that are not known; then nothing was
    started.
    """
    hold_standard_fds()
    set_up(config.log.level, config.log.format)
    name_process()
    notifier = Notifier.from_environment()
    handed = take_handed_sockets()
    raise_nofile()
    machine = read_machine()
    workers = config.workers or usable_cpus()
    snapshot = make_snapshot(config, machine, workers)
    for bite in find_bites(config, snapshot, machine, workers):
        _log.warning(
            "a limit of this machine will bite",
            limit=bite.limit,
            value=bite.value,
            wanted=bite.wanted,
            effect=bite.effect,
            remedy=bite.remedy,
        )
    sockets = open_sockets(tuple(config.listeners.values()), workers, handed)
    for listener, address in dict.fromkeys((one.listener, str(one)) for one in sockets):
        _log.info("listening", listener=listener, address=address)
    supervisor = Supervisor(
        snapshot,
        sockets,
        workers=workers,
        drain=config.timeouts.drain,
        notifier=notifier,
        command=command,
        patience=patience,
    )
    return asyncio.run(supervisor.run())
