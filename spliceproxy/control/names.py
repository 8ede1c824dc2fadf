"""The addresses that listeners bind, looked up before anything is bound or started.

Those of upstreams are found by `discovery`, and may be so later.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from spliceproxy.control.addresses import Place, places_to_bind
from spliceproxy.errors import SpliceproxyError

if TYPE_CHECKING:
    from spliceproxy.config import Address, Config

_THREADS = 16
"""Names that are looked up at the same time."""

Places = Mapping["Address", list[Place]]


class ResolveError(SpliceproxyError):
    """Host names that could not be resolved, one line each."""


@dataclass(slots=True)
class _Lookup:
    key: str
    """Where the address stands in the configuration."""
    address: Address
    places: list[Place] = field(default_factory=list)
    problem: str = ""

    def run(self) -> None:
        try:
            self.places = places_to_bind(self.address)
        except (OSError, UnicodeError) as error:
            self.problem = f"{self.key}: {self.address}: {_explain(self.address.host, error)}"


def resolve_binds(config: Config) -> Places:
    """Where the addresses of all listeners are on this machine, several looked up at once.

    Blocks meanwhile; a signal handler may raise out of it. Raises ResolveError.
    """
    lookups = {
        address: _Lookup(f"listeners.{listener.name}.bind", address)
        for listener in config.listeners.values()
        for address in listener.bind
    }
    _run(list(lookups.values()))
    problems = [one.problem for one in lookups.values() if one.problem]
    if problems:
        raise ResolveError("\n".join(problems))
    return {address: one.places for address, one in lookups.items()}


def _run(lookups: list[_Lookup]) -> None:
    """Run all of them: names in daemon threads, and what needs no look-up at once.

    getaddrinfo(3) cannot be interrupted, and takes its time where DNS is silent: a thread that
    the interpreter waits for at its end (as concurrent.futures has them) would hold up a stop.
    """
    names = []
    for one in lookups:
        if one.address.host and one.address.ip is None:
            names.append(one)
        else:
            one.run()
    todo: SimpleQueue[_Lookup] = SimpleQueue()
    done: SimpleQueue[BaseException | None] = SimpleQueue()
    for one in names:
        todo.put(one)
    for _ in range(min(_THREADS, len(names))):
        threading.Thread(target=_work_off, args=(todo, done), name="lookup", daemon=True).start()
    for _ in names:
        error = done.get()
        if error is not None:
            raise error


def _work_off(todo: SimpleQueue[_Lookup], done: SimpleQueue[BaseException | None]) -> None:
    """Run what is there `todo`, in a thread; each ends with one item in `done`."""
    with suppress(Empty):
        while True:
            one = todo.get_nowait()
            try:
                one.run()
            except BaseException as error:  # a mistake of ours, for the waiting thread
                done.put(error)
            else:
                done.put(None)


def _explain(host: str, error: OSError | UnicodeError) -> str:
    if not isinstance(error, OSError):
        return "not a host name; a label of it is empty or has more than 63 characters"
    if error.errno == socket.EAI_AGAIN:
        return (
            f"{error.strerror}; the DNS servers in /etc/resolv.conf do not answer: "
            "is the network up? (a systemd unit waits for it with After=network-online.target)"
        )
    return f"{error.strerror}; check its spelling: `getent ahosts {host}` must find it"
