"""What the addresses of a configuration stand for, from the start on and as it changes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spliceproxy.control.addresses import Place, resolve
from spliceproxy.control.discovery.found import (
    Found,
    FoundAt,
    found_at_once,
    is_place,
    source_domain,
    within,
)
from spliceproxy.control.discovery.hosts import HOSTS
from spliceproxy.control.discovery.lists import ListFile
from spliceproxy.control.discovery.lookup import DEFAULT_PACE, Ask, Known, Lookup, Pace
from spliceproxy.control.discovery.resolver import RESOLV_CONF, Resolver, Service
from spliceproxy.control.discovery.services import ranked
from spliceproxy.control.discovery.watch import Watcher
from spliceproxy.control.parts import InForce

if TYPE_CHECKING:
    from spliceproxy.config import Address, Config, Dns

_Key = tuple[str, str]
"""What is asked for: `host` or `srv`, and the name."""


class Discovery:
    """Finds upstreams. A `Part`; needs a running loop from `prepare` on.

    The addresses of the configuration lead to names and files, those to further names, and so on.
    Whenever one of them stands for something else, all is put together anew; what is the result is
    `found`, and `changed` says that it is another one. While the reply to a new name is under way,
    an address keeps what it stood for too; and where new names that fail would leave it with
    nothing, it keeps that as well.
    """

    def __init__(
        self,
        *,
        hosts: Path = HOSTS,
        resolv_conf: Path = RESOLV_CONF,
        port: int = 53,
        pace: Pace = DEFAULT_PACE,
    ) -> None:
        """`port` is that of the servers of `resolv_conf`."""
        self._make_resolver = partial(Resolver, hosts=hosts, resolv_conf=resolv_conf, port=port)
        self._system = (hosts, resolv_conf)
        self._pace = pace
        self._dns: Dns | None = None
        self._resolver: Resolver | None = None
        self._roots: list[Address] = []
        """The addresses of the configuration that have to be found."""
        self._found: dict[Address, tuple[Found, ...]] = {}
        self._lists: dict[str, ListFile] = {}
        self._lookups: dict[_Key, Lookup] = {}
        self._known: dict[_Key, Known] = {}
        """What another process knew of names that this one has not asked for yet."""
        self._known_lists: dict[str, list[Any]] = {}
        """The same of lists that this one has not read yet."""
        self._names: dict[Address, set[_Key]] = {}
        """The names that lead from an address to its upstreams."""
        self._watcher: Watcher | None = None
        self._loading = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._update_soon: asyncio.TimerHandle | None = None
        self._settled = asyncio.Event()
        """Set while there was a reply for every name."""
        self.changed = asyncio.Event()
        """Set when `found` became another one; whoever follows clears it."""

    def found(self, config: Config) -> FoundAt:
        """What the addresses of `config` stand for, as far as it is known now. Never blocks.

        Raises ResolveError.
        """
        return {
            address: found_at_once(address) if is_place(address) else self._found.get(address, ())
            for address in _addresses(config)
        }

    def ttl(self, addresses: Iterable[Address]) -> float | None:
        """The seconds after which one of the names behind `addresses` is asked for again, at the
        earliest; None: there is no name."""
        names = (name for address in addresses for name in self._names.get(address, ()))
        return min(
            (self._lookups[name].ttl for name in names if name in self._lookups), default=None
        )

    async def prepare(self, config: Config) -> None:
        """Look for what `config` names and was not looked for yet; what is known stays.

        Waits for the first answers, but not for long; the others come later. To be followed by
        `apply`, of this configuration or of the one before.
        """
        new = self._follow(config, [*self._roots, *_to_find(config)])
        if new:
            await asyncio.wait([self._spawn(self._load(new))], timeout=self._pace.lists)
        self._update()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pace.first_answers):
                await self._settled.wait()

    def apply(self, in_force: InForce) -> None:
        """Look for the upstreams of this configuration, and for no others any more."""
        self._follow(in_force.config, _to_find(in_force.config))
        self._update()

    def knowledge(self) -> list[list[Any]]:
        """The last good answers and lists: DNS may fail, and a file may be broken, just when
        another process takes over."""
        lists = [["file", path, one.known()] for path, one in self._lists.items()]
        return lists + [
            [kind, name, [[_as_json(value) for value in values] for values in lookup.known()]]
            for (kind, name), lookup in self._lookups.items()
        ]

    def learn(self, knowledge: list[list[Any]]) -> None:
        """Have these hold for names that were not asked for, and lists that were not read yet."""
        for kind, name, families in knowledge:
            if kind == "file":
                self._known_lists[name] = families
                continue
            self._known[kind, name] = [
                tuple(values) if kind == "host" else tuple(Service(**one) for one in values)
                for values in families
            ]

    async def close(self) -> None:
        """End all questions, and watch no file any more."""
        if self._update_soon is not None:
            self._update_soon.cancel()
        if self._watcher is not None:
            await self._watcher.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(one.close() for one in self._lookups.values()))

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Have something done that nobody need wait for."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _follow(self, config: Config, roots: Iterable[Address]) -> list[ListFile]:
        """Have these addresses to find; returns the lists that were not read yet."""
        self._roots = list(dict.fromkeys(roots))
        if self._resolver is None or config.dns != self._dns:
            self._dns = config.dns
            self._resolver = self._make_resolver(config.dns)
            for (kind, name), lookup in self._lookups.items():
                lookup.ask, lookup.dns = self._ask(kind, name), config.dns
                lookup.ask_again()
        before, self._lists = self._lists, {}
        for path in (one.file for one in self._roots if one.file):
            self._lists[path] = before.get(path) or self._list(path)
        if self._watcher is None and self._roots:
            self._watcher = Watcher(self._files, self._on_files, gather=self._pace.gather)
        return [one for path, one in self._lists.items() if path not in before]

    def _list(self, path: str) -> ListFile:
        return ListFile(Path(path), self._known_lists.pop(path, ()))

    def _files(self) -> list[Path]:
        """The files that say something about upstreams now."""
        lists = [one.path for one in self._lists.values()]
        return [*lists, *self._system] if self._lookups else lists

    async def _on_files(self, changed: Set[Path]) -> None:
        if not changed.isdisjoint(self._system):
            for lookup in self._lookups.values():
                lookup.ask_again()
        await self._load([one for one in self._lists.values() if one.path in changed])

    async def _load(self, lists: Iterable[ListFile]) -> None:
        async with self._loading:
            for one in lists:
                if self._watcher is not None:
                    self._watcher.note(one.path)
                await one.load()
        self._on_news()
        if self._watcher is not None:
            self._watcher.stir()

    def _on_news(self) -> None:
        """Put things together anew, once for all that changes in the same moment."""
        if self._update_soon is None:
            loop = asyncio.get_running_loop()
            self._update_soon = loop.call_later(self._pace.gather, self._update)

    def _update(self) -> None:
        """Find out what each address stands for, ask for what is missing, and for nothing else."""
        if self._update_soon is not None:
            self._update_soon.cancel()
            self._update_soon = None
        found, self._names = {}, {}
        for root in self._roots:
            names = self._names[root] = set()
            places = tuple(self._expand(root, names))
            lookups = [self._lookups.get(name) for name in names]
            if not all(one is not None and one.tried for one in lookups):
                places = _both(places, self._found.get(root, ()))
            elif not places and not all(one is not None and one.answered for one in lookups):
                places = self._found.get(root, ())
            found[root] = places
        wanted = set().union(*self._names.values())
        for key in wanted - self._lookups.keys():
            self._lookups[key] = self._look_up(*key)
        for key in self._lookups.keys() - wanted:
            self._spawn(self._lookups.pop(key).close())
        if found != self._found:
            self._found = found
            self.changed.set()
        if all(lookup.tried for lookup in self._lookups.values()):
            self._settled.set()
        else:
            self._settled.clear()

    def _look_up(self, kind: str, name: str) -> Lookup:
        assert self._dns is not None
        known = self._known.pop((kind, name), ())
        return Lookup(name, self._ask(kind, name), self._dns, self._pace, self._on_news, known)

    def _ask(self, kind: str, name: str) -> Ask:
        assert self._resolver is not None
        return partial(self._resolver.srv if kind == "srv" else self._resolver.host, name)

    def _expand(self, address: Address, names: set[_Key]) -> Iterator[Found]:
        """What `address` stands for; the names that lead there are added to `names`."""
        if address.file:
            listed = self._lists[address.file]
            yield from listed.places
            for one in listed.others:
                yield from within(one, self._expand(one.address, names))
        elif address.srv:
            services, source = self._values("srv", address.srv, names), source_domain(address.srv)
            for service, tier in ranked([one for one in services if isinstance(one, Service)]):
                for place in self._places(service.target, service.port, names):
                    yield Found(place, service.weight, tier, server_name=source)
        else:
            name = address.host.rstrip(".")
            for place in self._places(address.host, address.port, names):
                yield Found(place, server_name=name)

    def _places(self, host: str, port: int, names: set[_Key]) -> Iterator[Place]:
        for ip in self._values("host", host, names):
            with suppress(OSError):  # of an interface that is not there, in the hosts file
                yield from resolve(str(ip), port)

    def _values(self, kind: str, name: str, names: set[_Key]) -> Sequence[str | Service]:
        names.add((kind, name))
        lookup = self._lookups.get((kind, name))
        return () if lookup is None else lookup.values()


def _as_json(value: str | Service) -> object:
    return value if isinstance(value, str) else asdict(value)


def _addresses(config: Config) -> Iterator[Address]:
    for pool in config.pools.values():
        for upstream in pool.upstreams:
            yield upstream.address


def _both(places: tuple[Found, ...], before: tuple[Found, ...]) -> tuple[Found, ...]:
    known = {one.place for one in places}
    return (*places, *(one for one in before if one.place not in known))


def _to_find(config: Config) -> list[Address]:
    return [address for address in _addresses(config) if not is_place(address)]
