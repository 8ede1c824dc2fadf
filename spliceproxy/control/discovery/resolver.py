"""One question to DNS at a time, answered by the hosts file or by the servers, once.

What is asked again, and when, and what an answer means for a pool, is decided in `lookup`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from spliceproxy.control.discovery.hosts import HOSTS, Fresh, read_hosts
from spliceproxy.control.machine import has_ipv6

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver as Stub
    from dns.resolver import Answer, NoNameservers

    from spliceproxy.config import Dns

RESOLV_CONF = Path("/etc/resolv.conf")

_AT_ONCE = 64
"""Questions under way at the same time."""
_LONGEST = 30.0
"""Seconds that one question may take, over all servers and attempts."""
_PATIENCE = 1.0
"""Seconds that an answer of one family waits for that of the other."""
_TIMEOUT, _ATTEMPTS = 2.0, 3
"""Seconds that a server has for its answer, and how often it is asked."""
_SYSTEM_TIMEOUT, _SYSTEM_ATTEMPTS = 5.0, 2
"""The same where resolv.conf does not say; resolv.conf(5)."""


@dataclass(frozen=True, slots=True, order=True)
class Service:
    """One SRV record (RFC 2782)."""

    priority: int
    weight: int
    port: int
    target: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one question."""

    values: tuple[str, ...] | tuple[Service, ...] = ()
    """IP addresses or services, sorted. None of them: there is nothing of that name."""
    ttl: float = 0.0
    """Seconds for which they are true; without end for what stands in the hosts file."""
    problem: str = ""
    """Why there is no answer; empty: there is one."""
    late: bool = False
    """The problem is silence."""


class Resolver:
    """Asks as resolv.conf(5) and `dns` of the configuration say."""

    def __init__(
        self, dns: Dns, *, hosts: Path = HOSTS, resolv_conf: Path = RESOLV_CONF, port: int = 53
    ) -> None:
        """`port` is that of the servers of resolv.conf."""
        self._dns = dns
        self._port = port
        self._hosts = Fresh(hosts, read_hosts)
        self._stub = Fresh(resolv_conf, self._make_stub)
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._answered: dict[tuple[str, str], str] = {}
        """(name, kind) → the full name that had an answer last time."""

    async def host(self, name: str) -> Sequence[Reply]:
        """The IPv4 and the IPv6 addresses of a host name; only IPv4 where the kernel has no other.

        The hosts file comes first. Of the names that the search list makes, the first that has any
        address is the one.
        """
        kinds = ("A", "AAAA") if has_ipv6() else ("A",)
        known = self._hosts.get().get(name.rstrip("."))
        if known:
            families = ([ip for ip in known if ":" not in ip], [ip for ip in known if ":" in ip])
            return [Reply(tuple(sorted(ips)), inf) for ips in families][: len(kinds)]
        return await self._search(name, kinds)

    async def srv(self, name: str) -> Sequence[Reply]:
        """The SRV records of a name: one reply."""
        return await self._search(name, ("SRV",))

    async def _search(self, name: str, kinds: Sequence[str]) -> Sequence[Reply]:
        """Ask for the names that the search list makes, until one of them has what is wanted.

        Where a server fails for one of them, the next one may still be known (resolver(5) does the
        same), but nobody takes the place of the one that had the answer last time. Silence is not
        waited for twice.
        """
        try:
            stub, lifetime = self._stub.get()
        except (OSError, ValueError) as error:
            return [Reply(problem=str(error)) for _ in kinds]
        key = name, kinds[0]
        failed: Sequence[Reply] = ()
        replies: Sequence[Reply] = ()
        for candidate in _candidates(name, stub):
            replies = await self._ask_all(stub, candidate, kinds, lifetime)
            if any(reply.values for reply in replies):
                self._answered[key] = candidate
                return replies
            if any(reply.problem for reply in replies):
                silent = any(reply.late for reply in replies)
                if silent or self._answered.get(key) == candidate:
                    return replies
                failed = failed or replies
        return failed or replies

    async def _ask_all(
        self, stub: Stub, name: str, kinds: Sequence[str], lifetime: float
    ) -> Sequence[Reply]:
        """One reply for each of `kinds`. Who has an answer waits only a little for the others: some
        servers never say anything of IPv6."""
        tasks = [asyncio.create_task(self._ask(stub, name, kind, lifetime)) for kind in kinds]
        try:
            left: set[asyncio.Task[Reply]] = set(tasks)
            while left:
                answered = any(task.done() and task.result().values for task in tasks)
                _done, left = await asyncio.wait(
                    left,
                    timeout=_PATIENCE if answered else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if answered and not _done:
                    break
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        silence = Reply(
            problem=f"no answer within {_PATIENCE:g} s of the other family's", late=True
        )
        return [silence if task.cancelled() else task.result() for task in tasks]

    async def _ask(self, stub: Stub, name: str, kind: str, lifetime: float) -> Reply:
        from dns.exception import DNSException, Timeout
        from dns.name import NameTooLong
        from dns.resolver import NXDOMAIN, NoNameservers

        async with self._room:
            try:
                answer = await stub.resolve(
                    name, kind, search=False, raise_on_no_answer=False, lifetime=lifetime
                )
            except (NXDOMAIN, NameTooLong):
                return Reply()
            except NoNameservers as error:
                return Reply(problem=_explain(error))
            except Timeout:
                return Reply(problem=f"no answer within {lifetime:g} s", late=True)
            except (DNSException, OSError) as error:
                return Reply(problem=str(error) or type(error).__name__)
        return _reply(answer, kind)

    def _make_stub(self, resolv_conf: Path) -> tuple[Stub, float]:
        """What asks, and the seconds that it may take. Raises OSError, ValueError."""
        import dns.name
        from dns.asyncresolver import Resolver as Stub
        from dns.nameserver import Do53Nameserver

        stub = Stub(configure=False)
        stub.timeout, attempts = _TIMEOUT, _ATTEMPTS
        system: Sequence[str] = ()
        if None in self._dns.servers:
            system, attempts = _read_system(stub, resolv_conf)
        else:
            stub.search, stub.domain = [], dns.name.root
        servers: list[Do53Nameserver] = []
        for address in self._dns.servers:
            if address is None:
                servers += [Do53Nameserver(server, self._port) for server in system]
            else:
                servers.append(Do53Nameserver(address.host, address.port))
        stub.nameservers = servers
        return stub, min(_LONGEST, stub.timeout * attempts * len(servers))


def _read_system(stub: Stub, path: Path) -> tuple[Sequence[str], int]:
    """Have `stub` obey resolv.conf; returns the servers, and how often each is to be asked.

    Raises OSError, ValueError.
    """
    from dns.resolver import NoResolverConfiguration

    stub.timeout = _SYSTEM_TIMEOUT
    try:
        stub.read_resolv_conf(str(path))
    except NoResolverConfiguration:  # resolv.conf(5): the server is on this machine then
        return ["127.0.0.1"], _SYSTEM_ATTEMPTS
    except (ValueError, UnicodeError) as error:
        raise ValueError(f"{path}: {error}") from None
    # The one option that dnspython does not read.
    found = re.findall(r"^options\b.*\battempts:(\d+)", path.read_text(), re.MULTILINE)
    attempts = max(1, int(found[-1])) if found else _SYSTEM_ATTEMPTS
    return [str(server) for server in stub.nameservers], attempts


def _candidates(name: str, stub: Stub) -> list[str]:
    """The full names that `name` may be, in the order in which they are tried; resolv.conf(5)."""
    full = f"{name.rstrip('.')}."
    if name.endswith("."):
        return [full]
    domains = stub.search or ([] if stub.domain is None else [stub.domain])
    longer = [full if len(one) < 2 else f"{full}{one.to_text()}" for one in domains]
    dots = 1 if stub.ndots is None else stub.ndots
    ordered = [full, *longer] if name.count(".") >= dots else [*longer, full]
    return list(dict.fromkeys(ordered))


def _reply(answer: Answer, kind: str) -> Reply:
    if answer.rrset is None:
        return Reply()
    ttl = float(answer.chaining_result.minimum_ttl)
    if kind == "SRV":
        services = [
            Service(one.priority, one.weight, one.port, one.target.to_text().lower())
            for one in answer.rrset
        ]
        # RFC 2782: a target of "." says that there is no such service here.
        return Reply(tuple(sorted(one for one in services if one.target != ".")), ttl)
    return Reply(tuple(sorted(one.address for one in answer.rrset)), ttl)


def _explain(error: NoNameservers) -> str:
    """Which server said what."""
    from dns import rcode

    said = [
        f"{server} answered {rcode.to_text(response.rcode())}" if response else f"{server}: {what}"
        for server, _tcp, _port, what, response in error.kwargs.get("errors", ())
    ]
    return ", ".join(dict.fromkeys(said)) or "no server is left to ask"
