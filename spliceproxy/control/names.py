"""All names and addresses of a configuration, looked up before anything is bound or started."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from spliceproxy.control.addresses import Place, places_to_bind, places_to_connect
from spliceproxy.errors import SpliceproxyError

if TYPE_CHECKING:
    from spliceproxy.config import Address, Config

_THREADS = 16
"""Names that are looked up at the same time."""

Places = Mapping["Address", list[Place]]


class ResolveError(SpliceproxyError):
    """Host names that could not be resolved, one line each."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """What each address of the configuration means on this machine."""

    bind: Places
    connect: Places


@dataclass(slots=True)
class _Lookup:
    key: str
    """Where the address stands in the configuration."""
    address: Address
    ask: Callable[[Address], list[Place]]
    places: list[Place] = field(default_factory=list)
    problem: str = ""

    def run(self) -> None:
        try:
            self.places = self.ask(self.address)
        except (OSError, UnicodeError) as error:
            self.problem = f"{self.key}: {self.address}: {_explain(self.address.host, error)}"


def resolve_all(config: Config) -> Resolved:
    """Look up all addresses of listeners and upstreams, several at once.

    Blocks meanwhile; a signal handler may raise out of it. Raises ResolveError.
    """
    bind = {
        address: _Lookup(f"listeners.{listener.name}.bind", address, places_to_bind)
        for listener in config.listeners.values()
        for address in listener.bind
    }
    connect = {
        upstream.address: _Lookup(
            f"pools.{pool.name}.upstreams", upstream.address, places_to_connect
        )
        for pool in config.pools.values()
        for upstream in pool.upstreams
    }
    lookups = [*bind.values(), *connect.values()]
    _run(lookups)
    problems = [one.problem for one in lookups if one.problem]
    if problems:
        raise ResolveError("\n".join(problems))
    return Resolved(
        {address: one.places for address, one in bind.items()},
        {address: one.places for address, one in connect.items()},
    )


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

    def work() -> None:
        with suppress(Empty):
            while True:
                one = todo.get_nowait()
                try:
                    one.run()
                except BaseException as error:  # a mistake of ours, for the waiting thread
                    done.put(error)
                else:
                    done.put(None)

    for _ in range(min(_THREADS, len(names))):
        threading.Thread(target=work, name="lookup", daemon=True).start()
    for _ in names:
        error = done.get()
        if error is not None:
            raise error


def _explain(host: str, error: OSError | UnicodeError) -> str:
    if not isinstance(error, OSError):
        return "not a host name; a label of it is empty or has more than 63 characters"
    if error.errno == socket.EAI_AGAIN:
        return (
            f"{error.strerror}; the DNS servers in /etc/resolv.conf do not answer: "
            "is the network up? (a systemd unit waits for it with After=network-online.target)"
        )
    return f"{error.strerror}; check its spelling: `getent ahosts {host}` must find it"
